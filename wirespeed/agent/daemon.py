"""The agent's process, from reading its configuration to its end."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FrameType

from wirespeed import extras
from wirespeed.agent.autoconf import Autoconf
from wirespeed.agent.listener import Listener, Lock
from wirespeed.agent.log import to_stderr
from wirespeed.agent.notify import notify
from wirespeed.agent.server import Export, Observer, Server
from wirespeed.cni.errors import code_of
from wirespeed.errors import Error
from wirespeed.kernel import netns
from wirespeed.node import Node, NodeConfig, load_config
from wirespeed.plugins.meta.meta import Meta
from wirespeed.takeover import record

log = logging.getLogger(__name__)

_PART_TIMEOUT = 10.0  # seconds to wait for the end of a part that runs beside the server


def main(config_path: Path | None, log_level: str) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    0 after all running calls were finished; 1 for an error (logged), if a part of the agent ended by itself, if
    another agent took the socket, or if running calls did not end. A second signal ends the process at once.
    """
    to_stderr(log_level)
    try:
        return _serve(load_config(config_path))
    except Error as error:
        log.error("%s", error.msg, extra={"fields": {"code": code_of(error)}})  # noqa: TRY400 — no traceback needed
        return 1


def _serve(config: NodeConfig) -> int:
    if config.metrics:
        extras.need("metrics", 'configuration: key "metrics"')
    path = Path(config.socket)
    autoconf = Autoconf(config) if config.autoconf else None
    with closing(Lock(path)) as lock, closing(Node(config)) as node:
        _warm_up(node)
        with closing(Listener(path, lock)) as listener:
            part_failed = threading.Event()
            with (
                _metrics(node) as observe,
                _tracing(node) as export,
                _web(node),
                _signals(server := Server(node, listener, observe, export), node.reload),
                ExitStack() as running,
            ):
                for name, part in _parts(node, autoconf):
                    running.enter_context(_running_part(name, part, part_failed, server.stop))
                node.live.began = time.monotonic()
                notify("READY=1")
                log.info("ready", extra={"fields": {"socket": path, "node": node.name}})
                finished = server.run()
                notify("STOPPING=1")
        if not finished:
            log.error("running calls did not end in time: a later DEL undoes what the journal has of them")
            os._exit(1)  # a thread cannot be stopped, and the interpreter would wait for it
        log.info("ended")
        return 1 if part_failed.is_set() or server.lost_socket else 0


def _warm_up(node: Node) -> None:
    """Create what the first call needs, so that it takes no longer than later ones."""
    _ = node.journal  # an error ends the agent, as nothing can be done without a journal
    try:
        _ = node.cluster
    except Error as error:
        log.warning("%s; plugins that need no cluster are served", error.msg)
    for kind in node.plugins:
        try:
            _ = node.plugins[kind]
        except Exception:
            log.exception("plugin %s cannot be created; the others are served", kind)
    with netns.current() as home:
        netns.inside(home, lambda: None)  # Python 3.11 loads cffi for it
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.collect()
    gc.freeze()  # what exists now stays: exclude it from garbage collections, which would delay calls


@contextmanager
def _signals(server: Server, reload_configuration: Callable[[], None]) -> Iterator[None]:
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
    signal.signal(signal.SIGHUP, lambda *_: reload_configuration())
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


@contextmanager
def _tracing(node: Node) -> Iterator[Export]:
    """Export the traces of calls, if configured; yield the function that gets each finished call."""
    if node.config.tracing is None:
        yield lambda _: None
        return
    from wirespeed.agent.otlp import Exporter  # noqa: PLC0415 — loaded only if traces are exported

    with closing(Exporter(node, node.config.tracing)) as exporter:
        yield exporter.export


def _web(node: Node) -> AbstractContextManager[None]:
    """Serve the node's web page, if configured."""
    if not node.config.web.address:
        return nullcontext()
    from wirespeed.agent import web  # noqa: PLC0415 — loaded only if the page is served

    return web.running(node)


Part = Callable[[threading.Event], None]  # runs until the event is set


def _parts(node: Node, autoconf: Autoconf | None) -> Iterator[tuple[str, Part]]:
    """Yield the name and the function of each part that is configured; the modules of the others are not loaded."""
    config = node.config
    if config.device_plugin:
        yield "device plugin", lambda stop: importlib.import_module("wirespeed.deviceplugin").run(node, stop)
    if autoconf is not None:
        yield "writer of the CNI configuration", autoconf.run
    try:
        installation = record.read(config) or record.Record()
    except Error as error:
        log.error("%s; plugin names that other programs replace are not taken back", error.msg)  # noqa: TRY400
    else:
        if installation.replaced:
            from wirespeed.agent.names import Names  # noqa: PLC0415

            yield "keeper of plugin names", Names(node, installation).run
    if config.follow_networks:
        from wirespeed.agent.follow import Follower  # noqa: PLC0415

        yield "follower of annotations", Follower(node).run
    if config.runtimes:
        from wirespeed.agent import collect  # noqa: PLC0415 — imports gRPC

        yield "collector of removed sandboxes", partial(collect.run, node)
    if not config.cluster.manifests:
        meta = None
        with suppress(Exception):  # logged by _warm_up; without the meta-plugin there is no network-status to write
            meta = node.plugin("meta")
        if isinstance(meta, Meta):
            yield "writer of network-status", meta.reporter.run


@contextmanager
def _running_part(
    name: str, part: Part, part_failed: threading.Event, end_agent: Callable[[], None]
) -> Iterator[None]:
    """Run a part of the agent in its own thread; set `part_failed` if it ends by itself."""
    stop = threading.Event()

    def run() -> None:
        try:
            part(stop)
        except Error as error:
            log.error("%s: %s", name, error.msg, extra={"fields": {"code": code_of(error)}})  # noqa: TRY400
        except Exception:
            log.exception("%s failed", name)
        if not stop.is_set():
            log.error("the %s ended by itself: the agent ends", name)
            part_failed.set()
            end_agent()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_PART_TIMEOUT)
