"""Node set-up that stays: another tool changes the configuration of a real containerd."""

import asyncio
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from agent.clients.containerd import rpc as clients
from lab import processes
from lab.runtime import containerds, restarter
from tests.image import nodes

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(300)]

COMMAND = (sys.executable, "-c", "from agent.cli import entry; entry.main()", "node-setup")
RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes"


class Containerd(containerds.Containerd):
    """A containerd that imports a folder, and whose configuration is others' once it is there."""

    def configuration(self) -> str:
        if self.config.exists():
            return self.config.read_text()
        return f'imports = ["conf.d/*.toml"]\n{super().configuration()}'


class Machine:
    """A node: its root is containerd's folder, its systemd a thread."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.containerd = Containerd(folder=folder)
        self.log = folder / "node-setup.log"
        place_program(self.containerd.binaries / "containerd", folder)
        self._systemd = restarter.Restarter(self.containerd, folder / "restart")

    def __enter__(self) -> "Machine":
        self.containerd.start()
        self._systemd.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._systemd.close()
        self.containerd.close()

    @property
    def restarts(self) -> int:
        """How often containerd was restarted."""
        return self._systemd.restarts

    @property
    def restart(self) -> str:
        return f'--restart-command=sh -c "{self._systemd.command}"'

    def command(self, *arguments: str) -> list[str]:
        place = ["--config=/config.toml", f"--host-root={self.folder}"]
        return [*COMMAND, *place, *arguments]

    def handlers(self) -> frozenset[str]:
        async def ask() -> frozenset[str]:
            async with clients.Client(str(self.containerd.address)) as client:
                return await client.runtime_handlers()

        return asyncio.run(ask())

    def said(self, text: str) -> int:
        """How often node set-up has said something."""
        return self.log.read_text().count(text)


def place_program(program: pathlib.Path, root: pathlib.Path) -> None:
    """Have a program in another root, with the libraries that it loads, as a node has it."""
    # One that is linked statically has none, and ldd fails.
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    libraries = [word for word in listed.split() if word.startswith("/")]
    for source in [*libraries, str(program)]:
        target = root / ("usr/bin/containerd" if source == str(program) else source.lstrip("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


@pytest.fixture
def machine() -> Iterator[Machine]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="k"))
    try:
        with Machine(folder) as made:
            yield made
    finally:
        shutil.rmtree(folder)


def test_a_handler_that_comes_later_gets_its_twin_and_nothing_else_a_restart(
    machine: Machine,
) -> None:
    stamp = machine.folder / "stamp"
    with machine.log.open("w") as log:
        keeper = subprocess.Popen(
            machine.command(machine.restart, f"--keep={stamp}", "--every=0.1"),
            stdout=log,
            stderr=log,
        )
    try:
        nodes.wait_until(stamp.exists)
        assert machine.restarts == 1
        assert machine.handlers() >= {"uimgacc", "uimgacc-runc"}
        nodes.wait_until(lambda: machine.said("nothing is missing") == 1)

        # The same once more, as tools write it that are run once more.
        config = machine.containerd.config
        config.write_text(config.read_text())
        nodes.wait_until(lambda: machine.said("nothing is missing") == 2)
        assert machine.restarts == 1

        # What NVIDIA's toolkit does, minutes after us.
        nvidia = f"\n[{RUNTIMES}.nvidia]\n  runtime_type = 'io.containerd.runc.v2'\n"
        config.write_text(config.read_text() + nvidia)
        nodes.wait_until(lambda: machine.restarts == 2)
        nodes.wait_until(lambda: machine.said("nothing is missing") == 3)
        assert machine.handlers() >= {"nvidia", "uimgacc-nvidia"}
        assert machine.restarts == 2
        assert resident(keeper.pid) < 8 << 20, "it does not wait as a shell"

        # Undone by hand, it stays undone.
        undone = subprocess.run(machine.command("--undo"), timeout=120, check=False)
        assert undone.returncode == 0
        nodes.wait_until(lambda: machine.said("was undone") == 1)
        assert machine.restarts == 2
        assert not list(machine.folder.glob("conf.d/*uimgacc*"))
        assert keeper.poll() is None
    finally:
        processes.kill(keeper.pid)
        keeper.wait()


def resident(pid: int) -> int:
    """The memory of a process, in bytes."""
    pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
