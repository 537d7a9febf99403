"""A container's rights: the securityContext of pod and container, resolved as kubelet and containerd do."""

from __future__ import annotations

import grp
import pwd
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from wirespeed import structs
from wirespeed.errors import Error, Kind
from wirespeed.keys import did_you_mean, similar
from wirespeed.play.objects import Capabilities, PodSecurityContext, SecurityContext

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
    (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP"),
        *("SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)
# Bytes. containerd and its unit set no limit, so a container gets the kernel's default since Linux 5.16.
_MEMLOCK = 8 << 20
_ALL = "ALL"
_HIGHEST_ID = (1 << 31) - 1


@structs.prepared
class Rights(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The rights of a container's processes.

    `capabilities` are the bounding, permitted and effective set, as numbers; the kernel clears the latter two for a
    user other than root. `memlock` is in bytes.
    """

    user: int
    group: int
    groups: tuple[int, ...]
    home: str
    capabilities: list[int]
    no_new_privileges: bool
    privileged: bool
    read_only_root: bool
    memlock: int


def rights(pod: PodSecurityContext | None, container: SecurityContext | None) -> Rights:
    """Return a container's rights. The defaults of its groups and home are from this machine's user database."""
    pod, container = pod or PodSecurityContext(), container or SecurityContext()
    user = next((each for each in (container.run_as_user, pod.run_as_user) if each is not None), 0)
    listed, memberships, home = _account(user)
    group = next((each for each in (container.run_as_group, pod.run_as_group) if each is not None), listed)
    extra = [*(pod.supplemental_groups or ()), *([] if pod.fs_group is None else [pod.fs_group])]
    merged = [] if pod.supplemental_groups_policy == "Strict" else memberships
    return Rights(
        user=user,
        group=group,
        groups=tuple(dict.fromkeys([group, *merged, *extra])),
        home=home,
        capabilities=sorted(map(CAPABILITIES.index, capabilities(container, own_capabilities()))),
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


def own_capabilities() -> frozenset[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)
    return frozenset(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def check(pod: PodSecurityContext | None, container: SecurityContext | None) -> None:
    """Raise Error(INVALID_CONFIG) if the API server or the kubelet would reject the container."""
    pod, container = pod or PodSecurityContext(), container or SecurityContext()
    users = [("runAsUser", each.run_as_user) for each in (pod, container)]
    groups = [("runAsGroup", each.run_as_group) for each in (pod, container)]
    groups += [("fsGroup", pod.fs_group), *(("supplementalGroups", each) for each in pod.supplemental_groups or ())]
    for key, number in (*users, *groups):
        if number is not None and not 0 <= number <= _HIGHEST_ID:
            raise Error(Kind.INVALID_CONFIG, key=key, expected=f"0 to {_HIGHEST_ID}", got=number)
    if container.allow_privilege_escalation is False:
        if container.privileged:
            raise _wrong("allowPrivilegeEscalation", "true or nothing beside privileged: true")
        if "CAP_SYS_ADMIN" in ((container.capabilities or Capabilities()).add or ()):
            raise _wrong("allowPrivilegeEscalation", "true or nothing beside the capability CAP_SYS_ADMIN")
    wanted, user = _non_root(pod, container)
    if wanted and user == 0:
        raise _wrong("runAsNonRoot", "a runAsUser other than 0")


def check_without_image(pod: PodSecurityContext | None, container: SecurityContext | None) -> None:
    """Raise Error(INVALID_CONFIG) if the container's user would be that of its image, which is not pulled here."""
    wanted, user = _non_root(pod or PodSecurityContext(), container or SecurityContext())
    if wanted and user is None:
        raise _wrong("runAsNonRoot", "a runAsUser beside it, because images are not pulled")


def _non_root(pod: PodSecurityContext, container: SecurityContext) -> tuple[bool | None, int | None]:
    """Return whether the user must not be root, and the user id; None if the image would define it."""
    return (
        pod.run_as_non_root if container.run_as_non_root is None else container.run_as_non_root,
        pod.run_as_user if container.run_as_user is None else container.run_as_user,
    )


def _wrong(key: str, expected: str) -> Error:
    return Error(Kind.INVALID_CONFIG, key=key, expected=expected)


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
        hint = did_you_mean(bare if bare in CAPABILITIES else similar(bare, CAPABILITIES))
        yield f"capability {name} is not known and has no effect" + (f"; {hint}" if hint else "")


def missing_capabilities(context: SecurityContext | None) -> Sequence[str]:
    """Return the capabilities that a container adds but this process does not have."""
    wanted = capabilities(context or SecurityContext(), own_capabilities()) - DEFAULT
    return sorted(wanted - own_capabilities())


def _memlock() -> int:
    """Return the memlock limit in bytes: this process's hard limit if lower, which it may be unable to raise."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return _MEMLOCK if hard == resource.RLIM_INFINITY else min(_MEMLOCK, hard)


def _account(user: int) -> tuple[int, list[int], str]:
    """Return a user's group and supplementary groups, and the home directory, from this machine's user database."""
    try:
        found = pwd.getpwuid(user)
    except KeyError:
        return 0, [], "/"
    groups = sorted(each.gr_gid for each in grp.getgrall() if found.pw_name in each.gr_mem)
    return found.pw_gid, groups, found.pw_dir or "/"
