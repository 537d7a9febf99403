"""The cluster's certificate authority and the certificates that it signs, created with openssl."""

from __future__ import annotations

from pathlib import Path

from cluster.run import run

DAYS = "3650"


class Authority:
    """A certificate authority in a directory. Its certificates are NAME.crt there, with keys NAME.key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        # Not the machine's own configuration, which adds extensions.
        (folder / "openssl.cnf").write_text("[req]\ndistinguished_name=subject\n[subject]\n")
        usage = "keyUsage=critical,keyCertSign,cRLSign"
        _openssl(
            folder, "ca", "/CN=cluster", "basicConstraints=critical,CA:TRUE", "subjectKeyIdentifier=hash", usage
        )

    @property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        return self.folder / "ca.crt"

    def sign(self, name: str, subject: str, *extensions: str) -> tuple[Path, Path]:
        """Sign a certificate for `subject`, such as /O=system:nodes/CN=system:node:node1; return it and its key."""
        signed = (*("-CA", "ca.crt", "-CAkey", "ca.key"), "-addext", "authorityKeyIdentifier=keyid")
        _openssl(self.folder, name, subject, "basicConstraints=critical,CA:FALSE", *extensions, more=signed)
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Create an RSA key and its public key, for the tokens of service accounts."""
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    run("openssl", "genrsa", "-out", str(private), "2048")
    run("openssl", "rsa", "-in", str(private), "-pubout", "-out", str(public))
    return private, public


def _openssl(folder: Path, name: str, subject: str, *extensions: str, more: tuple[str, ...] = ()) -> None:
    added = [part for extension in extensions for part in ("-addext", extension)]
    new = ("-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", DAYS)
    run(
        *(
            "openssl",
            "req",
            *new,
            "-config",
            "openssl.cnf",
            "-subj",
            subject,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.crt",
            *more,
            *added,
        ),
        folder=folder,
    )
