"""A Kubernetes of the real programs: the control plane on this machine, and lab VMs and namespaces as its nodes."""
