"""What a node looks like to a person: views computed from the journal, sysfs, netlink and the switches.

Each view is a function that returns a typed struct, and a module that renders the struct. Nothing here prints.
"""
