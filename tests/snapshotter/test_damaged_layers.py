"""A layer that is served, and that `store check` finds damaged: what containers get then."""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator

import grpc
import msgspec
import pytest

from agent.kits import files
from agent.model import digests, records
from agent.mounts import syscalls
from agent.store import decoding, integrity
from agent.store.publish import layer_writer
from tests import waiting
from tests.snapshotter import conftest, stores
from tests.snapshotter import test_store_layers as store_layers

pytestmark = pytest.mark.root

LOW, HIGH = {"low": "1"}, {"high": "2"}


@pytest.fixture
def store(folder: pathlib.Path) -> stores.Store:
    (folder / "store").mkdir()
    return stores.Store(folder / "store")


class Checking(conftest.Process):
    """A snapshotter that looks at its layers all the time."""

    options = ("--damage-seconds", "0.1")


class Trusting(conftest.Process):
    """A snapshotter that looks at its layers before it mounts them, and not otherwise."""

    options = ("--damage-seconds", "0")


@pytest.fixture
def snapshotter(folder: pathlib.Path, store: stores.Store) -> Iterator[conftest.Process]:
    with started(Checking, folder, store) as process:
        yield process


@contextlib.contextmanager
def started(kind, folder: pathlib.Path, store: stores.Store) -> Iterator[conftest.Process]:
    process = kind(folder, store.layout.root)
    try:
        yield process
    finally:
        process.kill()


def damage(store: stores.Store, contents: dict[str, str]) -> str:
    """Flip a byte of a layer, as a disk does, and have `store check` find it; the diff ID."""
    diff_id = stores.diff_id_of(contents)
    with store.layout.layer(diff_id).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    (finding,) = integrity.check(store.layout, mark=True)
    assert finding.path == store.layout.layer(diff_id)
    return diff_id


def build_again(store: stores.Store, contents: dict[str, str], chains: list[str]) -> str:
    """What a build of the same image does: a new file beside the old; its name."""
    diff_id = stores.diff_id_of(contents)
    path = store.layout.layer_record(diff_id)
    record = decoding.layer(path.read_bytes(), diff_id)
    sound = msgspec.structs.replace(record, damaged="", replaced_by=None)
    draft = layer_writer.draft_of(store.layout, diff_id)
    data = bytearray(store.layout.layer(diff_id).read_bytes())
    data[-1] = 0
    draft.write_bytes(data)
    assert digests.sha256(bytes(data)) == record.sha256
    name = layer_writer.publish_layer(store.layout, draft, sound).diff_id
    for chain_id in chains:
        place = store.layout.chain_record(chain_id)
        chain = decoding.chain(place.read_bytes(), chain_id)
        if chain.diff_id == diff_id:
            chain = records.ChainRecord(diff_id=name, parent=chain.parent, variant_of=diff_id)
            files.write(place, records.encode(chain))
    return name


def is_given_up(snapshotter, name: str) -> bool:
    """Whether the snapshotter has forgotten a snapshot."""
    try:
        snapshotter.stat(name)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


@pytest.mark.parametrize("serve", [store_layers.serve_whole, store_layers.pull])
def test_what_stands_on_a_layer_that_was_found_damaged_is_given_up(
    snapshotter, store, folder, serve
) -> None:
    chains = store.add_chain(LOW, HIGH)
    top = serve(snapshotter, chains)
    with snapshotter.mounted(snapshotter.prepare("running", top)) as root:
        diff_id = damage(store, LOW)
        waiting.wait_until(lambda: is_given_up(snapshotter, top), seconds=30)

        assert (root / "low").read_text() == "1"
        assert diff_id in snapshotter.log
        assert "sha256 of its record" in snapshotter.log
        assert any(diff_id[7:23] in each for each in store_layers.mounted_layers(folder))
        with pytest.raises(grpc.RpcError):
            snapshotter.prepare("new", top)
        # The pull is left to containerd: an ordinary snapshot.
        snapshotter.prepare("extract-1", "", {store_layers.REF: chains[-1]})
    snapshotter.cleanup()
    waiting.wait_until(lambda: store_layers.mounted_layers(folder) == [])


@pytest.mark.parametrize("serve", [store_layers.serve_whole, store_layers.pull])
def test_what_was_built_again_is_served_in_place_of_it(snapshotter, store, folder, serve) -> None:
    chains = store.add_chain(LOW, HIGH)
    top = serve(snapshotter, chains)
    with snapshotter.mounted(snapshotter.prepare("running", top)) as root:
        damage(store, LOW)
        waiting.wait_until(lambda: is_given_up(snapshotter, top), seconds=30)
        name = build_again(store, LOW, chains)

        again = serve(snapshotter, chains)
        with snapshotter.mounted(snapshotter.prepare("new", again)) as fresh:
            assert sorted(os.listdir(fresh)) == ["high", "low"]
        assert any(name[7:23] in each for each in store_layers.mounted_layers(folder))
        assert (root / "low").read_text() == "1"
    time.sleep(1)
    assert not is_given_up(snapshotter, again)


@pytest.mark.parametrize("again", [False, True])
def test_a_damaged_layer_is_not_mounted_again_after_a_reboot(folder, store, again) -> None:
    with started(Trusting, folder, store) as snapshotter:
        chains = store.add_chain(LOW, HIGH)
        top = store_layers.serve_whole(snapshotter, chains)
        snapshotter.kill()
        for target in store_layers.mounted_layers(folder):
            syscalls.unmount(target)
        damage(store, LOW)
        if again:
            build_again(store, LOW, chains)
        snapshotter.start()

        with pytest.raises(grpc.RpcError) as caught:
            snapshotter.prepare("new", top)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "is damaged in the store" in caught.value.details()
        assert is_given_up(snapshotter, top)
        assert store_layers.mounted_layers(folder) == []
        if again:
            again = store_layers.serve_whole(snapshotter, chains)
            with snapshotter.mounted(snapshotter.prepare("new", again)) as root:
                assert (root / "low").read_text() == "1"


def test_an_image_with_a_damaged_layer_is_not_mounted_for_the_agent_either(folder, store) -> None:
    """It asks for the whole chain, which is recorded, and mounted by nobody since the reboot."""
    with started(Trusting, folder, store) as snapshotter:
        chains = store.add_chain(LOW, HIGH)
        top = store_layers.serve_whole(snapshotter, chains)
        snapshotter.kill()
        for target in store_layers.mounted_layers(folder):
            syscalls.unmount(target)
        damage(store, LOW)
        snapshotter.start()

        snapshotter.prepare("extract-1", "", {store_layers.REF: chains[-1]})
        assert is_given_up(snapshotter, top)


def test_a_store_that_is_away_makes_no_layer_damaged(snapshotter, store, folder) -> None:
    top = store_layers.serve_whole(snapshotter, store.add_chain(LOW, HIGH))
    store.layout.root.rename(folder / "elsewhere")
    time.sleep(1)

    snapshotter.prepare("new", top)
