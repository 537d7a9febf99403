"""Networks (conf or conflist), and running their plugins in order, each with the previous one's result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from wirespeed.cni import result as results
from wirespeed.cni import versions
from wirespeed.cni.errors import CniError, Code, NotUndoneError, combined
from wirespeed.cni.execute import check_kind, find_plugin, run_plugin
from wirespeed.cni.keys import in_any_case
from wirespeed.cni.plugin import Capable, Plugin, Result
from wirespeed.cni.request import Request, check_network_name

log = logging.getLogger(__name__)

# Keys of lists and of plugins' configurations that are read or written before the plugin gets them.
_KEYS = frozenset(
    {"name", "cniVersion", "cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "plugins"}
    | {"type", "capabilities", "ipam", "args", "prevResult", "runtimeConfig", "deviceID", "pciBusID"}
)
_IPAM_KEYS = frozenset({"type"})
_METHODS = {"DEL": "delete", "CHECK": "check", "GC": "gc", "STATUS": "status"}
UNDO_TIME = 30.0  # seconds that undoing a failed ADD may take beyond the request's deadline


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network: `plugins` are the raw configurations, in the order of ADD. `raw` is what was loaded.

    `begin` is the prevResult of its first plugin, for a chain that creates no interface of its own.
    """

    name: str
    version: str
    plugins: list[dict[str, Any]]
    disable_check: bool = False
    disable_gc: bool = False
    raw: dict[str, Any] = field(default_factory=dict)
    begin: Result | None = None

    @property
    def kinds(self) -> list[str]:
        """The `type` of each plugin."""
        return [plugin["type"] for plugin in self.plugins]


def load_network(raw: object, *, name: str = "", version: str = "") -> Network:
    """Load a network from a conf (it has `type`) or a conflist (it has `plugins`), decoded from JSON.

    `name` and `version` are the defaults if it has none of its own. Raises CniError: INVALID_CONFIG that names the
    key, INCOMPATIBLE_VERSION for an unknown version.
    """
    if not isinstance(raw, dict):
        raise CniError(
            Code.INVALID_CONFIG, f"network {name or 'without a name'}: expected an object, got {_short(raw)}"
        )
    conf = canonical(raw)
    given = conf.get("name") or name
    try:
        return Network(
            name=check_network_name(given),
            version=versions.highest(conf.get("cniVersion") or version, conf.get("cniVersions")),
            plugins=_plugins(conf),
            disable_check=flag(conf, "disableCheck"),
            disable_gc=flag(conf, "disableGC"),
            raw=raw,
        )
    except CniError as error:
        raise error.prefixed(f"network {given}" if given else "network without a name") from None


def canonical(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a conf or conflist with the specification's keys in its spelling; they are case-insensitive."""
    conf = in_any_case(raw, _KEYS)
    ipam = conf.get("ipam")
    if isinstance(ipam, dict):
        conf["ipam"] = in_any_case(ipam, _IPAM_KEYS)
    if isinstance(conf.get("plugins"), list):
        conf["plugins"] = [canonical(each) if isinstance(each, dict) else each for each in conf["plugins"]]
    return conf


class Chain:
    """Runs networks: `plugins`, by `type`, are called in this process, all others are executed from CNI_PATH.

    Of a request, container, interface, arguments, path and deadline are used; the configuration of each plugin is
    derived from the network. Every error keeps its code and names the plugin.
    """

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        self._builtin = plugins

    def capabilities(self, plugin: Mapping[str, Any]) -> frozenset[str]:
        """Return the keys of a runtimeConfig that the plugin with this configuration gets.

        These are the capabilities that it declares, and those that a plugin in this process reads anyway, unless
        they are declared as false. Raises CniError(INTERNAL) if a plugin in this process cannot be created.
        """
        declared = plugin.get("capabilities") or {}
        wanted = frozenset(key for key, flag in declared.items() if flag is True)
        if plugin["type"] in self._builtin:
            try:
                builtin = self._make(plugin["type"])
            except CniError as error:
                raise _of_plugin(error, plugin) from error
            if isinstance(builtin, Capable):
                wanted |= builtin.capabilities(plugin) - declared.keys()
        return wanted

    def executes(self, plugin: Mapping[str, Any]) -> bool:
        """Whether the plugin with this configuration is executed as a process of its own."""
        return plugin["type"] not in self._builtin

    def check_plugins(self, network: Network, path: Sequence[str]) -> None:
        """Check that each plugin of a network is in this process or in one of the folders of `path`.

        Raises CniError that names the plugin: INVALID_CONFIG if it is in neither, INTERNAL if a plugin in this
        process cannot be created.
        """
        for plugin in network.plugins:
            try:
                if plugin["type"] in self._builtin:
                    self._make(plugin["type"])
                else:
                    find_plugin(plugin["type"], path)
            except CniError as error:
                raise _of_plugin(error, plugin) from error

    def _make(self, kind: str) -> Plugin:
        try:
            return self._builtin[kind]
        except Exception as error:
            log.exception("plugin %s", kind)
            raise CniError(Code.INTERNAL, f"cannot be made: {type(error).__name__}: {error}") from error

    def add(self, network: Network, request: Request, runtime_config: Mapping[str, Any] | None = None) -> Result:
        """Attach the container; return the last plugin's result.

        If a plugin fails, it and those before it are undone before the error is raised. Raises NotUndoneError if
        that fails too.
        """
        request = request.derive(command="ADD")
        result = network.begin
        for index, plugin in enumerate(network.plugins):
            try:
                request.check_deadline()
                config = self._config(network, plugin, runtime_config, result)
                result = self._add(request.derive(config=config), network.version)
            except BaseException as error:
                failure = self._undo(network, index, request, runtime_config, result)
                if not isinstance(error, CniError):
                    raise
                named = _of_plugin(error, plugin)
                if failure is None:
                    raise named from error
                text = f"{named.msg}; undoing it failed: {failure.msg}"
                raise NotUndoneError(named.code, text, named.details) from error
        return result or results.empty()

    def delete(
        self,
        network: Network,
        request: Request,
        runtime_config: Mapping[str, Any] | None = None,
        result: Result | None = None,
    ) -> None:
        """Detach the container, in reverse order; `result` is what ADD returned. All plugins are called.

        Raises the first error, with the messages of the others.
        """
        if not versions.at_least(network.version, "0.4.0"):
            result = None
        self._call_all(
            list(reversed(network.plugins)),
            lambda plugin: self._config(network, plugin, runtime_config, result),
            request.derive(command="DEL"),
        )

    def check(
        self,
        network: Network,
        request: Request,
        runtime_config: Mapping[str, Any] | None = None,
        result: Result | None = None,
    ) -> None:
        """Check the attachment that `result` describes; raises the first plugin's error.

        Does nothing for a network with disableCheck, or of a version without CHECK.
        """
        if network.disable_check or not versions.at_least(network.version, "0.4.0"):
            return
        for plugin in network.plugins:
            self._call(self._config(network, plugin, runtime_config, result), request.derive(command="CHECK"))

    def status(self, network: Network, request: Request) -> None:
        """Check that the network could serve an ADD; raises the error of the first plugin that could not.

        Does nothing for a network of a version without STATUS. A missing plugin is an error with code UNAVAILABLE.
        """
        if not versions.at_least(network.version, "1.1.0"):
            return
        try:
            self.check_plugins(network, request.path)
        except CniError as error:
            raise CniError(Code.UNAVAILABLE, error.msg) from error
        for plugin in network.plugins:
            self._call(self._config(network, plugin), request.derive(command="STATUS"))

    def gc(self, network: Network, request: Request) -> None:
        """Let every plugin release what belongs to none of the request's valid attachments. All are called.

        Does nothing for a network with disableGC, or of a version without GC.
        """
        if network.disable_gc or not versions.at_least(network.version, "1.1.0"):
            return
        valid = [{"containerID": c, "ifname": i} for c, i in sorted(request.valid_attachments)]
        # The specification has two names for the key; plugins read one or the other.
        keys = {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
        self._call_all(
            network.plugins, lambda plugin: self._config(network, plugin) | keys, request.derive(command="GC")
        )

    def _add(self, request: Request, version: str) -> Result:
        kind = request.config["type"]
        if kind in self._builtin:
            return results.read(self._builtin[kind].add(request), versions.LATEST)
        return read_output(run_plugin(find_plugin(kind, request.path), request), version)

    def _undo(
        self,
        network: Network,
        failed: int,
        request: Request,
        runtime_config: Mapping[str, Any] | None,
        result: Result | None,
    ) -> CniError | None:
        """Call DEL of the failed plugin and of those before it; log and return the error of that."""
        begun = replace(network, plugins=network.plugins[: failed + 1])
        deadline = max(request.deadline, time.monotonic() + UNDO_TIME)
        try:
            self.delete(begun, request.derive(deadline=deadline), runtime_config, result)
        except CniError as error:
            log.warning("network %s of container %s: undoing ADD: %s", network.name, request.container_id, error)
            return error
        return None

    def _call_all(
        self,
        plugins: Sequence[dict[str, Any]],
        configure: Callable[[dict[str, Any]], dict[str, Any]],
        request: Request,
    ) -> None:
        """Call every plugin, even after errors of others; raise the first error, with the messages of the rest."""
        errors = []
        for plugin in plugins:
            try:
                self._call(configure(plugin), request)
            except CniError as error:
                errors.append(error)
            except Exception as error:
                log.exception("%s of plugin %s", request.command, plugin["type"])
                errors.append(_of_plugin(CniError(Code.INTERNAL, f"{type(error).__name__}: {error}"), plugin))
        if errors:
            raise combined(errors)

    def _call(self, config: dict[str, Any], request: Request) -> None:
        """Call any verb but ADD of one plugin."""
        kind = config["type"]
        request = request.derive(config=config)
        try:
            request.check_deadline()
            if kind in self._builtin:
                getattr(self._builtin[kind], _METHODS[request.command])(request)
            else:
                run_plugin(find_plugin(kind, request.path), request)
        except CniError as error:
            raise _of_plugin(error, config) from error

    def _config(
        self,
        network: Network,
        plugin: Mapping[str, Any],
        runtime_config: Mapping[str, Any] | None = None,
        previous: Result | None = None,
    ) -> dict[str, Any]:
        """Return what one plugin reads on standard input (specification, "Deriving request configuration")."""
        config = {**plugin, "name": network.name, "cniVersion": network.version}
        if previous is not None:
            config["prevResult"] = results.write(previous, network.version)
        if runtime_config:
            wanted = self.capabilities(plugin)
            passed = {key: value for key, value in runtime_config.items() if key in wanted}
            if passed:
                config["runtimeConfig"] = passed
        return config


def read_output(stdout: bytes, version: str) -> Result:
    """Parse the result that an executed plugin printed. Raises CniError(DECODING_FAILURE)."""
    try:
        raw = msgspec.json.decode(stdout)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CniError(
            Code.DECODING_FAILURE, f"result: expected a JSON object, got {_short(stdout.decode(errors='replace'))}"
        ) from error
    return results.read(raw, version)


def _plugins(raw: dict[str, Any]) -> list[dict[str, Any]]:
    if raw.get("type"):
        return [_plugin("", raw)]
    plugins = raw.get("plugins")
    if plugins is None:
        raise CniError(Code.INVALID_CONFIG, 'expected key "type" or key "plugins"')
    if not isinstance(plugins, list) or not plugins:
        raise CniError(
            Code.INVALID_CONFIG, f'key "plugins": expected a list of plugin configurations, got {_short(plugins)}'
        )
    return [_plugin(f"plugins[{index}]: ", plugin) for index, plugin in enumerate(plugins)]


def _plugin(where: str, plugin: object) -> dict[str, Any]:
    if not isinstance(plugin, dict):
        raise CniError(Code.INVALID_CONFIG, f"{where}expected an object, got {_short(plugin)}")
    try:
        check_kind(plugin.get("type"))
    except CniError as error:
        raise CniError(error.code, f"{where}{error.msg}") from None
    capabilities = plugin.get("capabilities")
    flags = capabilities.values() if isinstance(capabilities, dict) else [capabilities]
    if capabilities is not None and not all(isinstance(flag, bool) for flag in flags):
        raise CniError(
            Code.INVALID_CONFIG,
            f'{where}key "capabilities": expected an object of true and false, got {_short(capabilities)}',
        )
    return plugin


def flag(raw: Mapping[str, Any], key: str) -> bool:
    """Return a boolean of a list, false if missing; it may be a string, as early runtimes accepted.

    Raises CniError(INVALID_CONFIG).
    """
    value = raw.get(key, False)
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise CniError(Code.INVALID_CONFIG, f'key "{key}": expected true or false, got {value!r}')
    return value


def _of_plugin(error: CniError, config: Mapping[str, Any]) -> CniError:
    return error.prefixed(f"plugin {config['type']}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
