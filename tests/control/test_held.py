"""Three nodes with real mounts, a controller, an API: a cache expires under containers that run."""

import contextlib
import json
import pathlib
import threading
from collections.abc import Iterator

import msgspec
import pytest

from agent.clients.kube import rest_client
from agent.control.reconcile import cluster
from agent.kits import machine
from agent.model import caches, images, keys, reports
from agent.roles import cluster_identity
from tests.control import conftest
from tests.kube import apis
from tests.snapshotter import conftest as snapshotters
from tests.snapshotter.conftest import folder as node_folder
from tests.snapshotter.test_deleting import Node

__all__ = ["node_folder"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


class Agents:
    """What the agents of three nodes say of them to the API, for as long as it is open."""

    def __init__(self, plane: conftest.Plane, folder: pathlib.Path) -> None:
        self.plane = plane
        self.nodes = []
        uid = plane.api.get(rest_client.NAMESPACES, cluster_identity.NAMESPACE)["metadata"]["uid"]
        announced = reports.Announced(cluster=uid, boot=machine.boot_id())
        for _ in range(3):
            name = plane.api.node(annotations={keys.GENERATION: "0"})
            (folder / name).mkdir()
            process = snapshotters.Process(folder / name, plane.store.root)
            # As an agent does once the node has the annotation.
            (process.root / reports.ANNOUNCED).write_bytes(msgspec.json.encode(announced))
            self.nodes.append(Node(name, process))
        self.error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agents", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ended.wait(0.1):
                for node in self.nodes:
                    node.look(self.plane.store)
                    said = {keys.GENERATION: str(node.acknowledged)}
                    body = {"metadata": {"annotations": said}}
                    self.plane.api.patch(rest_client.NODES, node.name, body)
        except BaseException as error:  # noqa: BLE001 - it fails the test at its end
            self.error = error

    def close(self) -> None:
        self._ended.set()
        self._thread.join(60)
        for node in self.nodes:
            node.snapshotter.kill()
        if self.error is not None:
            raise self.error


@pytest.fixture
def agents(plane: conftest.Plane, node_folder: pathlib.Path) -> Iterator[Agents]:
    with contextlib.closing(Agents(plane, node_folder)) as made:
        yield made


def content(root: pathlib.Path) -> dict[str, bytes]:
    """All that a container finds there, from the store and not from memory."""
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_a_cache_that_expires_leaves_its_layers_to_who_runs_on_them(plane, agents) -> None:
    reference = images.parse_reference(f"{plane.server.address}/lab/gzip:1")
    plane.controller()
    key = plane.apply(
        caches.name_of_auto_cache(caches.id_of_images([reference])),
        "lab/gzip:1",
        labels={keys.AUTO_CREATED: "true"},
    )
    plane.wait(key, "Ready")
    record = plane.reader.image(reference)
    assert record is not None
    chain = [layer.chain_id for layer in record.platforms[0].layers]
    running, idle, _ = agents.nodes
    names, others = running.pull(chain), idle.pull(chain)
    plane.end_claims()

    with running.snapshotter.mounted(running.snapshotter.prepare("c", names[-1])) as root:
        before = content(root)
        assert len(before) > 10
        idle.let_go(others)
        # For thirty days no node has reported that a pod uses it.
        long_ago = {"metadata": {"annotations": {keys.LAST_MATCHED: "2026-01-01T00:00:00Z"}}}
        plane.api.patch(cluster.resource_of(key), key.name, long_ago)
        waiting = f"waiting for {running.name}."
        apis.wait_until(lambda: waiting in plane.status(key).get("message", ""), seconds=60)
        assert plane.get(key)["metadata"]["deletionTimestamp"]
        newest = json.loads(plane.store.generation_record.read_text())["generation"]
        apis.wait_until(lambda: [each.acknowledged for each in agents.nodes[1:]] == [newest] * 2)
        assert content(root) == before
        assert not plane.gone(key)
    running.snapshotter.remove("c")
    running.let_go(names)

    apis.wait_until(lambda: plane.gone(key), seconds=60)
    apis.wait_until(lambda: not list(plane.store.layer_files.rglob("*.erofs")), seconds=60)
