"""What the man pages say that no command declares: exit statuses, variables, files, related pages.

A new command needs nothing here: its page has what is common to all.
"""

from __future__ import annotations

from typing import NamedTuple

STATUS = {
    "0": "Success.",
    "1": "An error. The message is on standard error.",
    "2": "The command line is wrong. Nothing was done.",
}
COMMAND_STATUS = {
    "wirespeed check": {"1": "There are errors, or with `--strict` warnings; or the files could not be checked."},
    "wirespeed cni": {"1": "The call failed. Standard output is the error object of the CNI specification."},
    "wirespeed doctor": {"1": "There is a finding of severity error, or the node could not be checked."},
    "kubectl wirespeed doctor": {"1": "There is a finding of severity error, or a node could not be checked."},
    "wirespeed deviceplugin": {"130, 143": "A second SIGINT or SIGTERM ended it before it was done."},
    "wirespeed ready": {"1": "A port is not up. The reason is on standard error."},
    "wirespeed play": {
        "1": "A pod failed, or something that the play created could not be removed.",
        "124": "The time of `--timeout` was over.",
        "130, 143": "SIGINT or SIGTERM stopped pods that end by themselves, before they ended.",
    },
}

ENVIRONMENT = {
    "WIRESPEED_CONFIG": "The agent's configuration file, if no option `--config` names one.",
    "NODE_NAME": "The name of this node, if the key `nodeName` of the configuration is not set.",
    "NOTIFY_SOCKET": "The socket at which systemd is told that the agent is ready. systemd sets it.",
    "CNI_COMMAND": "The verb of the call: ADD, DEL, CHECK, GC, STATUS or VERSION.",
    "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS, CNI_PATH": "The other parameters of the call, as the CNI "
    "specification defines them.",
    "NO_COLOR": "If it is set and not empty, output on a terminal has no colours. Output that is not on a terminal "
    "never has.",
    "TERM": "With the value `dumb`, nothing is drawn that moves the cursor.",
    "COLUMNS": "The width of tables, if the output is on a terminal.",
    "KUBECONFIG": "The kubeconfig files, separated by colons, if no option `--kubeconfig` names one. Without both, "
    "it is ~/.kube/config.",
    "PCIDEVICE_*": "The PCI addresses that the kubelet allocated to the container, by resource.",
    "POD_NAME, CONTAINER_NAME": "The names of the pod and of the container, from the Downward API: for the prefix "
    "of hugepage files.",
    "RUNTIME_DIRECTORY, XDG_RUNTIME_DIR": "Where DPDK's sockets are, as DPDK itself looks for them.",
}
_SCREEN = ("NO_COLOR", "TERM", "COLUMNS")
COMMAND_ENVIRONMENT = {
    "wirespeed agent": ("NODE_NAME", "NOTIFY_SOCKET"),
    "wirespeed cni": ("CNI_COMMAND", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS, CNI_PATH", "NODE_NAME"),
    "wirespeed deviceplugin": ("NODE_NAME",),
    "wirespeed eal": ("PCIDEVICE_*", "POD_NAME, CONTAINER_NAME"),
    "wirespeed play": _SCREEN,
    "wirespeed ready": ("RUNTIME_DIRECTORY, XDG_RUNTIME_DIR",),
    "wirespeed vf list": _SCREEN,
    **{
        f"kubectl wirespeed{command}": ("KUBECONFIG",)
        for command in ("", " status", " topology", " top", " doctor", " why", " measure")
    },
}
SHIM_ENVIRONMENT = {
    "WIRESPEED_SOCKET": "In the runtime's environment: the agent's socket, if it is not the default.",
    "WIRESPEED_WAIT_MS": "In the runtime's environment: how many milliseconds the shim waits for an agent.",
}

# Files and directories by the key of the agent's configuration whose default they are.
CONFIGURED_FILES = {
    "socket": "The agent's socket.",
    "state": "The journal: what was changed for each attachment, so that it can be undone.",
    "attachments": "The records, one file for each container.",
    "leases": "The addresses that host-local has leased.",
    "devinfo": "The device-info files.",
    "kubelet": "The kubelet's directory, with `pod-resources` and `device-plugins`.",
    "cdiDir": "The CDI specifications.",
}
COMMAND_FILES = {
    "wirespeed": tuple(CONFIGURED_FILES),
    "wirespeed agent": tuple(CONFIGURED_FILES),
    "wirespeed attach": ("socket", "state"),
    "wirespeed cni": ("state", "attachments", "leases"),
    "wirespeed detach": ("socket", "state"),
    "wirespeed deviceplugin": ("kubelet", "devinfo", "cdiDir"),
}

SEE_ALSO = {
    "wirespeed attach": ("wirespeed detach",),
    "wirespeed detach": ("wirespeed attach",),
    "wirespeed check": ("wirespeed play", "wirespeed vf apply"),
    "wirespeed status": ("wirespeed why", "wirespeed topology", "wirespeed doctor"),
    "wirespeed why": ("wirespeed status", "wirespeed doctor", "wirespeed check"),
    "wirespeed topology": ("wirespeed top", "wirespeed vf list"),
    "wirespeed top": ("wirespeed topology", "wirespeed measure"),
    "wirespeed doctor": ("wirespeed status", "wirespeed why", "wirespeed measure"),
    "wirespeed measure": ("wirespeed top", "wirespeed doctor", "kubectl wirespeed measure"),
    "wirespeed eal": ("wirespeed ready",),
    "wirespeed ready": ("wirespeed eal",),
    "wirespeed install": ("wirespeed uninstall", "wirespeed agent"),
    "wirespeed play": ("wirespeed check",),
    "wirespeed uninstall": ("wirespeed install", "wirespeed uninstall-nodes"),
    "wirespeed uninstall-nodes": ("wirespeed uninstall",),
    "wirespeed vf apply": ("wirespeed check",),
    **{
        f"kubectl wirespeed {command}": (f"wirespeed {command}",)
        for command in ("status", "topology", "top", "doctor", "why", "measure")
    },
}


class Configuration(NamedTuple):
    """The parts of wirespeed-agent.yaml(5) that are written by hand."""

    description: str
    example_text: str
    example: str


AGENT_YAML = Configuration(
    description="""\
The configuration file of the node agent, in YAML or JSON. Without the file, every key has its default.

Keys with a dot in their names are keys of an object: `cluster.kubeconfig` is the key `kubeconfig` of the object
`cluster`. An unknown key, or a value of a wrong type, is an error, and the agent does not start. `wirespeed check`
finds it before; `wirespeed check --schema agent` prints the JSON Schema for editors.
""",
    example_text="A node that reads from the API server, runs the device plugin, and writes the runtime's CNI "
    "configuration:",
    example="""\
cluster:
  kubeconfig: /etc/wirespeed/kubeconfig
devicePlugin: /etc/wirespeed/pools.json
autoconf:
  cniVersion: 1.0.0
followNetworks: true
metrics: 127.0.0.1:9808
""",
)
