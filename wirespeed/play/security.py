"""A container's rights: the securityContext of pod and container, resolved as kubelet and containerd do."""

from __future__ import annotations

import difflib
import grp
import pwd
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

# In the order of their numbers in linux/capability.h.
CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
# containerd's default capabilities (defaultUnixCaps in its package oci).
DEFAULT = frozenset(
    {
        *(
            "CHOWN",
            "DAC_OVERRIDE",
            "FSETID",
            "FOWNER",
            "MKNOD",
            "NET_RAW",
            "SETGID",
            "SETUID",
            "SETFCAP",
            "SETPCAP",
        ),
        *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    }
)
# Bytes. containerd and its unit set no limit, so a container gets the kernel's default since Linux 5.16.
_MEMLOCK = 8 << 20
_ALL = "ALL"
_HIGHEST_ID = (1 << 31) - 1


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A part of a pod. An unknown key is an error, as in Kubernetes."""


class Capabilities(_Part):
    add: list[str] | None = None
    drop: list[str] | None = None


class _Unenforced(_Part):
    """Keys of pods and containers that have no effect here."""

    app_armor_profile: Any = None
    se_linux_options: Any = None
    seccomp_profile: Any = None
    windows_options: Any = None


class SecurityContext(_Unenforced):
    """A container's securityContext."""

    capabilities: Capabilities | None = None
    privileged: bool | None = None
    allow_privilege_escalation: bool | None = None
    read_only_root_filesystem: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    proc_mount: str | None = None  # without effect


class PodSecurityContext(_Unenforced):
    """A pod's securityContext."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: list[int] | None = None
    supplemental_groups_policy: str | None = None
    fs_group: int | None = None
    # Without effect.
    fs_group_change_policy: str | None = None  # without effect because volumes are created anew for each pod
    se_linux_change_policy: str | None = None
    sysctls: Any = None


@dataclass(frozen=True, kw_only=True)
class Rights:
    """The rights of a container's processes.

    `capabilities` are the bounding, permitted and effective set; the kernel clears the latter two for a user other
    than root. `memlock` is in bytes.
    """

    user: int
    group: int
    groups: tuple[int, ...]
    home: str
    capabilities: frozenset[str]
    no_new_privileges: bool
    privileged: bool
    read_only_root: bool
    memlock: int

    def to_json(self) -> dict[str, Any]:
        """Return the rights in the format of `wirespeed.play.launcher`."""
        return {
            "user": self.user,
            "group": self.group,
            "groups": list(self.groups),
            "capabilities": sorted(CAPABILITIES.index(name) for name in self.capabilities),
            "noNewPrivileges": self.no_new_privileges,
            "privileged": self.privileged,
            "readOnlyRoot": self.read_only_root,
            "memlock": self.memlock,
        }


def rights(pod: PodSecurityContext | None, container: SecurityContext | None) -> Rights:
    """Return a container's rights. The defaults of its groups and home are from this machine's user database."""
    pod, container = pod or PodSecurityContext(), container or SecurityContext()
    user = next((each for each in (container.run_as_user, pod.run_as_user) if each is not None), 0)
    group = next((each for each in (container.run_as_group, pod.run_as_group) if each is not None), None)
    listed, home = _account(user)
    group = listed if group is None else group
    extra = [*(pod.supplemental_groups or ()), *([] if pod.fs_group is None else [pod.fs_group])]
    merged = [] if pod.supplemental_groups_policy == "Strict" else _memberships(user)
    return Rights(
        user=user,
        group=group,
        groups=tuple(dict.fromkeys([group, *merged, *extra])),
        home=home,
        capabilities=capabilities(container, own()),
        no_new_privileges=container.allow_privilege_escalation is False,
        privileged=bool(container.privileged),
        read_only_root=bool(container.read_only_root_filesystem),
        memlock=_memlock(),
    )


def capabilities(context: SecurityContext, every: frozenset[str]) -> frozenset[str]:
    """Return a container's capabilities; `every` is what the runtime itself has.

    As in containerd, ALL is applied before single names, and drop wins over add. Unknown names are ignored. So are
    names that begin with CAP_: the runtime adds that prefix itself.
    """
    if context.privileged:
        return every
    asked = context.capabilities or Capabilities()
    add = [name.upper() for name in asked.add or ()]
    drop = [name.upper() for name in asked.drop or ()]
    found = every if _ALL in add else DEFAULT
    found = frozenset() if _ALL in drop else found
    return (found | {name for name in add if name in CAPABILITIES}) - {*drop}


def own() -> frozenset[str]:
    """Return the capabilities of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)
    return frozenset(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def refusal(pod: PodSecurityContext | None, container: SecurityContext | None) -> str:
    """Return why the API server or the kubelet would reject the container; "" if they would not."""
    pod, container = pod or PodSecurityContext(), container or SecurityContext()
    for context in (pod, container):
        for key, number in (("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)):
            if problem := _id_refusal(number):
                return f"{key}: {problem}"
    for number in (pod.fs_group, *(pod.supplemental_groups or ())):
        if problem := _id_refusal(number):
            return f"fsGroup and supplementalGroups: {problem}"
    if container.allow_privilege_escalation is False:
        if container.privileged:
            return "allowPrivilegeEscalation: expected true or none beside privileged: true"
        if "CAP_SYS_ADMIN" in ((container.capabilities or Capabilities()).add or ()):
            return "allowPrivilegeEscalation: expected true or none beside the capability CAP_SYS_ADMIN"
    wanted, user = _non_root(pod, container)
    return "runAsNonRoot: expected a runAsUser other than 0, got 0" if wanted and user == 0 else ""


def image_refusal(pod: PodSecurityContext | None, container: SecurityContext | None) -> str:
    """Return why the container cannot run without an image, whose user would be used; "" if it can."""
    wanted, user = _non_root(pod or PodSecurityContext(), container or SecurityContext())
    return "runAsNonRoot: expected a runAsUser other than 0, got none" if wanted and user is None else ""


def _non_root(pod: PodSecurityContext, container: SecurityContext) -> tuple[bool | None, int | None]:
    """Return whether the user must not be root, and the user id; None if the image would define it."""
    return (
        pod.run_as_non_root if container.run_as_non_root is None else container.run_as_non_root,
        pod.run_as_user if container.run_as_user is None else container.run_as_user,
    )


def _id_refusal(number: int | None) -> str:
    return "" if number is None or 0 <= number <= _HIGHEST_ID else f"expected 0 to {_HIGHEST_ID}, got {number}"


def unenforced(context: PodSecurityContext | SecurityContext | None) -> Iterator[str]:
    """Yield the keys of a securityContext that have no effect here."""
    if context is None:
        return
    keys = ("app_armor_profile", "se_linux_options", "seccomp_profile", "windows_options", "proc_mount", "sysctls")
    names = {each.name: each.encode_name for each in msgspec.structs.fields(context)}
    for key in keys:
        value = getattr(context, key, None)
        if value and value not in ("Default", {"type": "Unconfined"}):
            yield names[key]


def unknown_capabilities(context: SecurityContext | None) -> Iterator[str]:
    """Yield a line for each capability that the runtime ignores because its name is unknown."""
    asked = (context and context.capabilities) or Capabilities()
    for name in [*(asked.add or ()), *(asked.drop or ())]:
        if name.upper() in (*CAPABILITIES, _ALL):
            continue
        bare = name.upper().removeprefix("CAP_")
        near = [bare] if bare in CAPABILITIES else difflib.get_close_matches(bare, CAPABILITIES, 1)
        yield f"capability {name} is not known and has no effect" + (f": the nearest is {near[0]}" if near else "")


def lacking(context: SecurityContext | None) -> Sequence[str]:
    """Return the capabilities that a container adds but this process does not have."""
    wanted = capabilities(context or SecurityContext(), own()) - DEFAULT
    return sorted(wanted - own())


def _memlock() -> int:
    """Return the memlock limit in bytes: this process's hard limit if lower, which it may be unable to raise."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return _MEMLOCK if hard == resource.RLIM_INFINITY else min(_MEMLOCK, hard)


def _account(user: int) -> tuple[int, str]:
    """Return a user's group and home directory from /etc/passwd."""
    try:
        found = pwd.getpwuid(user)
    except KeyError:
        return 0, "/"
    return found.pw_gid, found.pw_dir or "/"


def _memberships(user: int) -> list[int]:
    """Return a user's supplementary groups from /etc/group."""
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        return []
    return sorted(each.gr_gid for each in grp.getgrall() if name in each.gr_mem)
