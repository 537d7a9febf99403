"""The cluster's certificate authority and the certificates that it signs, created with openssl."""

from __future__ import annotations

from pathlib import Path

from image.run import run


class Authority:
    """A certificate authority in a directory. Its certificates are NAME.crt there, with keys NAME.key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        # Not the machine's own configuration, which adds extensions.
        (folder / "openssl.cnf").write_text("[req]\ndistinguished_name=subject\n[subject]\n")
        authority = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl(folder, "ca", "/CN=cluster", *authority, "subjectKeyIdentifier=hash")

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    def sign(self, name: str, subject: str, *extensions: str) -> tuple[Path, Path]:
        """Sign a certificate for `subject`, such as /O=system:nodes/CN=system:node:node1; return it and its key."""
        signed = (*("-CA", "ca.crt", "-CAkey", "ca.key"), "-addext", "authorityKeyIdentifier=keyid")
        _openssl(self.folder, name, subject, "basicConstraints=critical,CA:FALSE", *extensions, more=signed)
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"


def key_pair(folder: Path, name: str) -> None:
    """Create an RSA key and its public key, for the tokens of service accounts."""
    run(["openssl", "genrsa", "-out", f"{name}.key", "2048"], folder=folder)
    run(["openssl", "rsa", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pub"], folder=folder)


def _openssl(folder: Path, name: str, subject: str, *extensions: str, more: tuple[str, ...] = ()) -> None:
    added = [part for extension in extensions for part in ("-addext", extension)]
    new = ("-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650")
    files = ("-config", "openssl.cnf", "-keyout", f"{name}.key", "-out", f"{name}.crt")
    run(["openssl", "req", *new, *files, "-subj", subject, *more, *added], folder=folder)
