"""What a build uses of this host, without a trace in the result: mirror, proxies, certificates, pip settings."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lab.errors import LabError

# Where recipes see the directory that `carry` fills (recipes/chroot.sh).
INSIDE = "/run/carry"
MIRROR_VARIABLE = "WIRESPEED_LAB_MIRROR"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
DEBIANS_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def mirror(environment: Mapping[str, str]) -> str:
    """Return this host's Debian mirror from apt's configuration. Raises LabError if apt has none."""
    if MIRROR_VARIABLE in environment:
        return environment[MIRROR_VARIABLE]
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in listing.splitlines():
        uri, _, label = line.rpartition(" ")
        if label == "Debian":
            return uri
    raise LabError(f"apt on this host knows no Debian mirror; name one in {MIRROR_VARIABLE}")


def apt_settings() -> str:
    """Return this host's apt settings for downloads, in apt.conf syntax."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False).stdout
    # Without the lists themselves and the languages: the new root has its own.
    return "".join(f"{line}\n" for line in dump.splitlines() if "::" in line and "Languages" not in line)


def pip_settings(environment: Mapping[str, str], home: Path, folder: Path) -> dict[str, str]:
    """Copy pip's configuration and certificates into `folder`; return environment variables that point to them.

    pip reads, in this order: XDG_CONFIG_DIRS/pip/pip.conf, ~/.pip/pip.conf, XDG_CONFIG_HOME/pip/pip.conf,
    PIP_CONFIG_FILE, PIP_* variables. Directories of wheels in PIP_FIND_LINKS are listed in `folder`/binds.
    """
    files = {
        Path("/etc/pip.conf"): "site/pip/pip.conf",
        home / ".pip/pip.conf": "home/.pip/pip.conf",
        Path(environment.get("XDG_CONFIG_HOME", str(home / ".config"))) / "pip/pip.conf": "user/pip/pip.conf",
        Path(environment.get("PIP_CONFIG_FILE", os.devnull)): "pip.conf",
    }
    result = {name: value for name, value in environment.items() if name.startswith("PIP_") or name in PROXIES}
    for source, place in files.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copyfile(source, target)
    result |= {"HOME": f"{INSIDE}/home", "XDG_CONFIG_DIRS": f"{INSIDE}/site", "XDG_CONFIG_HOME": f"{INSIDE}/user"}
    result["PIP_CONFIG_FILE"] = f"{INSIDE}/pip.conf"
    (folder / "pip.conf").touch()
    bundle = next((environment[name] for name in CERTIFICATES if name in environment), DEBIANS_BUNDLE)
    if Path(bundle).is_file():
        shutil.copyfile(bundle, folder / "certificates.pem")
        result |= {"PIP_CERT": f"{INSIDE}/certificates.pem", "SSL_CERT_FILE": f"{INSIDE}/certificates.pem"}
    links = environment.get("PIP_FIND_LINKS", "").split()
    folders = [link for link in links if Path(link).is_dir()]
    places = {link: f"/run/links/{n}" for n, link in enumerate(folders)}
    (folder / "binds").write_text("".join(f"{link} {place}\n" for link, place in places.items()))
    if links:
        # Missing directories stay in the list: pip only warns about them.
        result["PIP_FIND_LINKS"] = " ".join(places.get(link, link) for link in links)
    return result


def carry(folder: Path) -> dict[str, str]:
    """Fill `folder` for one build; return the environment of its recipes, including the mirror."""
    result = pip_settings(os.environ, Path.home(), folder)
    (folder / "apt.conf").write_text(apt_settings())
    return result | {
        "CARRY": str(folder),
        "MIRROR": mirror(os.environ),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    }
