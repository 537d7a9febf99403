"""A real Kubernetes cluster: the control plane on this machine, with lab VMs and namespaces as nodes."""
