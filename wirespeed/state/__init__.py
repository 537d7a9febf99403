"""The journal: which attachments there are, and which device belongs to which."""
