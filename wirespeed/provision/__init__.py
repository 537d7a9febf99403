"""Creates the virtual functions that an administrator or a node policy requests."""
