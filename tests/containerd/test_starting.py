"""containerd starts after node set-up, whatever version its main file and other tools' files have.

`tests/unit/setup/test_versions.py` asks containerd what it makes of many more of them; here it
runs, and has the runtime handlers.
"""

import asyncio
import json
import pathlib

import pytest

from agent import errors
from agent.clients.containerd import rpc
from agent.setup.config import containerd_binary, inputs, settings_view
from agent.setup.node import apply, config_reader, host
from lab import places
from lab.runtime import containerds

pytestmark = [pytest.mark.root, pytest.mark.containerd]

ROOTS = ("none", "1", "2", "3")
OTHERS = ("", "2", "4")
HANDLERS = {"uimgacc", "uimgacc-runc"}
RUNS = [(version, root) for version in places.CONTAINERDS for root in ROOTS]
# Those of the lab do not know it, and may listen on the machine's own socket.
RUNS += [("named", "4")] if "named" in places.CONTAINERDS else []


class Containerd(containerds.Containerd):
    """A containerd whose main file has one version, and another tool's drop-in another one."""

    def __init__(self, version: str, folder: pathlib.Path, root: str, other: str) -> None:
        super().__init__(version, folder=folder)
        self.stated, self.other = root, other

    def configuration(self) -> str:
        """Only what keeps it off the machine's own places, in the words of the version."""
        if self.config.exists():
            return self.config.read_text()
        lines = [] if self.stated == "none" else [f"version = {self.stated}"]
        if self.other:
            drop_in = self.folder / "conf.d" / "50-other.toml"
            drop_in.parent.mkdir()
            head = "" if self.other == "none" else f"version = {self.other}\n"
            drop_in.write_text(f'{head}[debug]\n  level = "info"\n')
            lines.append(f'imports = ["{drop_in.parent}/*.toml"]')
        listening = "plugins.'io.containerd.server.v1.grpc'" if self.stated == "4" else "grpc"
        ttrpc = "plugins.'io.containerd.server.v1.ttrpc'" if self.stated == "4" else "ttrpc"
        lines += [
            f'root = "{self.root}"\nstate = "{self.state}"',
            f"disabled_plugins = {json.dumps(containerds.DISABLED)}",
            f'[{listening}]\n  address = "{self.address}"',
            f'[{ttrpc}]\n  address = "{self.address}.ttrpc"',
            f"[plugins.'io.containerd.internal.v1.opt']\n  path = \"{self.folder}/opt\"",
        ]
        return "\n".join(lines) + "\n"


def set_up(containerd: Containerd) -> apply.Outcome:
    binary = str(containerd.binaries / "containerd")
    target = config_reader.Target(
        settings_view.Path(containerd.config), containerd_binary.release_of(binary), binary
    )
    return apply.set_up(host.Host(), target, inputs.Wanted())


def handlers(containerd: Containerd) -> frozenset[str]:
    async def ask() -> frozenset[str]:
        async with rpc.Client(str(containerd.address)) as client:
            return await client.runtime_handlers()

    return asyncio.run(ask())


def can_start(containerd: Containerd) -> bool:
    """Whether it does before node set-up: not with a version that is higher than it knows, or
    than that of its main file."""
    containerd.config.parent.mkdir(exist_ok=True)
    containerd.config.write_text(containerd.configuration())
    try:
        containerd_binary.dump(str(containerd.binaries / "containerd"), str(containerd.config))
    except containerd_binary.ContainerdError:
        return False
    return True


@pytest.mark.parametrize("other", OTHERS, ids=lambda version: f"other-{version or 'absent'}")
@pytest.mark.parametrize(("version", "root"), RUNS)
def test_it_starts_with_the_handlers_or_nothing_is_changed(version, folder, root, other) -> None:
    containerd = Containerd(version, folder / "c", root, other)
    started = can_start(containerd)
    before = containerd.config.read_text()
    try:
        set_up(containerd)
    except errors.AgentError:
        assert containerd.config.read_text() == before
        assert not list(folder.rglob(inputs.DROP_IN))
        if not started:
            return
        with containerd:
            assert handlers(containerd).isdisjoint(HANDLERS)
        return
    with containerd:
        assert handlers(containerd) >= HANDLERS
