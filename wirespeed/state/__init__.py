"""The journal and the records: which attachments exist, and which of them owns which device."""
