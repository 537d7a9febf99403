"""Taking over pods and settings from the tools that wirespeed replaces: Multus, sriov-cni and userspace-CNI.

`multus` reads and translates Multus' configurations. `multus_cache` and `sriov_cni` read what Multus and sriov-cni
keep of their pods. `caches` writes it into the journal, and gives it back at an uninstallation. `record` notes on
the node which tools are replaced. The installation (`wirespeed.agent.install`) and the agent
(`wirespeed.agent.names`) decide when this is done.

Ports of userspace-CNI cannot be taken over in advance, because its files have only a part of the container's id.
The vhost-user plugin reads them when their DEL comes (`wirespeed.plugins.vhost.takeover`).
"""
