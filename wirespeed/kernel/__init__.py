"""The kernel's network objects: interfaces, network namespaces, routes, sysfs and uevents."""
