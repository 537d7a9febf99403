"""Keeps the runtime's CNI configuration in sync with that of the primary CNI plugin.

The files stay when the agent ends: without them, the runtime would start pods with the primary alone. The shim that
they name waits for the next agent.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path

from wirespeed.agent import cniconf
from wirespeed.agent.notices import LOOK_AGAIN, noticed, readable_once, wait
from wirespeed.cni.errors import CniError, Code
from wirespeed.node import AutoconfConfig, NodeConfig
from wirespeed.plugins.meta import readiness
from wirespeed.system.files import write_atomically

log = logging.getLogger(__name__)

_RESTORE_PAUSE = 1.0  # seconds after a file was restored, so as not to race with another program that changes it


class Autoconf:
    """Writes the files that `config.autoconf` describes. Raises CniError(INVALID_CONFIG) that names the key."""

    def __init__(self, config: NodeConfig) -> None:
        assert config.autoconf is not None
        self._where: AutoconfConfig = config.autoconf
        self._indicator = config.readiness_indicator_file
        if self._indicator and not self._indicator.startswith("/"):
            raise CniError(
                Code.INVALID_CONFIG,
                f'key "readinessIndicatorFile": expected an absolute path, got {self._indicator!r}',
            )
        cniconf.check(self._where)
        self._folder = Path(self._where.cni_config_dir)
        self._written: dict[str, bytes] = {}  # what this agent wrote, by file name
        self._complaint = ""  # the last problem that was logged

    def run(self, stop: threading.Event) -> None:
        """Write the files now, and whenever something that they depend on has changed, until `stop` is set."""
        with readable_once(stop, name="autoconf end") as stopped:
            while not stop.is_set():
                # Watch first, then check, so that no change in between is missed.
                with contextlib.ExitStack() as watched:
                    notices = [watched.enter_context(noticed(folder)) for folder in self._folders()]
                    restored = self._write_due()
                    if not restored:
                        wait([*notices, stopped], LOOK_AGAIN)
                if restored:
                    wait([stopped], _RESTORE_PAUSE)

    def _folders(self) -> set[Path]:
        """Return the folders of the files that are read or written."""
        found = {self._folder, Path(self._where.primary_dir or self._folder)}
        if self._indicator:
            found.add(Path(self._indicator).parent)
        return found

    def _write_due(self) -> bool:
        """Write what is due; return whether that was a file which another program had changed or removed."""
        try:
            readiness.check(self._indicator)
            primary = cniconf.find_primary(self._where)
            if primary is None:
                where = self._where.primary_dir or self._where.cni_config_dir
                self._complain(f"no configuration of the cluster's own plugin in {where} yet")
                return False
            restored = [self._write(name, primary) for name in self._where.files]
        except CniError as error:
            self._complain(error.msg)
            return False
        except OSError as error:
            self._complain(f"{error.filename or self._folder}: {error.strerror}")
            return False
        self._complaint = ""
        return any(restored)

    def _write(self, name: str, primary: cniconf.Primary) -> bool:
        path, content = self._folder / name, cniconf.compose(primary, self._where, name)
        if _content(path) == content:
            self._written[name] = content
            return False
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomically(path, content, 0o600)
        restored = self._written.get(name) == content
        self._written[name] = content
        fields = {"file": path, "primary": primary.path, "network": primary.network.name}
        if restored:
            log.warning("CNI configuration: somebody else changed or removed it", extra={"fields": fields})
        else:
            log.info("CNI configuration written", extra={"fields": fields})
            if path.parent == primary.path.parent and name > primary.path.name:
                log.warning("%s comes after %s by name: the runtime takes that one", path, primary.path)
        return restored

    def _complain(self, text: str) -> None:
        """Log why nothing is written, once until the reason changes."""
        if text != self._complaint:
            there = [str(self._folder / name) for name in self._where.files if (self._folder / name).exists()]
            log.warning(
                "CNI configuration: %s; %s", text, f"{', '.join(there)} stays" if there else "none is written"
            )
            self._complaint = text


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
