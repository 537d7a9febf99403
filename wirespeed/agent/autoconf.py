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
from wirespeed.agent.changes import RECHECK_INTERVAL, event_descriptor, folder_changes, wait
from wirespeed.errors import Error, Kind, as_error
from wirespeed.node import AutoconfConfig, NodeConfig
from wirespeed.plugins.meta import readiness
from wirespeed.system.files import write_atomically

log = logging.getLogger(__name__)

_PAUSE_AFTER_RESTORE = 1.0  # seconds after restoring a file, so as not to race with the program that changed it


class Autoconf:
    """Writes the files that `config.autoconf` describes. Raises Error(INVALID_CONFIG) that names the key."""

    def __init__(self, config: NodeConfig) -> None:
        assert config.autoconf is not None
        self._where: AutoconfConfig = config.autoconf
        self._indicator = config.readiness_indicator_file
        if self._indicator and not self._indicator.startswith("/"):
            key, expected = "readinessIndicatorFile", "an absolute path"
            raise Error(Kind.INVALID_CONFIG, key=key, expected=expected, got=self._indicator)
        cniconf.check(self._where)
        self._folder = Path(self._where.cni_config_dir)
        self._written: dict[str, bytes] = {}  # what this agent wrote, by file name
        self._last_problem = ""  # the last problem that was logged

    def run(self, stop: threading.Event) -> None:
        """Write the files now, and whenever something that they depend on has changed, until `stop` is set."""
        with event_descriptor(stop, name="autoconf end") as stopped:
            while not stop.is_set():
                # Watch first, then check, so that no change in between is missed.
                with contextlib.ExitStack() as watched:
                    changes = [watched.enter_context(folder_changes(folder)) for folder in self._folders()]
                    restored = self._write_files()
                    if not restored:
                        wait([*changes, stopped], RECHECK_INTERVAL)
                if restored:
                    wait([stopped], _PAUSE_AFTER_RESTORE)

    def _folders(self) -> set[Path]:
        found = {self._folder, Path(self._where.primary_dir or self._folder)}
        if self._indicator:
            found.add(Path(self._indicator).parent)
        return found

    def _write_files(self) -> bool:
        """Write the files that are not up to date; return whether another program had changed or removed one."""
        try:
            readiness.check(self._indicator)
            primary = cniconf.find_primary(self._where)
            if primary is None:
                where = self._where.primary_dir or self._where.cni_config_dir
                self._log_problem(f"no configuration of the cluster's own plugin in {where} yet")
                return False
            restored = [self._write(name, primary) for name in self._where.files]
        except (Error, OSError) as error:
            self._log_problem(as_error(error, fallback=self._folder).msg)
            return False
        self._last_problem = ""
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
            text = "CNI configuration: another program changed or removed it: restored"
            log.warning(text, extra={"fields": fields})
        else:
            log.info("CNI configuration written", extra={"fields": fields})
            if path.parent == primary.path.parent and name > primary.path.name:
                log.warning("%s comes after %s by name: the runtime uses the latter", path, primary.path)
        return restored

    def _log_problem(self, text: str) -> None:
        """Log why nothing is written, unless the same reason was logged last."""
        if text != self._last_problem:
            existing = [str(self._folder / name) for name in self._where.files if (self._folder / name).exists()]
            effect = f"{', '.join(existing)} stays" if existing else "none is written"
            log.warning("CNI configuration: %s; %s", text, effect)
            self._last_problem = text


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
