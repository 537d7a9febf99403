"""Address of the API server and our credentials, read by the client library; read again when a file changes."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kubernetes import client, config
from kubernetes.config import incluster_config, kube_config

from wirespeed.errors import Error, Kind
from wirespeed.kube import kubeconfig, tls
from wirespeed.system.files import FileState, file_state

_PROBLEMS = (config.ConfigException, yaml.YAMLError, OSError, ValueError, LookupError, TypeError, AttributeError)


class Loaded(NamedTuple):
    """The client library's configuration, and the TLS context made from it, None without TLS."""

    configuration: Any
    tls: ssl.SSLContext | None


class Credentials:
    """The credentials in the files `kubeconfigs`, of their `context` ("": the current one); "" or no file is the
    in-cluster service account. `namespace` is the context's.

    Tokens and certificates are replaced at run time, by the kubelet, a certificate manager or an operator.
    """

    def __init__(self, *kubeconfigs: str, context: str = "") -> None:
        # as the library does
        self._kubeconfigs = tuple(os.path.expanduser(each) for each in kubeconfigs if each)
        self._context = context
        named = ", ".join(filter(None, kubeconfigs))
        self.label = f"kubeconfig {named}" if named else "in-cluster service account"
        self.namespace = "default"
        self._files: dict[str, FileState] = {}

    def load(self) -> Loaded:
        """Read the files as they are now. Raises Error(INVALID_CONFIG)."""
        configuration = client.Configuration()
        try:
            token_file = self._fill(configuration)
            if token_file:
                # The library reads a kubeconfig's token file only once, and does not strip a trailing newline.
                configuration.api_key["BearerToken"] = f"Bearer {_token(token_file)}"
                configuration.refresh_api_key_hook = None  # it would restore the library's own token
            _header(configuration)
            urls = (configuration.host, configuration.proxy or "")
            encrypted = any(url.lower().startswith("https:") for url in urls)
            secure = tls.context(configuration) if encrypted else None
        except _PROBLEMS as error:
            hint = "" if self._kubeconfigs else "set cluster.kubeconfig or cluster.manifests in the configuration"
            where = f"API server from the {self.label}"
            raise Error(Kind.INVALID_CONFIG, _one_line(error), where=where, hint=hint) from error
        certificates = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
        self._files = {file: file_state(file) for file in (*self._kubeconfigs, token_file, *certificates) if file}
        return Loaded(configuration, secure)

    def changed(self) -> bool:
        """Whether one of the files has changed since it was loaded."""
        return any(file_state(file) != seen for file, seen in self._files.items())

    def _fill(self, configuration: Any) -> str:
        """Fill the configuration; return the file with the token, "" if it has no separate file."""
        if not self._kubeconfigs:
            config.load_incluster_config(configuration, try_refresh_token=False)
            return str(incluster_config.SERVICE_TOKEN_FILENAME)
        raw = kubeconfig.read(self._kubeconfigs)
        node = kube_config.ConfigNode(self._kubeconfigs[0], raw, self._kubeconfigs[0])
        loader = kube_config.KubeConfigLoader(node, self._context or None, config_base_path=None)
        loader.load_and_set(configuration)
        context = kubeconfig.by_name(raw["contexts"], self._context or raw["current-context"])["context"]
        self.namespace = context.get("namespace") or "default"
        return _token_file(raw, context)


def authorization(configuration: Any) -> str:
    """Return the Authorization header, "" for none, renewed if it is of an exec plugin. Raises Error(TRY_AGAIN)."""
    try:
        return _header(configuration)
    except _PROBLEMS as error:
        raise Error(Kind.TRY_AGAIN, _one_line(error), where="credentials") from error


def _header(configuration: Any) -> str:
    header = configuration.get_api_key_with_prefix("BearerToken") or ""
    if not header.isascii() or not header.isprintable():
        raise ValueError("expected a token of one line of ASCII characters")
    return str(header)


def _token_file(raw: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Return the tokenFile of the context's user; it takes precedence over a token in the kubeconfig."""
    user = kubeconfig.by_name(raw.get("users"), context.get("user", "")).get("user") or {}
    return str(user.get("tokenFile") or "")


def _token(file: str) -> str:
    token = Path(file).read_text().strip()
    if not token:
        raise ValueError(f"{file}: expected a token, got nothing")
    return token


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
