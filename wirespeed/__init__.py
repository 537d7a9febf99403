"""What the plugins, the device plugin and the agent share."""

__version__ = "0.1.0"
