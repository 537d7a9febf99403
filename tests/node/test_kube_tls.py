"""Which certificates are accepted: those that Go's clients accept, even if Python is stricter."""

from __future__ import annotations

import base64
import json
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3

from tests.apiserver import ApiServer
from tests.certificates import HAND_MADE, NOT_CRITICAL, WITHOUT_IDENTIFIERS, Profile
from tests.node.test_kube_apiserver import Proxy
from wirespeed.errors import Error, Kind
from wirespeed.kube.apiserver import ApiCluster
from wirespeed.kube.cluster import UnavailableError


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify certificates with the defaults of Python 3.13 and later, also on older versions."""
    newer = SimpleNamespace(**{**vars(sys), "version_info": max(sys.version_info, (3, 13))})
    monkeypatch.setattr("urllib3.util.ssl_.sys", newer)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[Profile], ApiServer]]:
    """Start API servers with certificates of this profile."""
    servers: list[ApiServer] = []

    def serve(profile: Profile) -> ApiServer:
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        servers.append(ApiServer(folder, certificates=profile))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.__exit__()


def ask(kubeconfig: Path) -> None:
    """Make a request, which must be answered."""
    cluster = ApiCluster(str(kubeconfig), "n1", watch=False)
    try:
        cluster.check()
    finally:
        cluster.close()


def changed(kubeconfig: Path, **cluster: Any) -> Path:
    """Change keys of the cluster in the kubeconfig; None removes a key."""
    config = json.loads(kubeconfig.read_text())
    config["clusters"][0]["cluster"] |= {key.replace("_", "-"): value for key, value in cluster.items()}
    kubeconfig.write_text(json.dumps(config))
    return kubeconfig


TAKEN = {"hand-made": HAND_MADE, "without identifiers": WITHOUT_IDENTIFIERS, "not critical": NOT_CRITICAL}


@pytest.mark.parametrize("profile", TAKEN.values(), ids=TAKEN)
def test_authorities_that_go_takes_are_taken(serving: Callable[[Profile], ApiServer], profile: Profile) -> None:
    api = serving(profile)
    with (
        urllib3.PoolManager(ca_certs=str(api.ca_file), retries=False) as pool,
        pytest.raises(urllib3.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        pool.request("GET", api.url)  # strict mode is on: the default verification rejects it
    ask(api.kubeconfig())
    assert api.counts() == {"GET /version": 1}


@pytest.mark.parametrize("profile", TAKEN.values(), ids=TAKEN)
def test_client_certificates_and_watches_go_by_the_same_rules(
    serving: Callable[[Profile], ApiServer], profile: Profile
) -> None:
    api = serving(profile)
    certificate, key = api.certificate()
    names = {"client-certificate": str(certificate), "client-key": str(key)}
    cluster = ApiCluster(str(api.kubeconfig(**names)), "n1")
    try:
        api.wait(lambda: len(api.watches) == 2)
    finally:
        cluster.close()


def test_authority_inside_the_kubeconfig_is_taken(serving: Callable[[Profile], ApiServer]) -> None:
    api = serving(HAND_MADE)
    data = base64.b64encode(api.ca_file.read_bytes()).decode()
    kubeconfig = changed(api.kubeconfig(), certificate_authority_data=data)
    config = json.loads(kubeconfig.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority"]
    kubeconfig.write_text(json.dumps(config))
    ask(kubeconfig)


def test_proxy_with_tls_goes_by_the_same_rules(
    serving: Callable[[Profile], ApiServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    api = serving(HAND_MADE)
    server = api.ca_file.with_name("server.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server, server.with_suffix(".key"))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as proxy:
        proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
        serve = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        serve.start()
        ask(changed(api.kubeconfig(), proxy_url=f"https://127.0.0.1:{proxy.server_address[1]}"))
        proxy.shutdown()
        serve.join()
    assert api.counts() == {"GET /version": 1}


def test_certificate_that_is_trusted_itself_ends_the_chain(serving: Callable[[Profile], ApiServer]) -> None:
    api = serving(HAND_MADE)
    server = api.ca_file.with_name("server.crt")  # its issuer is not in the file
    ask(changed(api.kubeconfig(), certificate_authority=str(server)))


def test_name_of_the_server_is_what_the_kubeconfig_says(serving: Callable[[Profile], ApiServer]) -> None:
    api = serving(replace(HAND_MADE, names="DNS:kubernetes.default"))
    ask(changed(api.kubeconfig(), tls_server_name="kubernetes.default"))
    with pytest.raises(UnavailableError, match=r"certificate is not valid for 'kubernetes\.other'"):
        ask(changed(api.kubeconfig(), tls_server_name="kubernetes.other"))


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (replace(HAND_MADE, names="IP:127.0.0.2,DNS:localhost"), "certificate is not valid for '127.0.0.1'"),
        (replace(HAND_MADE, names=""), "certificate is not valid for '127.0.0.1'"),  # the common name is ignored
        (replace(HAND_MADE, expired=True), "certificate has expired"),
        (replace(WITHOUT_IDENTIFIERS, expired=True), "certificate has expired"),
    ],
    ids=["other address", "no names", "expired", "expired without identifiers"],
)
def test_wrong_certificates_are_refused(
    serving: Callable[[Profile], ApiServer], profile: Profile, reason: str
) -> None:
    api = serving(profile)
    with pytest.raises(UnavailableError) as caught:
        ask(api.kubeconfig())
    assert caught.value.msg.startswith(f"pods and networks: no answer from the API server: {api.url}: ")
    assert reason in caught.value.msg
    assert not api.requests


def test_common_name_of_the_server_is_not_its_name(serving: Callable[[Profile], ApiServer]) -> None:
    api = serving(replace(HAND_MADE, names=""))
    with pytest.raises(UnavailableError, match="certificate is not valid for 'server'"):
        ask(changed(api.kubeconfig(), tls_server_name="server"))  # the wrong name


@pytest.mark.parametrize("profile", TAKEN.values(), ids=TAKEN)
def test_server_of_another_authority_is_refused(serving: Callable[[Profile], ApiServer], profile: Profile) -> None:
    api, other = serving(profile), serving(profile)
    with pytest.raises(UnavailableError, match="certificate verify failed"):
        ask(changed(api.kubeconfig(), certificate_authority=str(other.ca_file)))
    with pytest.raises(UnavailableError, match="certificate verify failed"):
        ask(changed(other.kubeconfig(), server=api.url))
    assert not api.requests


def test_server_is_not_verified_where_the_kubeconfig_says_so(serving: Callable[[Profile], ApiServer]) -> None:
    api, other = serving(replace(HAND_MADE, names="")), serving(HAND_MADE)
    ask(changed(api.kubeconfig(), insecure_skip_tls_verify=True, certificate_authority=str(other.ca_file)))


def test_files_that_hold_no_certificate_are_named(serving: Callable[[Profile], ApiServer], tmp_path: Path) -> None:
    api = serving(HAND_MADE)
    (tmp_path / "empty").write_text("nothing\n")
    certificate, _key = api.certificate()
    _, other = api.certificate("other")
    for kubeconfig, what in (
        (
            changed(api.kubeconfig(), certificate_authority=str(tmp_path / "empty")),
            f"certificate authority {tmp_path}/empty: ",
        ),
        (
            api.kubeconfig(**{"client-certificate": str(certificate), "client-key": str(other)}),
            f"client certificate {certificate}: ",
        ),
    ):
        with pytest.raises(Error) as caught:
            ask(kubeconfig)
        assert caught.value.kind == Kind.INVALID_CONFIG
        assert what in caught.value.msg
