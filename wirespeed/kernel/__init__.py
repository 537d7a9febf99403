"""The kernel's network objects: interfaces, network namespaces, routes; and what sysfs and uevents tell."""
