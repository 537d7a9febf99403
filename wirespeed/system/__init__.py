"""Files and processes of the node: atomic writing, locks, notification of changes, signals."""
