"""The CNI plugins of the suite: meta, sriov, vhost."""
