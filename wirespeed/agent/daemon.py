"""The agent's process, from reading its configuration to its end."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from wirespeed import extras
from wirespeed.agent.autoconf import Autoconf
from wirespeed.agent.listener import listening, only_agent
from wirespeed.agent.log import to_stderr
from wirespeed.agent.notify import notify
from wirespeed.agent.server import Observer, Server
from wirespeed.cni.errors import CniError
from wirespeed.node import Node, NodeConfig, load_config
from wirespeed.plugins.meta.meta import Meta
from wirespeed.takeover import record

log = logging.getLogger(__name__)

_PART_END = 10.0  # seconds to wait for the end of a part that runs beside the server


def main(config_path: Path | None, log_level: str) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    0 after all running calls were finished; 1 for an error (logged), if a part of the agent ended by itself, if
    another agent took the socket, or if running calls did not end. A second signal ends the process at once.
    """
    to_stderr(log_level)
    try:
        return _serve(load_config(config_path))
    except CniError as error:
        log.error("%s", error.msg, extra={"fields": {"code": error.code}})  # noqa: TRY400 — no traceback needed
        return 1


def _serve(config: NodeConfig) -> int:
    if config.metrics:
        extras.need("metrics", 'configuration: key "metrics"')
    path = Path(config.socket)
    autoconf = Autoconf(config).run if config.autoconf else None
    with only_agent(path) as lock, closing(Node(config)) as node:
        _warm_up(node)
        with listening(path, lock) as listener:
            died = threading.Event()
            with (
                _metrics(node) as observe,
                _signals(server := Server(node, listener, observe), node.hang_up),
                _beside("device plugin", _device_plugin(node), died, server.stop),
                _beside("writer of the CNI configuration", autoconf, died, server.stop),
                _beside("keeper of the plugins' names", _names(node), died, server.stop),
                _beside("follower of annotations", _follower(node), died, server.stop),
                _beside("collector of what is left of sandboxes", _collector(node), died, server.stop),
                _beside("writer of network-status", _reporter(node), died, server.stop),
            ):
                notify("READY=1")
                log.info("ready", extra={"fields": {"socket": path, "node": node.name}})
                finished = server.run()
                notify("STOPPING=1")
        if not finished:
            log.error("calls that run do not end: leaving them to DEL and the journal")
            os._exit(1)  # a thread cannot be stopped, and the interpreter would wait for it
        log.info("ended")
        return 1 if died.is_set() or server.displaced else 0


def _warm_up(node: Node) -> None:
    """Create what the first call needs, so that it takes no longer than later ones."""
    _ = node.journal  # an error ends the agent, as nothing can be done without a journal
    try:
        _ = node.cluster
    except CniError as error:
        log.warning("%s; plugins that need no cluster are served", error.msg)
    for kind in node.plugins:
        try:
            _ = node.plugins[kind]
        except Exception:
            log.exception("plugin %s cannot be made; the others are served", kind)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.collect()
    gc.freeze()  # what exists now stays: exclude it from garbage collections, which would delay calls


@contextmanager
def _signals(server: Server, hang_up: Callable[[], None]) -> Iterator[None]:
    """On SIGTERM or SIGINT, stop the server, on a second one the process. On SIGHUP, reload configurations."""

    def end(number: int, _: FrameType | None) -> None:
        if number in seen:
            os._exit(128 + number)
        seen.update({signal.SIGTERM, signal.SIGINT})
        server.stop()

    seen: set[int] = set()
    signal.set_wakeup_fd(server.waker.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, lambda *_: hang_up())
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)


@contextmanager
def _metrics(node: Node) -> Iterator[Observer]:
    """Serve the agent's metrics, if configured; yield the function that counts calls."""
    if not node.config.metrics:
        yield lambda *_: None
        return
    from wirespeed.agent.metrics import Metrics, serving  # noqa: PLC0415 — loaded only if metrics are served

    metrics = Metrics(node)
    with serving(metrics, node.config.metrics):
        yield metrics.observe


Part = Callable[[threading.Event], None]  # runs until the event is set


def _device_plugin(node: Node) -> Part | None:
    if not node.config.device_plugin:
        return None
    return lambda stop: importlib.import_module("wirespeed.deviceplugin").run(node, stop)


def _names(node: Node) -> Part | None:
    try:
        noted = record.read(node.config)
    except CniError as error:
        log.error("%s; names of plugins that others take are not taken back", error.msg)  # noqa: TRY400
        return None
    if noted is None or not noted.replaced:
        return None
    from wirespeed.agent.names import Names  # noqa: PLC0415 — loaded only if names of other tools were taken

    return Names(node, noted).run


def _follower(node: Node) -> Part | None:
    if not node.config.follow_networks:
        return None
    from wirespeed.agent.follow import Follower  # noqa: PLC0415 — loaded only if configured

    return Follower(node).run


def _collector(node: Node) -> Part | None:
    if not node.config.runtimes:
        return None
    from wirespeed.agent.collect import Collector  # noqa: PLC0415 — gRPC, loaded only if a runtime is configured

    return Collector(node).run


def _reporter(node: Node) -> Part | None:
    if node.config.cluster.manifests:
        return None
    try:
        meta = node.plugin("meta")
    except Exception:  # logged by _warm_up; without the meta-plugin there is no network-status to write
        return None
    assert isinstance(meta, Meta)
    return meta.reporter.run


@contextmanager
def _beside(name: str, part: Part | None, died: threading.Event, end_agent: Callable[[], None]) -> Iterator[None]:
    """Run a part of the agent, unless None, in a thread beside the server; set `died` if it ends by itself."""
    if part is None:
        yield
        return
    stop = threading.Event()

    def run() -> None:
        try:
            part(stop)
        except CniError as error:
            log.error("%s: %s", name, error.msg, extra={"fields": {"code": error.code}})  # noqa: TRY400
        except Exception:
            log.exception("%s failed", name)
        if not stop.is_set():
            log.error("the %s ended by itself: the agent ends", name)
            died.set()
            end_agent()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_PART_END)
