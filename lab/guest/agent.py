"""The guest's first process: runs the one command it is given and says, byte for byte, what became of it.

Runs as PID 1 of the lab VM under the guest's own Python (-I -S), after guest/setup. Virtio-serial ports lead
to the host: lab.ctl carries one JSON object a line both ways, lab.out and lab.err the command's output (for a
shell, lab.out carries the terminal both ways). Modules imported are few: every import costs under TCG.
"""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import termios
import time
import traceback
from typing import Any, NoReturn

# After the command has ended: so many seconds for what processes that it left behind still write.
LINGER = 0.2
CHUNK = 65536


def open_port(name: str) -> int:
    """Opens the virtio-serial port of that name; without udev there is no /dev/virtio-ports."""
    folder = "/sys/class/virtio-ports"
    for port in os.listdir(folder):
        with open(f"{folder}/{port}/name") as file:
            if file.read().strip() == name:
                return os.open(f"/dev/{port}", os.O_RDWR | os.O_CLOEXEC)
    raise FileNotFoundError(name)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes everything; a port takes only part of a long write."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Agent:
    """Relays one command (or shell) to the host."""

    def __init__(self) -> None:
        self.control = open_port("lab.ctl")
        self.output = open_port("lab.out")
        self.errors = open_port("lab.err")
        self.sent = {self.output: 0, self.errors: 0}
        self.pending = b""
        self.status: int | None = None
        self.child = 0
        self.wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def tell(self, **message: Any) -> None:
        """One message to the host."""
        write_all(self.control, json.dumps(message).encode() + b"\n")

    def messages(self) -> list[dict[str, Any]]:
        """Messages from the host, at least one part read; blocks if nothing has come."""
        self.pending += os.read(self.control, CHUNK)
        *lines, self.pending = self.pending.split(b"\n")
        return [json.loads(line) for line in lines]

    def relay(self, source: int, port: int) -> bool:
        """Passes on what `source` has; False at its end."""
        try:
            data = os.read(source, CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # a terminal whose other side is closed
            return False
        write_all(port, data)
        self.sent[port] += len(data)
        return bool(data)

    def reap(self) -> None:
        """Buries ended children; PID 1 inherits every orphan."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, CHUNK)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code

    def spawn(self, job: dict[str, Any], streams: tuple[int, int, int], *, terminal: bool) -> None:
        """Starts the command; a command that cannot be started ends with 127 or 126, as in a shell."""
        self.child = os.fork()
        if self.child:
            return
        code = 127
        try:
            os.setsid()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            if terminal:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(job["folder"])
            os.execvpe(job["command"][0], job["command"], job["environment"])
        except FileNotFoundError as error:
            os.write(2, f"lab: {job['command'][0]}: {error.strerror}\n".encode())
        except OSError as error:
            code = 126
            os.write(2, f"lab: {job['command'][0]}: {error.strerror}\n".encode())
        finally:
            os._exit(code)

    def run(self, job: dict[str, Any]) -> None:
        """Runs the command with a pipe for each stream, until it has ended and its output is through."""
        # Pipes, not the ports themselves: a port cannot be opened twice, the command's /dev/stderr must be.
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        nothing = os.open("/dev/null", os.O_RDWR)
        self.spawn(job, (nothing, out_end, err_end), terminal=False)
        os.close(out_end)
        os.close(err_end)
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        self.loop({out: self.output, err: self.errors})

    def shell(self, job: dict[str, Any]) -> None:
        """Runs the command on a terminal whose other side is the host's."""
        master, slave = pty.openpty()
        self.resize(master, job)
        self.spawn(job, (slave, slave, slave), terminal=True)
        os.close(slave)
        self.loop({master: self.output}, terminal=master)

    def resize(self, terminal: int, size: dict[str, Any]) -> None:
        """Gives the terminal the size of the host's."""
        packed = struct.pack("HHHH", size["rows"], size["columns"], 0, 0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, packed)

    def loop(self, streams: dict[int, int], terminal: int = -1) -> None:
        """Passes on all streams until the command has ended and they are empty."""
        poll = select.poll()
        for descriptor in (*streams, self.wake, self.control, *([self.output] if terminal >= 0 else [])):
            poll.register(descriptor, select.POLLIN)
        deadline = None
        while streams or self.status is None:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = poll.poll(wait)
            if not ready and deadline is not None:
                return
            for descriptor, _ in ready:
                if descriptor == self.wake:
                    self.reap()
                elif descriptor == self.control:
                    self.obey(terminal)
                elif descriptor == self.output:
                    write_all(terminal, os.read(self.output, CHUNK))
                elif not self.relay(descriptor, streams[descriptor]):
                    poll.unregister(descriptor)
                    del streams[descriptor]
            if self.status is not None and deadline is None:
                deadline = time.monotonic() + LINGER

    def obey(self, terminal: int) -> None:
        """Does what the host asks while the command runs."""
        for message in self.messages():
            if message["do"] == "resize" and terminal >= 0:
                self.resize(terminal, message)
            elif message["do"] == "explain":
                self.explain()

    def explain(self) -> None:
        """Says what runs, and where in the kernel it waits: for a command that did not end in time."""
        text = ["lab: processes in the guest (state, kernel function waited in, command):"]
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
                with open(f"/proc/{pid}/stat") as file:
                    state = file.read().rpartition(")")[2].split()[0]
                with open(f"/proc/{pid}/wchan") as file:
                    place = file.read()
            except OSError:
                continue
            if command and pid != 1:
                text.append(f"lab: {pid:>6} {state} {place:<24} {command[:160]}")
        self.tell(event="explained", text="\n".join(text) + "\n")

    def serve(self) -> None:
        """The agent's whole life: one job, one answer."""
        self.tell(event="up", uptime=time.clock_gettime(time.CLOCK_BOOTTIME))
        jobs = self.messages()
        while not jobs:
            jobs = self.messages()
        job = jobs[0]
        (self.shell if job["do"] == "shell" else self.run)(job)
        os.chdir("/")
        # Programs map files of /out into memory; this brings what they wrote to the host.
        os.sync()
        self.tell(event="exit", code=self.status, output=self.sent[self.output], errors=self.sent[self.errors])


def main() -> NoReturn:
    """Never returns: the end of PID 1 is a kernel panic."""
    try:
        Agent().serve()
    except BaseException:
        traceback.print_exc()
    with open("/proc/sysrq-trigger", "w") as file:
        file.write("o")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
