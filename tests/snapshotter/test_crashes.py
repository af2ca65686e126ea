"""kill -9 at every step of (mount, record, folder, reply): nothing is lost, nothing leaks."""

import os
import pathlib
import sys
import time

import grpc
import pytest

from agent.mounts import mountinfo
from agent.snapshotter import spare_folders
from tests.snapshotter import conftest, stores

pytestmark = pytest.mark.root

REF = "containerd.io/snapshot.ref"

POINTS = [
    ("agent.snapshotter.lookup.store_lookup:StoreLookup.find", 2),
    ("agent.mounts.layer_mounts:LayerMounts.note_mounted", 2),
    ("agent.snapshotter.state_db:Database.write", 6),
    ("agent.snapshotter.overlay_folders:Folders.make", 2),
    ("agent.snapshotter.overlay_folders:Folders.remove", 1),
    ("agent.mounts.layer_mounts:LayerMounts._drop", 1),
    ("agent.snapshotter.snapshots:Snapshotter.prepare", 3),
    ("agent.snapshotter.snapshots:Snapshotter.commit", 1),
    ("agent.snapshotter.snapshots:Snapshotter.remove", 2),
]
CASES = [
    pytest.param(place, when, number, id=f"{place.partition(':')[2]}-{when}-{number}")
    for place, most in POINTS
    for when in ("before", "after")
    for number in range(1, most + 1)
]


class Client:
    """containerd, as far as it matters: it retries what failed, with new keys for extractions."""

    def __init__(self, process: conftest.Process) -> None:
        self.process = process
        self.crashes = 0

    def retry(self, call, *arguments):
        for _ in range(4):
            try:
                return call(*arguments)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    return error.code()
                self.process.process.wait(timeout=20)
                self.process.channel.close()
                self.crashes += 1
                self.process.start()
        raise AssertionError("it never came back")

    def pull(self, chain_ids: list[str]) -> str:
        parent = ""
        for chain_id in chain_ids:
            key = f"extract-{time.monotonic_ns()} {chain_id}"
            answer = self.retry(self.process.prepare, key, parent, {REF: chain_id})
            assert answer is grpc.StatusCode.ALREADY_EXISTS
            found = self.process.walk(f'labels."{REF}"=={chain_id},parent=="{parent}"')
            (info,) = found.values()
            parent = info.name
        return parent


class Crashing(conftest.Process):
    """A snapshotter whose first process dies at the given point."""

    def __init__(self, folder: pathlib.Path, store: pathlib.Path, point: list[str]) -> None:
        self.command = [sys.executable, "-m", "tests.crashing", *point]
        super().__init__(folder, store)

    def start(self) -> None:
        super().start()
        self.command = [str(conftest.COMMAND)]


def wait_until_clean(client: Client) -> None:
    """Clean up until only what is still wanted is there: one layer, and folders in stock or none.

    Other programs' copies of the mount table keep the rest for a while.
    """
    deadline = time.monotonic() + 60
    root = client.process.root
    while True:
        mounted = [e.target for e in mountinfo.read() if e.target.startswith(f"{root}/layers/")]
        made = os.listdir(root / "s")
        if len(mounted) == 1 and len(made) in (0, spare_folders._SIZE):
            return
        assert time.monotonic() < deadline, (mounted, made)
        time.sleep(0.2)
        client.retry(client.process.cleanup)


@pytest.mark.parametrize(("place", "when", "number"), CASES)
def test_killed_at(folder: pathlib.Path, place: str, when: str, number: int) -> None:
    (folder / "store").mkdir()
    store = stores.Store(folder / "store")
    chain = store.add_chain({"a": "1"}, {"b": "2"})
    process = Crashing(folder, store.layout.root, [place, when, str(number)])
    try:
        client = Client(process)
        top = client.pull(chain)
        client.retry(process.prepare, "container", top)
        with process.mounted(client.retry(process.mounts, "container")) as root:
            assert sorted(os.listdir(root)) == ["a", "b"]
            (root / "c").write_text("3")
        committed = client.retry(process.commit, "image", "container")
        assert committed in (None, grpc.StatusCode.NOT_FOUND)
        client.retry(process.view, "look", "image")
        with process.mounted(client.retry(process.mounts, "look")) as root:
            assert sorted(os.listdir(root)) == ["a", "b", "c"]
        for name in ("look", "image", top):
            client.retry(process.remove, name)
        client.retry(process.cleanup)
        client.retry(process.cleanup)

        assert client.crashes == 1
        assert [info.parent for info in process.walk().values()] == [""]
        wait_until_clean(client)
    finally:
        process.kill()
