"""Creates the VFs that an administrator or a node policy requests."""
