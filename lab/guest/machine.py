"""Booting a guest, from outside."""

import pathlib
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence

from lab import places, processes

_HERE = pathlib.Path(__file__).parent
UML = places.LAB / "uml/usr/bin/linux.uml"


class Machine:
    """One guest, which runs one command as root and ends; a context manager that kills it.

    `folder` is the one place outside that it can write to, under the same path. The
    checkout and the lab are to be read under their paths. It has a loopback interface,
    one processor, and `memory` (what of it is used is taken from the machine). `disk`, a file of
    this machine's, is its block device; mounted by `lab.guest.disk`. What is written there is
    there for the next guest, too.
    """

    def __init__(
        self, folder: pathlib.Path, *, memory: str = "2G", disk: pathlib.Path | None = None
    ) -> None:
        self.folder = folder
        self.memory = memory
        self.disk = disk
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], **environment: str) -> None:
        """Boot, and have the command run in the checkout."""
        (self.folder / "jail").mkdir(parents=True)
        # The environment of the lab may be linked to another checkout than this one.
        environment = {"PYTHONPATH": str(places.CHECKOUT), **environment}
        words = [*(f"{name}={value}" for name, value in environment.items()), *command]
        (self.folder / "command").write_text(f"exec env {shlex.join(words)}\n")
        with (self.folder / "console").open("wb") as console:
            self.process = subprocess.Popen(
                self._boot(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "UIMGACC_LAB": str(places.LAB)},
                start_new_session=True,
            )

    def _boot(self) -> list[str | pathlib.Path]:
        """The command that boots the kernel with init.sh as its first process."""
        libraries = next((places.LAB / "nfs/usr/lib").glob("*/libc.so.6")).parent
        return [
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", _HERE / "boot.sh", self.folder / "jail", libraries, self.memory),
            *([f"ubd0=/host{self.disk}"] if self.disk else []),
            *self._arguments(places.LAB / "uml/usr/lib/uml/modules"),
        ]

    def _arguments(self, modules: pathlib.Path) -> list[str]:
        """What the kernel is told: what its first process is, and that one's environment."""
        told = {
            "init": _HERE / "init.sh",
            "GUEST_CHECKOUT": places.CHECKOUT,
            "GUEST_LAB": places.LAB,
            "GUEST_FOLDER": self.folder,
            "GUEST_MODULES": modules,
        }
        return [f"{name}={value}" for name, value in told.items()]

    def wait(self, seconds: float) -> tuple[int, str]:
        """Wait for the end of the command: its exit status and all that it said."""
        if self.process is None:
            raise processes.LabError("the guest was not started")
        deadline = time.monotonic() + seconds
        try:
            self.process.wait(deadline - time.monotonic())
        except subprocess.TimeoutExpired as error:
            self.close()
            raise processes.LabError(
                f"the guest is not ready in {seconds} s\n{self._said()}"
            ) from error
        status = self.folder / "status"
        if not status.exists():
            raise processes.LabError(f"the guest ended by itself\n{self._said()}")
        return int(status.read_text()), self._read("output")

    def lines(self, seconds: float) -> Iterator[str]:
        """Each line that the command says, as soon as it is whole, until its end; then `wait`."""
        deadline, given = time.monotonic() + seconds, 0
        over = False
        while not over:
            over = self.process is None or self.process.poll() is not None
            over = over or time.monotonic() > deadline
            whole = self._read("output").split("\n")[:-1]
            yield from whole[given:]
            given = len(whole)
            time.sleep(0.0 if over else 0.2)

    def close(self) -> None:
        """Kill the guest, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def _said(self) -> str:
        lines = f"{self._read('console')}\n{self._read('output')}".splitlines()
        return "\n".join(lines[-60:])
