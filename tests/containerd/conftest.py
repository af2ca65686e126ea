"""Real containerds over the lab's registry, with a store that the real builder filled.

They are those of the lab, and the one whose programs are in the folder UIMGACC_CONTAINERD.
"""

import asyncio
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence

import pytest

from agent.build import cache_build
from agent.clients.registry import connections
from agent.model import images
from agent.roles import builder
from agent.store.publish import writer
from lab import places, processes, services
from tests import waiting
from tests.snapshotter import conftest as snapshotters

STORED = ("lab/layers2:1", "lab/layers40:1", "lab/odd:1", "lab/layers127:1", "lab/zstd:1")
"""Images that are in the store; lab/estargz:1 has layers of its own and is not."""


@pytest.fixture(scope="session")
def session() -> Iterator[pathlib.Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root for containerd and mounts")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ctd"))
    try:
        yield folder
    finally:
        processes.unmount_below(folder)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def registry(session: pathlib.Path) -> Iterator[services.Registry]:
    with services.Registry(session / "registry") as running:
        yield running


def build(store: pathlib.Path, registry: services.Registry, names: Sequence[str]) -> None:
    """Build one cache of the named images."""
    options = connections.Options(plain_http=frozenset([registry.address]))
    request = cache_build.Request(
        cache_id="imc-tests",
        name="tests",
        references=tuple(images.parse_reference(f"{registry.address}/{name}") for name in names),
        platforms=(builder.own_platform(),),
        capacity=20 << 30,
    )
    settings = builder.Settings(store=store, registries=options)
    asyncio.run(builder.build(settings, request))


@pytest.fixture(scope="session")
def pristine(session: pathlib.Path, registry: services.Registry) -> pathlib.Path:
    """The store that tests share; whoever damages it takes `store` instead."""
    root = session / "store"
    root.mkdir()
    writer.create(root)
    build(root, registry, STORED)
    return root


@pytest.fixture
def store(pristine: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the store that a test may damage."""
    return pathlib.Path(shutil.copytree(pristine, tmp_path / "store"))


class Node:
    """A containerd and a snapshotter on one store."""

    def __init__(
        self,
        version: str,
        folder: pathlib.Path,
        registry: services.Registry,
        store: pathlib.Path,
        *,
        lookup_seconds: float = 10,
        newer_runc: bool = False,
        capabilities: Sequence[str] = ("remap-ids",),
    ) -> None:
        self.registry = registry
        (folder / "s").mkdir()
        self.snapshotter = snapshotters.Process(folder / "s", store, lookup_seconds=lookup_seconds)
        self.containerd = services.Containerd(
            version,
            registries=[registry.address],
            snapshotter_socket=self.snapshotter.socket,
            snapshotter_root=self.snapshotter.root,
            folder=folder / "c",
            newer_runc=newer_runc,
            capabilities=capabilities,
        )

    def reference(self, name: str) -> str:
        return f"{self.registry.address}/{name}"

    def pull(self, name: str, *, local: bool = False, namespace: str = "default") -> int:
        """Pull an image with ctr; how many layer blobs were fetched."""
        mark = self.registry.mark()
        self.containerd.pull(
            self.reference(name), snapshotter="uimgacc", local=local, namespace=namespace
        )
        return len(self.registry.layer_gets(mark))

    def run(self, name: str, *command: str, snapshotter: str = "uimgacc") -> str:
        """Run a container to its end; its output."""
        # A container's cgroup has its name, whichever containerd it belongs to.
        identity = f"run-{uuid.uuid4().hex}"
        arguments = ("run", "--rm", "--snapshotter", snapshotter, self.reference(name), identity)
        return self.containerd.ctr(*arguments, *command)

    def forget(self, name: str, namespace: str = "default") -> None:
        """Remove an image and all that belonged to it."""
        self.containerd.ctr("images", "rm", "--sync", self.reference(name), namespace=namespace)

    def start_snapshotter(self) -> None:
        """Start the snapshotter for a containerd that runs; return when that reaches it."""
        self.snapshotter.start()
        self.containerd.wait_for_proxy("uimgacc")

    def wait_until_collected(self) -> None:
        """Return when containerd's garbage collector has removed the snapshots of containers.

        A container's own snapshot goes some time after the container.
        """
        waiting.wait_until(lambda: not self.snapshotter.walk("kind==active"))


@pytest.fixture(params=places.CONTAINERDS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="n"))
    try:
        yield path
    finally:
        processes.unmount_below(path)
        shutil.rmtree(path)


def opened(node: Node) -> Iterator[Node]:
    try:
        with node.containerd:
            yield node
    finally:
        node.snapshotter.kill()


@pytest.fixture
def node(version, folder, registry, pristine) -> Iterator[Node]:
    """A node on the shared store."""
    yield from opened(Node(version, folder, registry, pristine))


@pytest.fixture
def node2(folder, registry, pristine) -> Iterator[Node]:
    """A node on the shared store, with the newest containerd."""
    yield from opened(Node(places.NEWEST, folder, registry, pristine))


@pytest.fixture
def fragile(folder, registry, store) -> Iterator[Node]:
    """A node, with the newest containerd, on a store that the test may damage."""
    yield from opened(Node(places.NEWEST, folder, registry, store))
