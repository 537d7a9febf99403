"""Certificates for tests, made with openssl: an authority and the certificates that it signs.

authority = Authority(folder, HAND_MADE)
certificate, key, serial = authority.issue("server", "serverAuth")
"""

from __future__ import annotations

import ssl
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The extensions of an authority and of the certificates it signs, in the syntax of openssl's configuration.

    `names` are the server's names; `expired` makes certificates whose validity has ended.
    """

    authority: tuple[str, ...]
    signed: tuple[str, ...] = ("basicConstraints=CA:FALSE", "authorityKeyIdentifier=keyid")
    names: str = "IP:127.0.0.1"
    expired: bool = False


# What `openssl req -x509 -subj /CN=...` makes by default: MicroK8s, most tutorials, many administrators.
HAND_MADE = Profile(
    authority=(
        "subjectKeyIdentifier=hash",
        "authorityKeyIdentifier=keyid:always",
        "basicConstraints=critical,CA:TRUE",
    )
)
# EKS: its CA has no subject key identifier, so certificates that it signs have no authority key identifier.
WITHOUT_IDENTIFIERS = Profile(
    authority=(
        "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign",
        "basicConstraints=critical,CA:TRUE",
        "subjectKeyIdentifier=none",
    ),
    signed=("basicConstraints=CA:FALSE", "subjectKeyIdentifier=none", "authorityKeyIdentifier=none"),
)
NOT_CRITICAL = Profile(
    authority=("basicConstraints=CA:TRUE", "subjectKeyIdentifier=hash", "keyUsage=keyCertSign"),
)

_CONFIG = """
[req]
distinguished_name=dn
[dn]
[ca]
default_ca=own
[own]
database={folder}/index
new_certs_dir={folder}
default_md=sha256
policy=any
serial={folder}/serial
unique_subject=no
[any]
commonName=supplied
"""
_DAYS = ("-days", "2")
_OVER = ("-startdate", "200101000000Z", "-enddate", "200102000000Z")


class Authority:
    """The certificate authority of one test; `certificate` is a file in `folder`."""

    def __init__(self, folder: Path, profile: Profile = HAND_MADE) -> None:
        self._folder, self._profile = folder, profile
        self.certificate, self._key = folder / "ca.crt", folder / "ca.key"
        self._config = folder / "openssl.cnf"
        self._config.write_text(_CONFIG.format(folder=folder))  # the system's openssl.cnf would add extensions
        (folder / "index").touch()
        command = ["req", "-x509", "-config", str(self._config), *_new_key(self._key, "test"), *_DAYS]
        command += [part for extension in profile.authority for part in ("-addext", extension)]
        _openssl(*command, "-out", str(self.certificate))

    def issue(self, name: str, usage: str) -> tuple[Path, Path, str]:
        """Issue a certificate. Return its file, its key's file and its serial number in the ssl module's format.

        The files replace earlier ones of the same name.
        """
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        new, new_key, request = (self._folder / f"new.{kind}" for kind in ("crt", "key", "csr"))
        _openssl("req", "-new", "-config", str(self._config), *_new_key(new_key, name), "-out", str(request))
        serial = f"1{uuid.uuid4().hex[1:]}".upper()
        (self._folder / "serial").write_text(f"{serial}\n")
        self._sign(request, new, usage)
        new_key.replace(key)
        new.replace(certificate)
        return certificate, key, serial

    def server_context(self) -> ssl.SSLContext:
        """A server context that requests a client certificate, and accepts clients without one."""
        certificate, key, _ = self.issue("server", "serverAuth")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(self.certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _sign(self, request: Path, certificate: Path, usage: str) -> None:
        names = self._profile.names
        extensions = (
            *self._profile.signed,
            f"extendedKeyUsage={usage}",
            *([f"subjectAltName={names}"] * bool(names)),
        )
        (self._folder / "extensions").write_text("\n".join(extensions) + "\n")
        command = ["ca", "-config", str(self._config), "-batch", "-notext"]
        command += ["-cert", str(self.certificate), "-keyfile", str(self._key), "-in", str(request)]
        command += ["-extfile", str(self._folder / "extensions"), "-out", str(certificate)]
        _openssl(*command, *(_OVER if self._profile.expired else _DAYS))


def _new_key(file: Path, name: str) -> Sequence[str]:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    return (*curve, "-nodes", "-subj", f"/CN={name}", "-keyout", str(file))


def _openssl(*arguments: str) -> None:
    run = subprocess.run(["openssl", *arguments], check=False, capture_output=True, text=True)
    assert run.returncode == 0, f"openssl {' '.join(arguments)}: {run.stderr}"
