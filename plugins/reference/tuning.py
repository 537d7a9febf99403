"""tuning: sets sysctls of the pod, and MAC, MTU, queue length and flags of an interface that it already has.

DEL restores the interface from a backup that ADD wrote; it does not restore the sysctls, which the pod alone has.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni import result as results
from wirespeed.cni.address import read_mac
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, collect_errors, os_errors, run_all, under
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netns import NetNs
from wirespeed.keys import normalize_case
from wirespeed.plugins.reference import conf
from wirespeed.plugins.reference import pod as pods
from wirespeed.structs import Words
from wirespeed.system.files import open_in_folder

log = logging.getLogger(__name__)

BACKUPS = Path("/run/cni/tuning")
# If it exists, only sysctls that one of its lines matches, as a regular expression, may be set.
ALLOW_LIST = Path("/etc/cni/tuning/allowlist.conf")

# Expressions that Python and Go understand in the same way: without escapes like \Q, classes like [[:alpha:]],
# groups like (?i), counted and possessive repetitions.
_PORTABLE = re.compile(
    r"(?:(?:[\w.,:/@~^$)-]|\\[.dws/-]|\[\^?[\w.,/-]+\])(?:[*+?]\??(?![*+?]))?|\((?!\?)|\|)*", re.ASCII
)

QueueLength = Annotated[int, Meta(ge=0, le=2**32 - 1), Words("an integer from 0 to 4294967295", "packets")]


class Settings(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Settings of an interface: those to make, or, in a backup, those to restore. None: it stays as it is."""

    mac: str | None = None
    promisc: bool | None = None
    mtu: conf.Mtu | None = None
    allmulti: bool | None = None
    txqlen: QueueLength | None = msgspec.field(name="txQLen", default=None)

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are not None, as the arguments of Rtnl.set_link."""
        return {key: value for key, value in msgspec.structs.asdict(self).items() if value is not None}


class CniKeys(Settings, kw_only=True, frozen=True):
    """The keys of `args.cni`: they replace those of the configuration, and its sysctls of the same name."""

    sysctl: dict[str, str] = {}


class ArgsKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `args`."""

    cni: CniKeys = CniKeys()


class RuntimeKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of `runtimeConfig`."""

    mac: str = ""


@structs.prepared
class Keys(Settings, kw_only=True, frozen=True):
    """The plugin's keys. `mac` "", `mtu` 0 and `promisc` false set nothing, `allmulti` false does.

    `sysctl` maps names ("net.ipv4.conf.IFNAME.rp_filter", where IFNAME is the interface) to values.
    """

    data_dir: str = msgspec.field(name="dataDir", default="")
    sysctl: dict[str, str] = {}
    runtime_config: RuntimeKeys = msgspec.field(name="runtimeConfig", default=RuntimeKeys())
    args: ArgsKeys = ArgsKeys()

    @property
    def sysctls(self) -> dict[str, str]:
        return {**self.sysctl, **self.args.cni.sysctl}


_BACKUP = msgspec.json.Decoder(Settings)


def executed(config: Mapping[str, Any]) -> bool:
    """Whether it sets sysctls, and the list of allowed ones has expressions that Python reads differently."""
    if not any(normalize_case(config, ("sysctl", "args")).get(key) for key in ("sysctl", "args")):
        return False
    with suppress(Error):  # ADD raises it
        return any(_PORTABLE.fullmatch(each) is None for each in _allowed() or ())
    return False


class Tuning:
    """The plugin (`wirespeed.cni.plugin.Plugin`). `backups` is the folder of backups without the key `dataDir`."""

    def __init__(self, backups: Path = BACKUPS) -> None:
        self._backups = backups

    def add(self, request: Request) -> Result:
        keys = _read(request)
        sysctls, wanted = _sysctl_paths(request, keys), _settings(request, keys)
        _check_allowed(keys.sysctls)
        result = _previous(request)
        before: dict[Path, bytes] = {}
        with netns.opened(request.netns) as ns:
            try:
                netns.inside(ns.fd, lambda: _write_sysctls(sysctls, before))
                if wanted.given:
                    _set_interface(ns, request.ifname, wanted, self._backup(request, keys.data_dir))
            except BaseException:
                _restore_sysctls(ns, before)
                raise
        if wanted.mac:
            named = [each for each in result["interfaces"] if each["name"] == request.ifname]
            for each in named:
                each["mac"] = wanted.mac
        return result

    def delete(self, request: Request) -> None:
        """Restore the interface, if it is still there. What the kernel refuses is logged, and the backup stays."""
        given = normalize_case(request.config, ("dataDir",)).get("dataDir") or ""
        backup = self._backup(request, structs.read({"dataDir": given}, Keys).data_dir)
        try:
            saved = _BACKUP.decode(backup.read_bytes())
        except FileNotFoundError:
            return
        except msgspec.MsgspecError:  # not written to its end: then nothing has been set
            saved = Settings()
        with pods.opened_pod(request) as pod:
            link = pod.link(request.ifname) if pod is not None and saved.given else None
            if pod is not None and link is not None and (refused := _apply(pod, link.index, saved)):
                log.warning("%s: not restored: %s", request.ifname, "; ".join(each.msg for each in refused))
                return
        backup.unlink(missing_ok=True)

    def check(self, request: Request) -> None:
        """Compare what ADD sets. The executable also refuses promiscuous mode that neither it nor a key set."""
        keys = _read(request)
        sysctls, wanted = _sysctl_paths(request, keys), _settings(request, keys)
        _previous(request)
        with netns.opened(request.netns) as ns, Rtnl(netns_fd=ns.fd) as pod:
            wrong = netns.inside(ns.fd, lambda: _sysctl_drift(sysctls))
            link = pods.find(pod, request.ifname)
        wrong += [
            f"{key} of {link.name} is {getattr(link, key)}, not {value}"
            for key, value in wanted.given.items()
            if getattr(link, key) != value
        ]
        pods.raise_drift(wrong)

    def gc(self, request: Request) -> None:
        """Backups stay: their folder has those of all networks, and the request names one network's attachments."""

    def status(self, request: Request) -> None:
        """It needs nothing of the node."""

    def _backup(self, request: Request, folder: str) -> Path:
        """Return the path of the attachment's backup, also the executable's. Raises Error(INVALID_CONFIG)."""
        if folder and not folder.startswith("/"):
            raise structs.wrong("dataDir", "an absolute path", folder)
        return Path(folder or self._backups) / f"{request.container_id}_{request.ifname}.json"


def _read(request: Request) -> Keys:
    return structs.read(structs.normalize_keys(request.config, Keys, lambda *_: None), Keys)


def _previous(request: Request) -> Result:
    previous = request.config.get("prevResult")
    if previous is None:
        what = "it changes the interface of a plugin before it in the chain"
        raise Error(Kind.INVALID_CONFIG, what, key="prevResult", missing=True)
    return results.read(previous, request.version)


def _settings(request: Request, keys: Keys) -> Settings:
    """Return the settings to make, from all the places where they can be given. Raises Error(INVALID_CONFIG)."""
    own = keys.args.cni
    promisc = keys.promisc if own.promisc is None else own.promisc
    return Settings(
        mac=_mac(request, keys) or None,
        promisc=promisc or None,
        mtu=(keys.mtu if own.mtu is None else own.mtu) or None,
        allmulti=keys.allmulti if own.allmulti is None else own.allmulti,
        txqlen=keys.txqlen if own.txqlen is None else own.txqlen,
    )


def _mac(request: Request, keys: Keys) -> str:
    """Return the MAC from args.cni, runtimeConfig, CNI_ARGS or the configuration, in this order."""
    if keys.args.cni.mac is not None:
        with under("args", "cni"):
            return read_mac(keys.args.cni.mac)
    if keys.runtime_config.mac:
        with under("runtimeConfig"):
            return read_mac(keys.runtime_config.mac)
    if given := request.args.get("MAC"):
        try:
            return read_mac(given)
        except Error as error:
            raise error.of_kind(Kind.INVALID_REQUEST).at(where=("CNI_ARGS MAC",), key=()) from error
    return read_mac(keys.mac)


# Sysctls


def _sysctl_paths(request: Request, keys: Keys) -> dict[Path, str]:
    """Return the values by the files of the sysctls. Raises Error(INVALID_CONFIG) for one not of the network."""
    found = {}
    for name, value in keys.sysctls.items():
        # The interface's name may have dots.
        path = os.path.normpath(f"/proc/sys/{name.replace('.', '/').replace('IFNAME', request.ifname, 1)}")
        if not path.startswith("/proc/sys/net/") or "\0" in path:
            raise Error(Kind.INVALID_CONFIG, key=("sysctl", name), expected="the name of a sysctl below net")
        found[Path(path)] = value
    return found


def _allowed() -> list[str] | None:
    """Return the lines of the list of allowed sysctls, None if there is no list. Raises Error(IO)."""
    with os_errors(ALLOW_LIST):
        try:
            lines = ALLOW_LIST.read_text().split("\n")
        except FileNotFoundError:
            return None
    return [line.strip() for line in lines if line.strip()]


def _check_allowed(names: Mapping[str, str]) -> None:
    """Raise Error(POLICY) for a sysctl that is not on the list of allowed ones, if there is a list."""
    allowed = _allowed() if names else None
    if allowed is None:
        return
    try:
        expressions = [re.compile(each, re.ASCII) for each in allowed]
    except re.error as error:
        raise Error(Kind.INVALID_DATA, f"not a regular expression: {error}", where=str(ALLOW_LIST)) from error
    for name in names:
        if not any(each.search(name) for each in expressions):
            what = f"it is not on the node's list of allowed sysctls, {ALLOW_LIST}"
            raise Error(Kind.POLICY, what, key=("sysctl", name))


def _write_sysctls(values: Mapping[Path, str], before: dict[Path, bytes]) -> None:
    """Write sysctls of this thread's namespace, and put into `before` what they were. Raises Error(INTERFACE)."""
    for path, value in values.items():
        with pods.interface_errors(f"sysctl {path}"):
            with suppress(OSError):  # some can only be written
                before[path] = path.read_bytes()
            with open(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "wb", buffering=0) as file:
                file.write(value.encode())


def _restore_sysctls(ns: NetNs, before: Mapping[Path, bytes]) -> None:
    def restore() -> None:
        for path, value in reversed(list(before.items())):
            with suppress(OSError):
                path.write_bytes(value)

    if before:
        netns.inside(ns.fd, restore)


def _sysctl_drift(values: Mapping[Path, str]) -> list[str]:
    """Return how the sysctls of this thread's namespace differ, as messages. Raises Error(INTERFACE)."""
    wrong = []
    for path, value in values.items():
        with pods.interface_errors(f"sysctl {path}"):
            now = path.read_text()
        if now.split() != value.split():  # the kernel separates several numbers by tabs
            wrong.append(f"{path} is {now.strip()}, not {value}")
    return wrong


# The interface


def _set_interface(ns: NetNs, ifname: str, wanted: Settings, backup: Path) -> None:
    """Back up what the settings change, and make them. Raises Error(INTERFACE, IO), after restoring it."""
    with Rtnl(netns_fd=ns.fd) as pod:
        link = pods.find(pod, ifname)
        saved = _current(link, wanted)
        _write_backup(backup, saved)
        try:
            with pods.interface_errors(f"interface {ifname}"):
                pod.set_link(link.index, **wanted.given)
        except BaseException:
            _apply(pod, link.index, saved)
            run_all([lambda: backup.unlink(missing_ok=True)])
            raise


def _current(link: Link, wanted: Settings) -> Settings:
    """Return the interface's own values of the settings that are to be made."""
    return Settings(**{key: getattr(link, key) for key in wanted.given})


def _write_backup(path: Path, saved: Settings) -> None:
    data = msgspec.json.format(msgspec.json.encode(saved), indent=1)
    with os_errors(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(open_in_folder(path, flags, 0o600, folder_mode=0o700), "wb", buffering=0) as file:
            file.write(data)


def _apply(pod: Rtnl, index: int, saved: Settings) -> list[Error]:
    """Restore the settings, in one message, or each alone if the kernel refuses one; return the refusals."""
    try:
        pod.set_link(index, **saved.given)
    except NetlinkError:
        alone = [{key: value} for key, value in saved.given.items()]
        return collect_errors([lambda each=each: pod.set_link(index, **each) for each in alone])  # type: ignore[misc]
    return []
