"""Makes the virtual functions that an administrator or a node policy asks for."""
