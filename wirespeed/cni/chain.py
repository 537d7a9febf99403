"""Networks (conf or conflist), and running their plugins in order, each with the previous one's result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec

from wirespeed.cni import result as results
from wirespeed.cni import versions
from wirespeed.cni.errors import NotUndoneError
from wirespeed.cni.execute import check_kind, find_plugin, run_plugin
from wirespeed.cni.plugin import Capable, DeletesInterface, Plugin, Result, call
from wirespeed.cni.request import Request, check_network_name
from wirespeed.errors import Error, Kind, Thing, about_keys, as_kind, run_all, under, within
from wirespeed.keys import normalize_case
from wirespeed.trace import step

log = logging.getLogger(__name__)

# Keys of lists and of plugins' configurations that are read or written before the plugin gets them.
_KEYS = frozenset(
    {"name", "cniVersion", "cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "plugins"}
    | {"type", "capabilities", "ipam", "args", "prevResult", "runtimeConfig", "deviceID", "pciBusID"}
)
_IPAM_KEYS = frozenset({"type"})
Config = dict[str, Any]  # of one plugin
UNDO_TIME = 30.0  # seconds that undoing a failed ADD may take beyond the request's deadline


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network: `plugins` are the raw configurations, in the order of ADD. `raw` is what was loaded.

    `begin` is the prevResult of its first plugin, for a chain that itself creates no interface. From
    `runtime_config`, each plugin gets the values of its capabilities, except for STATUS.
    """

    name: str
    version: str
    plugins: list[dict[str, Any]]
    disable_check: bool = False
    disable_gc: bool = False
    raw: dict[str, Any] = field(default_factory=dict)
    begin: Result | None = None
    runtime_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        """The `type` of each plugin."""
        return [plugin["type"] for plugin in self.plugins]


def load_network(raw: object, *, name: str = "", version: str = "") -> Network:
    """Load a network from a conf (it has `type`) or a conflist (it has `plugins`), decoded from JSON.

    `name` and `version` are the defaults if it has none of its own. Raises Error: INVALID_CONFIG that names the
    key, INCOMPATIBLE_VERSION for an unknown version.
    """
    if not isinstance(raw, dict):
        raise Error(Kind.INVALID_CONFIG, where=_network_thing(name), expected="an object", got=raw)
    conf = canonical(raw)
    given = conf.get("name") or name
    with within(_network_thing(given)):
        return Network(
            name=check_network_name(given),
            version=versions.highest(conf.get("cniVersion") or version, conf.get("cniVersions")),
            plugins=_plugins(conf),
            disable_check=flag(conf, "disableCheck"),
            disable_gc=flag(conf, "disableGC"),
            raw=raw,
        )


def _network_thing(name: object) -> Thing | str:
    return Thing("network", str(name)) if name else "network without a name"


def canonical(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a conf or conflist with the specification's keys in its spelling; they are case-insensitive."""
    conf = normalize_case(raw, _KEYS)
    ipam = conf.get("ipam")
    if isinstance(ipam, dict):
        conf["ipam"] = normalize_case(ipam, _IPAM_KEYS)
    if isinstance(conf.get("plugins"), list):
        conf["plugins"] = [canonical(each) if isinstance(each, dict) else each for each in conf["plugins"]]
    return conf


# Returns the plugin in this process that does the same as the executable for a configuration, given the folders of
# CNI_PATH; None if there is none.
InProcess = Callable[[Mapping[str, Any], Sequence[str]], Plugin | None]


class Chain:
    """Runs networks: `plugins`, by `type`, are called in this process, and so are those that `in_process` returns.

    All others are executed from CNI_PATH. Of a request, container, interface, arguments, path and deadline are
    used; the configuration of each plugin is derived from the network. Every error names the plugin.
    """

    def __init__(self, plugins: Mapping[str, Plugin], in_process: InProcess = lambda _config, _path: None) -> None:
        self._builtin = plugins
        self._in_process = in_process

    def capabilities(self, plugin: Mapping[str, Any]) -> frozenset[str]:
        """Return the keys of a runtimeConfig that the plugin with this configuration gets.

        These are the capabilities that it declares, and those that a plugin in this process reads anyway, unless
        they are declared as false. Raises Error(INTERNAL) if a plugin in this process cannot be created.
        """
        declared = plugin.get("capabilities") or {}
        wanted = frozenset(key for key, flag in declared.items() if flag is True)
        if plugin["type"] in self._builtin:
            with within(Thing("plugin", plugin["type"])):
                builtin = self._make(plugin["type"])
            if isinstance(builtin, Capable):
                wanted |= builtin.capabilities(plugin) - declared.keys()
        return wanted

    def executes(self, plugin: Mapping[str, Any], path: Sequence[str]) -> bool:
        """Whether the plugin with this configuration is executed as a separate process, from a folder of `path`."""
        return self._plugin(plugin, path) is None

    def _plugin(self, config: Mapping[str, Any], path: Sequence[str]) -> Plugin | None:
        """Return the plugin in this process; None if it is executed. Raises Error(INTERNAL)."""
        if config["type"] in self._builtin:
            return self._make(config["type"])
        return self._in_process(config, path)

    def begins_by_deleting(self, network: Network, path: Sequence[str]) -> bool:
        """Whether DEL of the network deletes the pod's interface before anything else, in this process."""
        if len(network.plugins) != 1:
            return False  # another plugin of the chain may need the interface
        return isinstance(self._plugin(network.plugins[0], path), DeletesInterface)

    def check_plugins(self, network: Network, path: Sequence[str]) -> None:
        """Check that each plugin is in this process or in one of the folders of `path`.

        Raises Error that names it: INVALID_CONFIG, or INTERNAL if one in this process cannot be created.
        """
        for plugin in network.plugins:
            with within(Thing("plugin", plugin["type"])):
                if self._plugin(plugin, path) is None:
                    find_plugin(plugin["type"], path)

    def _make(self, kind: str) -> Plugin:
        try:
            return self._builtin[kind]
        except Exception as error:
            log.exception("plugin %s", kind)
            raise Error(Kind.INTERNAL, f"cannot be created: {type(error).__name__}: {error}") from error

    def add(self, network: Network, request: Request) -> Result:
        """Attach the container; return the last plugin's result.

        If a plugin fails, it and those before it are undone. Raises NotUndoneError if that fails too.
        """
        request = request.derive(command="ADD")
        result = network.begin
        for index, plugin in enumerate(network.plugins):
            try:
                request.check_deadline()
                config = self._config(network, plugin, result)
                with step(f"plugin {plugin['type']}"):
                    result = self._add(request.derive(config=config), network.version)
            except BaseException as error:
                begun = replace(network, plugins=network.plugins[: index + 1])
                failure = self._undo(begun, request, result)
                if not isinstance(error, Error):
                    raise
                named = error.within(Thing("plugin", plugin["type"]))
                if failure is None:
                    raise named from error
                raise NotUndoneError(named, failure) from error
        return result or results.empty()

    def delete(self, network: Network, request: Request, result: Result | None = None) -> None:
        """Detach the container by all plugins, in reverse order; `result` is ADD's. Raises all errors as one."""
        if not versions.at_least(network.version, "0.4.0"):
            result = None
        configure = partial(self._config, network, previous=result)
        self._call_all(network.plugins[::-1], configure, request.derive(command="DEL"))

    def check(self, network: Network, request: Request, result: Result | None = None) -> None:
        """Check the attachment of `result`, unless disableCheck is set or the version lacks CHECK. Raises Error."""
        if network.disable_check or not versions.at_least(network.version, "0.4.0"):
            return
        for plugin in network.plugins:
            self._call(self._config(network, plugin, result), request.derive(command="CHECK"))

    def status(self, network: Network, request: Request) -> None:
        """Check that the network could serve an ADD; raises the error of the first plugin that could not.

        Does nothing for a network of a version without STATUS. A missing plugin is an error of kind UNAVAILABLE.
        """
        if not versions.at_least(network.version, "1.1.0"):
            return
        with as_kind(Kind.UNAVAILABLE):
            self.check_plugins(network, request.path)
        network = replace(network, runtime_config={})
        for plugin in network.plugins:
            self._call(self._config(network, plugin), request.derive(command="STATUS"))

    def gc(self, network: Network, request: Request) -> None:
        """Let all plugins release what is no valid attachment, unless disableGC is set or the version has no GC."""
        if network.disable_gc or not versions.at_least(network.version, "1.1.0"):
            return
        valid = [{"containerID": c, "ifname": i} for c, i in sorted(request.valid_attachments)]
        # The specification has two names for the key; plugins read one or the other.
        keys = {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
        self._call_all(
            network.plugins, lambda plugin: self._config(network, plugin) | keys, request.derive(command="GC")
        )

    def _add(self, request: Request, version: str) -> Result:
        plugin = self._plugin(request.config, request.path)
        if plugin is not None:
            return results.read(plugin.add(request), versions.LATEST)
        return read_output(run_plugin(find_plugin(request.config["type"], request.path), request), version)

    def _undo(self, network: Network, request: Request, result: Result | None) -> Error | None:
        """Call DEL of the plugins that were begun; log and return the error of that."""
        deadline = max(request.deadline, time.monotonic() + UNDO_TIME)
        try:
            with step("undo"):
                self.delete(network, request.derive(deadline=deadline, undo=True), result)
        except Error as error:
            log.warning("network %s of container %s: undoing ADD: %s", network.name, request.container_id, error)
            return error
        return None

    def _call_all(self, plugins: Sequence[Config], configure: Callable[[Config], Config], request: Request) -> None:
        """Call every plugin, even after errors of others; raise the first error, with the messages of the rest."""

        def call_one(plugin: Config) -> None:
            try:
                self._call(configure(plugin), request)
            except Error:
                raise
            except Exception as error:
                log.exception("%s of plugin %s", request.command, plugin["type"])
                text = f"{type(error).__name__}: {error}"
                raise Error(Kind.INTERNAL, text, where=Thing("plugin", plugin["type"])) from error

        run_all(partial(call_one, plugin) for plugin in plugins)

    def _call(self, config: Config, request: Request) -> None:
        """Call any verb but ADD of one plugin."""
        kind = config["type"]
        request = request.derive(config=config)
        with within(Thing("plugin", kind)), step(f"plugin {kind}", verb=request.command):
            request.check_deadline()
            plugin = self._plugin(config, request.path)
            if plugin is not None:
                call(plugin, request)
            else:
                run_plugin(find_plugin(kind, request.path), request)

    def _config(self, network: Network, plugin: Config, previous: Result | None = None) -> Config:
        """Return what one plugin reads on standard input (specification, "Deriving request configuration")."""
        config = {**plugin, "name": network.name, "cniVersion": network.version}
        if previous is not None:
            config["prevResult"] = results.write(previous, network.version)
        if network.runtime_config:
            wanted = self.capabilities(plugin)
            passed = {key: value for key, value in network.runtime_config.items() if key in wanted}
            if passed:
                config["runtimeConfig"] = passed
        return config


def read_output(stdout: bytes, version: str) -> Result:
    """Parse the result that an executed plugin printed. Raises Error(INVALID_DATA)."""
    try:
        raw = msgspec.json.decode(stdout)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        printed = stdout.decode(errors="replace")
        raise Error(Kind.INVALID_DATA, where="result", expected="a JSON object", got=printed) from error
    return results.read(raw, version)


def _plugins(raw: dict[str, Any]) -> list[dict[str, Any]]:
    if raw.get("type"):
        return [_plugin(raw)]
    plugins = raw.get("plugins")
    if plugins is None:
        keys = about_keys("type", "plugins")
        raise Error(Kind.INVALID_CONFIG, expected='the key "type" or the key "plugins"', about=keys)
    if not isinstance(plugins, list) or not plugins:
        raise Error(Kind.INVALID_CONFIG, key="plugins", expected="a list of plugin configurations", got=plugins)
    for index, plugin in enumerate(plugins):
        with under("plugins", index):
            _plugin(plugin)
    return plugins


def _plugin(plugin: object) -> dict[str, Any]:
    """Return the configuration of a plugin if it is valid."""
    if not isinstance(plugin, dict):
        raise Error(Kind.INVALID_CONFIG, expected="an object", got=plugin)
    check_kind(plugin.get("type"))
    capabilities = plugin.get("capabilities")
    flags = capabilities.values() if isinstance(capabilities, dict) else [None]
    if capabilities is not None and not all(isinstance(flag, bool) for flag in flags):
        expected = "an object of true and false"
        raise Error(Kind.INVALID_CONFIG, key="capabilities", expected=expected, got=capabilities)
    return plugin


def flag(raw: Mapping[str, Any], key: str) -> bool:
    """Return a boolean of a list, false if missing; early runtimes accepted text. Raises Error(INVALID_CONFIG)."""
    value = raw.get(key, False)
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise Error(Kind.INVALID_CONFIG, key=key, expected="true or false", got=value)
    return value
