"""Container images from Debian packages: OCI archives, without a base image and without a container engine."""
