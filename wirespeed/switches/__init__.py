"""Virtual switches on the node."""
