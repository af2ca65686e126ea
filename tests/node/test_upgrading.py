"""The version before sets up a node and a store; this one takes them over under running pods."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from agent.store import integrity, layout
from lab.runtime import nodes
from tests.containerd import conftest as containerds
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

BEFORE = "2c6d7b4"
"""The last commit of the version before."""

START_BEFORE = (sys.executable, "-P", "-c", "from agent.cli.main import main; main()")
"""How the version before is started: its command is another function, and -P keeps the working
folder, which has this version, off the path."""

PROJECT = pathlib.Path(__file__).parents[2]
CACHED = ("lab/layers2:1", "lab/layers40:1")


@pytest.fixture(scope="session")
def before(session: pathlib.Path) -> pathlib.Path:
    """The code of the version before, out of the history."""
    archive = subprocess.run(
        ["git", "-C", str(PROJECT), "archive", BEFORE, "agent"], capture_output=True
    )
    if archive.returncode != 0:
        pytest.skip(f"the history does not reach back to {BEFORE}")
    folder = session / "before"
    folder.mkdir()
    subprocess.run(["tar", "-xC", str(folder)], input=archive.stdout, check=True)
    return folder


@pytest.fixture
def old_store(tmp_path: pathlib.Path, before: pathlib.Path, registry) -> pathlib.Path:
    """A store that the version before has made."""
    images = [word for name in CACHED for word in ("--image", f"{registry.address}/{name}")]
    store = tmp_path / "store"
    subprocess.run(
        [
            *(*START_BEFORE, "create", "before", "--store", store),
            *("--plain-http", registry.address, *images),
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": str(before)},
        capture_output=True,
        timeout=300,
    )
    return store


def run_code_of(node: nodes.Node, code: pathlib.Path, start: Sequence[str]) -> None:
    """Have the node's snapshotter and agent run this code from their next start on."""
    for process, role in ((node.snapshotter, "snapshotter"), (node.agent, "agent")):
        process.command = [*start, *process.command[process.command.index(role) :]]
        process.environment["PYTHONPATH"] = str(code)


def code_of(pid: int) -> str:
    """The folder of the code that a process runs."""
    variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(v.decode() for v in variables if v.startswith(b"PYTHONPATH=")).partition("=")[2]


@pytest.fixture
def node(
    version: str, folder: pathlib.Path, registry, old_store: pathlib.Path, before: pathlib.Path
) -> Iterator[conftest.Node]:
    """A node of the version before."""
    made = conftest.Node(folder / "n", registry, old_store, version=version)
    run_code_of(made, before, START_BEFORE)
    with conftest.running(made, registry) as started:
        yield started


def test_a_node_and_a_store_are_taken_over_without_a_restart_of_a_running_pod(
    node, old_store: pathlib.Path, before: pathlib.Path, registry
) -> None:
    node.warm_up()
    assert code_of(node.snapshotter.pid) == code_of(node.agent.pid) == str(before)
    manifest = node.manifest("running", "lab/layers40:1")
    node.schedule(manifest)
    conftest.wait_until(lambda: node.has("lab/layers40:1"))
    with node.client.pod(manifest) as pod:
        (container,) = pod.containers
        assert node.client.execute(container, ["sh", "-c", "echo kept > /note"])[0] == 0
        node.agent.end()
        node.snapshotter.end()
        run_code_of(node, PROJECT, [str(nodes.COMMAND)])
        node.start_snapshotter()
        node.start_agent()

        code, output = node.client.execute(container, ["cat", "/note"])
        assert (code, output.strip(), node.client.exit_code(container)) == (0, "kept", None)
        code, output = node.client.execute(container, ["ls", "/"])
        assert (code, "layers" in output) == (0, True)
        # Images of the node and of the store from before start pods, old and new ones.
        assert "layers" in node.run(node.manifest("again", "lab/layers40:1"), "ls", "/")
        node.schedule(node.manifest("first", "lab/layers2:1"))
        conftest.wait_until(lambda: node.has("lab/layers2:1"))
        assert "layers" in node.run(node.manifest("first-run", "lab/layers2:1"), "ls", "/")
        # The layers are not said to be public, nor whose they are: the image's record proves it.
        mark = registry.mark()
        node.client.remove_image(node.reference("lab/layers2:1"))
        node.client.pull_image(node.reference("lab/layers2:1"), handler="uimgacc")
        assert registry.layer_gets(mark) == []

    assert list(integrity.check(layout.Layout(old_store))) == []
    containerds.build(old_store, registry, [*CACHED, "lab/zstd:1"])
    assert list(integrity.check(layout.Layout(old_store))) == []
