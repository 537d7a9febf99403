"""Starts a container's command in its own namespaces, as runc does. `process` runs this program.

It runs as `python3 -I -S` with two file descriptors as arguments. The first is a file with the plan, a JSON object:

    netns        path of the pod's network namespace
    root         an empty directory, in which the container's root is created
    hostname
    devices      [[path in the container, "c", "b" or "p", major, minor, mode, owner, group]]
    mounts       [[source on this machine, path in the container, options: bind (without submounts), ro, nosuid,
                   nodev, noexec]]
    command      program and arguments
    environment  variables
    folder       working directory
    groups       [[cgroup directory on this machine, mount point in the container]]
    rights       {"user", "group", "groups", "capabilities": numbers, "noNewPrivileges", "privileged",
                 "readOnlyRoot", "memlock": bytes}
    join         0, or the PID of the first process of a container, in which the command is run as another one;
                 only command, environment, folder, groups and rights matter then

The second is a socket. Once the command runs, {"pid": PID on this machine} is written to it; if it cannot run,
{"error": text}. Each byte read from it is a signal number for the command; end of file kills the command. The exit
status is the command's, or 128 plus the number of the signal that killed it.
"""

import ctypes
import json
import os
import re
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
MS_REMOUNT = 32
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 8, 23, 24, 38
CAPABILITY_VERSION = 0x20080522
SYS_MOUNT_SETATTR = 442  # the same number on every architecture
AT_FDCWD, AT_RECURSIVE = -100, 0x8000

CANNOT_RUN = 128  # the exit status of a command that cannot be started, as from a runtime
OLD = "/.old"  # mount point of this machine's root while mounts are made from it
OWN_FOLDERS = ("/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108 — directories that every container has for itself
KINDS = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
RESTRICTIONS = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}
NODES = ("null", "zero", "full", "random", "urandom", "tty")
# Entries of this machine's /dev that containers never get: they have their own, or none.
EXCLUDED_DEVICES = ("pts", "shm", "mqueue", "hugepages", "fd", "stdin", "stdout", "stderr", "ptmx", "console")
CGROUPS = "/sys/fs/cgroup"
# Paths that an unprivileged container cannot see (MASKED) or write (READ_ONLY), from procMount Default.
MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
NAMESPACES = {
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "net": CLONE_NEWNET,
    "pid": CLONE_NEWPID,
    "cgroup": CLONE_NEWCGROUP,
    "mnt": CLONE_NEWNS,
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}

_libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """The container cannot be started; the message is the reason."""


def main() -> NoReturn:
    with open(int(sys.argv[1]), encoding="utf-8") as file:
        plan = json.load(file)
    control = socket.socket(fileno=int(sys.argv[2]))
    control.set_inheritable(False)
    child, problem = start(plan)
    answer = {"error": problem} if problem else {"pid": child}
    try:
        control.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:  # the caller is gone
        os.kill(child, signal.SIGKILL)
    os._exit(watch(child, control))


def start(plan: dict[str, Any]) -> tuple[int, str]:
    """Start the command; return its PID, and why it could not be run ("" if it runs)."""
    groups = [os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder, _ in plan["groups"]]
    if plan["join"]:
        join(plan["join"])
    else:
        call("unshare", CLONE_NEWPID)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        run_child(plan, groups, writer)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as file:
        return child, file.read()


def watch(child: int, control: socket.socket) -> int:
    """Forward signals until the child has ended; return its exit status."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        ready = {file for file, _ in poll.poll()}
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return code if code >= 0 else 128 - code
        numbers = control.recv(64)
        for number in numbers or [signal.SIGKILL]:
            os.kill(child, number)
        if not numbers:
            poll.unregister(control)


def join(process: int) -> None:
    """Enter a process's namespaces. The PID namespace takes effect for children only."""
    kinds = [(os.open(f"/proc/{process}/ns/{name}", os.O_RDONLY), kind) for name, kind in NAMESPACES.items()]
    for file, kind in kinds:
        call("setns", file, kind)
        os.close(file)


def run_child(plan: dict[str, Any], groups: list[int], failure: int) -> NoReturn:
    """Run in the child: set up the container if this is its first process, then exec the command."""
    try:
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        os.umask(0o022)
        if not plan["join"]:
            prepare(plan)
        os.chdir(plan["folder"])
        enter_groups(groups, plan)
        apply_rights(plan["rights"])
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)  # cleared when the user changed, see prctl(2)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these signals
            signal.signal(number, signal.SIG_DFL)
        run(plan["command"], plan["environment"])
    except StartError as error:
        text = str(error)
    except OSError as error:
        text = f"{error.filename or 'container'}: {error.strerror}"
    os.write(failure, text.encode())
    os._exit(CANNOT_RUN)


def run(command: list[str], environment: dict[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 — what the manifest says
    except OSError as error:
        raise StartError(f"command {command[0]}: {error.strerror}") from error


def enter_groups(groups: list[int], plan: dict[str, Any]) -> None:
    """Move this process to the container's cgroups. With v2, its cgroup becomes its cgroup namespace's root."""
    for file, (folder, _) in zip(groups, plan["groups"], strict=True):
        try:
            os.write(file, b"0")
        except OSError as error:
            raise StartError(f"control group {folder}: {error.strerror}") from error
    if not plan["join"] and [place for _, place in plan["groups"]] == [CGROUPS]:
        call("unshare", CLONE_NEWCGROUP)


def apply_rights(rights: dict[str, Any]) -> None:
    """Set the container's user, capabilities and limits for this process, as runc does before the command runs."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = rights["memlock"] if hard == resource.RLIM_INFINITY else min(rights["memlock"], hard)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    kept = {*rights["capabilities"]}
    number = 0
    while (present := _libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:  # an unknown number is an error
        if present and number not in kept:
            call("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)
        number += 1
    if rights["user"]:
        for file in (0, 1, 2):  # so that the user can open /dev/stdout
            if os.fstat(file).st_rdev != os.stat("/dev/null").st_rdev:
                os.fchown(file, rights["user"], -1)
    os.setgroups(rights["groups"])
    call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgid(rights["group"])
    os.setuid(rights["user"])
    call("prctl", PR_SET_KEEPCAPS, 0, 0, 0, 0)
    set_capabilities(sum(1 << number for number in kept))
    if rights["noNewPrivileges"]:
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def set_capabilities(mask: int) -> None:
    """Set the permitted and effective capabilities of this process; clear the inheritable ones."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    try:
        call("capset", header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0))
    except OSError as error:
        raise StartError(f"capabilities {mask:#x}: {error.strerror}") from error


def prepare(plan: dict[str, Any]) -> None:
    """Put this process into the container's namespaces and root."""
    rights = plan["rights"]
    enter(plan["netns"], CLONE_NEWNET)
    call("unshare", CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC)
    move_to(make_root(plan["root"]))
    mount_own()
    mount_groups(plan["groups"])
    create_devices([*(every_device() if rights["privileged"] else ()), *plan["devices"]])
    if not rights["privileged"]:
        hide_kernel()
    mount_volumes(plan["mounts"])
    call("umount2", OLD, MNT_DETACH)
    os.rmdir(OLD)
    socket.sethostname(plan["hostname"])
    os.makedirs(plan["folder"], exist_ok=True)
    if rights["readOnlyRoot"]:  # volumes and /dev stay writable
        remount("/", MS_RDONLY)
        for place in {"/run", "/tmp"} - {os.path.realpath(path) for _, path, _ in plan["mounts"]}:  # noqa: S108
            remount(place, MS_RDONLY | MS_NOSUID | MS_NODEV)


def enter(path: str, kind: int) -> None:
    try:
        with open(path, "rb") as file:
            call("setns", file.fileno(), kind)
    except OSError as error:
        raise StartError(f"namespace {path}: {error.strerror}") from error


def make_root(folder: str) -> str:
    """Create the new root, an overlay of this machine's file system with changes in memory. Return its path."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", options="mode=755")
    upper, work, root = (f"{folder}/{name}" for name in ("upper", "work", "root"))
    for made in (upper, work, root):
        os.mkdir(made)
    mount("overlay", root, "overlay", options=f"lowerdir=/,upperdir={upper},workdir={work}")
    for place in other_mounts():
        mount(place, root + place, flags=MS_BIND | MS_REC)
        restrict(root + place, "ro")
    return root


def other_mounts() -> list[str]:
    """Return the topmost mount points below this machine's root that a container sees too."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        places = {re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4]) for line in file}
    found: list[str] = []
    for place in sorted(places - {"/"}):
        if not any(f"{place}/".startswith(f"{upper}/") for upper in (*found, *OWN_FOLDERS)):
            found.append(place)
    return found


def move_to(root: str) -> None:
    """Make `root` this process's root, with the old one at OLD."""
    os.mkdir(root + OLD)
    done = subprocess.run(["pivot_root", root, root + OLD], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(done.stderr.strip())
    os.chdir("/")


def mount_own() -> None:
    """Mount the directories that every container has for itself, with the standard devices in /dev."""
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k")
    for name in NODES:
        make_node(f"/dev/{name}", stat.S_IFCHR, os.stat(f"{OLD}/dev/{name}").st_rdev, 0o666)
    os.mkdir("/dev/pts")
    os.mkdir("/dev/shm")  # noqa: S108
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5")
    mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k")  # noqa: S108
    for name, target in LINKS.items():
        os.symlink(target, f"/dev/{name}")


def mount_groups(groups: list[list[str]]) -> None:
    """Mount the container's own cgroups, read-only; it sees no others."""
    if groups and groups[0][1] != CGROUPS:
        mount("tmpfs", CGROUPS, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
    for folder, place in groups:
        os.makedirs(place, exist_ok=True)
        mount(OLD + folder, place, flags=MS_BIND)
        restrict(place, "ro", "nosuid", "nodev", "noexec")


def hide_kernel() -> None:
    """Hide or write-protect the parts of /proc and /sys that an unprivileged container must not use."""
    for path in MASKED:
        if os.path.isdir(path):
            mount("tmpfs", path, "tmpfs", MS_RDONLY)
        elif os.path.exists(path):
            mount("/dev/null", path, flags=MS_BIND)
    for path in READ_ONLY:
        if os.path.exists(path):
            mount(path, path, flags=MS_BIND | MS_REC)
            restrict(path, "ro")


def every_device() -> Iterator[list[Any]]:
    """Yield all devices of this machine, which a privileged container gets."""
    top = f"{OLD}/dev"
    for folder, folders, names in os.walk(top):
        left_out = EXCLUDED_DEVICES if folder == top else ()
        folders[:] = [name for name in folders if name not in left_out]
        for name in (name for name in names if name not in left_out):
            node = os.lstat(f"{folder}/{name}")
            if kind := {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(node.st_mode)):
                path, number, mode = f"{folder}/{name}".removeprefix(OLD), node.st_rdev, stat.S_IMODE(node.st_mode)
                yield [path, kind, os.major(number), os.minor(number), mode, node.st_uid, node.st_gid]


def make_node(path: str, kind: int, number: int, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.mknod(path, kind | mode, number)
    os.chmod(path, mode)  # mknod applies the umask


def create_devices(devices: list[list[Any]]) -> None:
    """Create the container's devices; nodes that already exist stay."""
    for path, kind, major, minor, mode, owner, group in devices:
        if not os.path.lexists(path):
            make_node(path, KINDS[kind], os.makedev(major, minor), mode)
            os.chown(path, owner, group)


def mount_volumes(mounts: list[list[Any]]) -> None:
    """Mount the plan's mounts, parents first. Missing mount points are created."""
    for source, path, options in sorted(mounts, key=lambda entry: entry[1].rstrip("/").count("/")):
        target = os.path.realpath(path)  # resolves dangling links too, such as those into /run
        try:
            if os.path.isdir(OLD + source):
                os.makedirs(target, exist_ok=True)
            elif not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                open(target, "wb").close()
        except OSError as error:
            raise StartError(f"mount path {target}: {error.strerror}") from error
        mount(OLD + source, target, flags=MS_BIND if "bind" in options else MS_BIND | MS_REC)
        restrict(target, *options)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    try:
        call("mount", source, target, kind or None, ctypes.c_ulong(flags), options or None)
    except OSError as error:
        what = kind or source.removeprefix(OLD)
        raise StartError(f"mount of {what} on {target}: {error.strerror}") from error


def remount(target: str, flags: int) -> None:
    """Set the flags of one mount, not of those below it."""
    mount("none", target, flags=MS_BIND | MS_REMOUNT | flags)


def restrict(target: str, *options: str) -> None:
    """Set mount options (keys of RESTRICTIONS) for a mount and its submounts; ignore other options."""
    to_set = sum(RESTRICTIONS[option] for option in {*options} & RESTRICTIONS.keys())
    attributes = (ctypes.c_uint64 * 4)(to_set, 0, 0, 0)  # struct mount_attr: set, clr, propagation, userns_fd
    number, cwd, flags, size = map(ctypes.c_long, (SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, 32))
    try:
        call("syscall", number, cwd, target, flags, attributes, size)
    except OSError as error:
        raise StartError(f"mount on {target} with {' '.join(options)}: {error.strerror}") from error


def call(function: str, *arguments: object) -> None:
    """Call a function of the C library. Raises OSError."""
    given = [os.fsencode(argument) if isinstance(argument, str) else argument for argument in arguments]
    if getattr(_libc, function)(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main()
