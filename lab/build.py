"""Builds the lab's artefacts, each once. A directory appears in the cache only when it is complete."""

import fcntl
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from lab.carry import carry
from lab.errors import LabError, tail
from lab.progress import Progress
from lab.recipe import HOST_TOOLS, LAB, LOCK, Recipe, Recipes, recipes
from lab.scratch import scratch


class Artefacts(NamedTuple):
    """Directories of a finished build."""

    cache: Path
    qemu: Path
    image: Path
    boot: Path


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the lab's cache directory: ${XDG_CACHE_HOME:-~/.cache}/wirespeed/lab."""
    home = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "wirespeed" / "lab"


def finished(cache: Path, wanted: Recipes) -> Artefacts | None:
    """Return the artefacts from which a VM boots, None if one is missing."""
    qemu, image, boot = (cache / part.folder for part in (wanted.qemu, wanted.image, wanted.boot))
    complete = all(path.is_dir() for path in (qemu, image, boot))
    return Artefacts(cache=cache, qemu=qemu, image=image, boot=boot) if complete else None


def build(progress: Progress) -> Artefacts:
    """Build what is missing. Raises LabError with the end of the log if a step fails."""
    cache = cache_folder()
    if not LOCK.is_file():
        raise LabError(f"{LOCK} is missing: the guest's Python packages are installed from it")
    wanted = recipes()
    artefacts = finished(cache, wanted)
    if artefacts is not None:
        return artefacts
    if os.geteuid() != 0:
        raise LabError("building the lab needs root (debootstrap and chroot); running it does not")
    with alone(cache, progress), scratch() as borrowed, Builder(cache, progress) as builder:
        builder.build_all(wanted, borrowed)
    artefacts = finished(cache, wanted)
    if artefacts is None:
        raise LabError(f"the build ended but {cache} lacks an artefact")
    return artefacts


def build_one(recipe: Recipe, progress: Progress, *, cache: Path, environment: dict[str, str]) -> Path:
    """Build one artefact in a separate cache; return its directory. Raises LabError as `build` does."""
    place = cache / recipe.folder
    if place.is_dir():
        return place
    if os.geteuid() != 0:
        raise LabError(f"building {recipe.name} needs root (namespaces)")
    with alone(cache, progress), Builder(cache, progress, environment) as builder:
        builder.make(recipe)
    return place


@contextmanager
def alone(cache: Path, progress: Progress) -> Iterator[None]:
    """Hold the cache's lock, and remove what killed builds have left in the cache.

    A second build waits for the first and then finds everything built.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "build.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step("waiting for another build"):
                fcntl.flock(file, fcntl.LOCK_EX)
        for leftover in cache.glob(".building-*"):
            shutil.rmtree(leftover)
        yield


class Builder:
    """One build. The processes of its recipes are killed when it ends."""

    def __init__(self, cache: Path, progress: Progress, environment: dict[str, str] | None = None) -> None:
        self._cache = cache
        self._progress = progress
        self._logs = cache / "logs"
        self._logs.mkdir(exist_ok=True)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()
        self._environment = environment or {}

    def __enter__(self) -> "Builder":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def build_all(self, wanted: Recipes, borrowed: Path) -> None:
        """Build what is missing. `borrowed` gets the files that `carry` copies from this host."""
        self.install_tools()
        self._environment = carry(borrowed)
        self.make(wanted.base)
        self.side_by_side([wanted.guest], [wanted.qemu])
        self.side_by_side([wanted.python, wanted.boot], [wanted.modules])
        self.make(wanted.image)

    def install_tools(self) -> None:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        packages = sorted({name for tool, name in HOST_TOOLS.items() if shutil.which(tool, path=path) is None})
        if not packages:
            return
        with self._progress.step(f"installing {' '.join(packages)}"):
            apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=600"]
            environment, log = dict(os.environ, DEBIAN_FRONTEND="noninteractive"), self._logs / "host-tools.log"
            if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
                self.execute([*apt, "update"], environment, log)
            self.execute([*apt, "-y", "--no-install-recommends", "install", *packages], environment, log)

    def side_by_side(self, *rows: list[Recipe]) -> None:
        """Build the rows in parallel, the recipes of a row one after the other."""
        with ThreadPoolExecutor(max_workers=len(rows)) as pool:
            running = [pool.submit(self.make_all, row) for row in rows]
            try:
                for row in as_completed(running):
                    row.result()
            except BaseException:
                self.__exit__()  # so that the other thread ends now
                raise

    def make_all(self, wanted: list[Recipe]) -> None:
        for recipe in wanted:
            self.make(recipe)

    def make(self, recipe: Recipe) -> None:
        """Build one artefact in a temporary directory and rename it into place."""
        place = self._cache / recipe.folder
        if place.is_dir():
            return
        target = self._cache / f".building-{recipe.folder}"
        log = self._logs / f"{recipe.folder}.log"
        with self._progress.step(recipe.title):
            target.mkdir()
            environment = self._environment | recipe.settings
            environment |= {name: str(self._cache / made.folder) for name, made in recipe.inputs.items()}
            environment |= {"TARGET": str(target), "LAB": str(LAB), "LOCK": str(LOCK)}
            self.execute([*ISOLATED, "sh", "-eu", "-c", recipe.script], environment, log)
            # Synced before the rename, so that a crash of the machine cannot leave an incomplete artefact.
            subprocess.run(["sync", "-f", str(target)], check=True)
            target.rename(place)

    def execute(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        """Run a command with its output in `log`. Raises LabError with the end of the log if it fails."""
        with log.open("ab") as output, self._lock:
            if self._stopped:
                raise LabError("the build was stopped")
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
            if self._stopped:
                raise LabError("the build was stopped")
        if code:
            shown = log.read_text(errors="replace")
            raise LabError(f"a step failed with exit code {code}; its log is {log}", detail=tail(shown, 25))


# A recipe's mounts and processes end with it, and it is killed when this process ends.
ISOLATED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
