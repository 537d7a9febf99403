"""Choice between KVM and TCG. /dev/kvm alone proves nothing: the probe boots the lab's kernel under KVM."""

import hashlib
import os
import platform
import subprocess
import time
from pathlib import Path

from lab.build import Artefacts
from lab.errors import LabError
from lab.process import spawn
from lab.progress import Progress
from lab.scratch import scratch
from lab.vm import Machine, base_arguments, qemu_program, stop

PROBE_TIMEOUT = 15.0
SIGN = "LAB-PROBE-OK"


def choose(artefacts: Artefacts, wanted: str, progress: Progress) -> str:
    """Return "kvm" or "tcg". Raises LabError if kvm is requested and does not work."""
    if wanted != "tcg" and kvm_works(artefacts, progress):
        return "kvm"
    if wanted == "kvm":
        raise LabError("the lab's kernel does not boot under kvm on this machine; leave out --accel kvm")
    return "tcg"


def kvm_works(artefacts: Artefacts, progress: Progress) -> bool:
    """Return the result of the probe, cached per host kernel, CPU model and build of the lab."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    circumstances = f"{platform.release()} {platform.version()} {artefacts.qemu} {artefacts.boot} {cpu_model()}"
    answer = artefacts.cache / f"kvm-{hashlib.sha256(circumstances.encode()).hexdigest()[:16]}"
    if answer.is_file():
        return answer.read_text() == "yes"
    with progress.step("trying kvm"):
        works = probe(artefacts)
    partial = answer.with_name(f".{answer.name}.{os.getpid()}")  # another run may be trying it too
    partial.write_text("yes" if works else "no")
    partial.rename(answer)
    progress.say("kvm works" if works else "kvm does not boot the guest's kernel here: using tcg")
    return works


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("model name")), "")


def probe(artefacts: Artefacts) -> bool:
    """Boot kernel and initrd under KVM; the initrd (guest/init) prints SIGN on the console."""
    with scratch() as folder:
        console = folder / "console.log"
        machine = Machine(accel="kvm", extra_kernel="lab.probe")
        command = [*qemu_program(artefacts), *base_arguments(artefacts, machine, console)]
        process = spawn(command, subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PROBE_TIMEOUT
            while time.monotonic() < deadline and process.poll() is None and not answered(console):
                time.sleep(0.05)
            return answered(console)
        finally:
            stop(process)


def answered(console: Path) -> bool:
    return console.exists() and SIGN in console.read_text(errors="replace")
