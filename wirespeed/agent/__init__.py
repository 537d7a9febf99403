"""The node agent: the long-lived process that serves CNI calls and the device plugin."""
