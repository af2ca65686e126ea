"""Processes that a test starts, and the mounts that they leave."""

import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from lab import places, polling

# In place of a folder ($1) one that everybody may enter, with some folders of it (up to "--").
_SHOW = """
umask 022
hidden=$1 stage=$(mktemp -d)
shift
mount -t tmpfs -o mode=0755 shown "$stage"
while [ "$1" != -- ]; do
    mkdir -p "$stage/${1#"$hidden"}"
    mount --bind "$1" "$stage/${1#"$hidden"}"
    shift
done
shift
mount --rbind "$stage" "$hidden"
umount -l "$stage"
rmdir "$stage"
cd "$PWD"
exec "$@"
"""


_PORTS = random.SystemRandom()


class LabError(Exception):
    """Something of the lab does not work; the message has the log's last lines."""


class Process:
    """A server of the lab: one process of its own, its output in a file.

    It is ended by its own id, never by name: other tests run the same programs.
    """

    def __init__(
        self, command: Sequence[str | os.PathLike[str]], log: pathlib.Path, **environment: str
    ) -> None:
        self.command = [os.fspath(word) for word in command]
        self.log = log
        self.environment = environment
        self.running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the id of the running process."""
        if self.running is None:
            raise LabError(f"{self.command[0]} was not started")
        return self.running.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process was never started, or has ended."""
        return self.running is None or self.running.poll() is not None

    def start(self) -> None:
        """Start the process; what it says is appended to its log."""
        with self.log.open("ab") as output, self.errors.open("ab") as errors:
            self.running = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    @property
    def errors(self) -> pathlib.Path:
        """Return the file of its standard error."""
        return self.log.with_name(f"{self.log.name}.err")

    def wait_for_socket(self, address: str | tuple[str, int], *, seconds: float = 90) -> None:
        """Return when a Unix socket (a path) or a TCP port accepts connections."""
        deadline, pace = time.monotonic() + seconds, polling.Pace(0.01)
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        while True:
            with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
                probe.connect(address)
                return
            if self.has_ended:
                raise LabError(f"{self.command[0]} ended at start:\n{self.said()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.command[0]} is not ready in {seconds} s:\n{self.said()}")
            pace.pause()

    def said(self, lines: int = 15) -> str:
        """Return the last lines of its standard error, to explain a failure."""
        text = self.errors.read_text(errors="replace") if self.errors.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def end(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 15) -> None:
        """Send a signal, wait for the end, and kill what does not end in time."""
        process, self.running = self.running, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def as_user(user: int) -> list[str]:
    """Return what a command begins with to run as this user and group, without root's rights.

    Popen's own `user` makes Python fork instead of vfork, and a fork runs what libraries have
    asked to be run: gRPC's, where its threads are busy, has left a child hanging before its start.

    A checkout below a folder that only root may enter, as in /root, is shown to the command at the
    same place: in mounts of its own, which end with it.
    """
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
    shown: dict[pathlib.Path, list[str]] = {}
    for path in (places.CHECKOUT, places.LAB):
        if not path.stat().st_mode & stat.S_IXOTH:
            raise LabError(f"other users must be able to read {path}: chmod -R o+rX {path}")
        if hidden := closed_above(path):
            shown.setdefault(hidden, []).append(str(path))
    for hidden, paths in shown.items():
        mounts = ["unshare", "--mount", "--propagation=slave", "--"]
        command = [*mounts, "sh", "-euc", _SHOW, "sh", str(hidden), *paths, "--", *command]
    return command


def closed_above(path: pathlib.Path) -> pathlib.Path | None:
    """Return the outermost folder above a path that other users may not enter; None if none is."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def free_port() -> int:
    """Return a TCP port on the loopback interface that nobody listens on.

    Not one of those that the kernel gives to connections: one may have it before it is listened on.
    """
    while True:
        port = _PORTS.randrange(20_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def mounts_below(folder: pathlib.Path) -> list[str]:
    """Return the mount points at or below a folder, the innermost first."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4])
        if pathlib.PurePath(point).is_relative_to(folder):
            found.append(point)
    return found[::-1]


def unmount_below(folder: pathlib.Path) -> None:
    """Unmount everything at or below a folder, lazily where it is still in use."""
    for point in mounts_below(folder):
        subprocess.run(["umount", "-l", point], capture_output=True, check=False)


def arguments_of(program: str) -> Iterator[tuple[int, list[str]]]:
    """Yield id and arguments of every process whose program has this name."""
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if pathlib.PurePath(words[0]).name == program:
                yield int(entry.name), words


def naming(folder: pathlib.Path) -> list[int]:
    """Return every process with a path below this folder in its arguments."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """Return the children of a process and of all its threads; none if it is gone."""
    found: list[int] = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def environment_with_path(first: pathlib.Path) -> Mapping[str, str]:
    """Return PATH with a folder put first, sbin included, as daemons expect it."""
    return {"PATH": f"{first}:{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/bin"}


def kill(pid: int, *, seconds: float = 5) -> None:
    """Kill a process that is not our child, and wait until it is gone."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        while time.monotonic() < deadline and not is_dead(pid):
            time.sleep(0.005)


def is_dead(pid: int) -> bool:
    """Tell whether a process is gone, or waits only for its parent to notice."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return fields.rpartition(")")[2].split()[0] == "Z"
