"""The store's place is a link to one of several mounts, and another mount takes over."""

import pathlib
import shutil

import pytest

from agent.mounts import mountinfo
from tests.snapshotter import conftest, stores
from tests.snapshotter.test_store_layers import pull

pytestmark = pytest.mark.root


@pytest.fixture
def place(folder: pathlib.Path) -> pathlib.Path:
    """The store's place, a link to `mounts/1`."""
    (folder / "mounts/1").mkdir(parents=True)
    (folder / "store").symlink_to("mounts/1")
    return folder / "store"


def take_over(place: pathlib.Path) -> None:
    """Have a copy of the store at the place from one moment to the next."""
    shutil.copytree(place, place.parent / "mounts/2")
    (place.parent / "draft").symlink_to("mounts/2")
    (place.parent / "draft").rename(place)


def sources(folder: pathlib.Path) -> list[str]:
    """Files of the mounted layers, oldest mount first."""
    return [
        mountinfo.backing_file(entry.source)
        for entry in mountinfo.read()
        if entry.target.startswith(f"{folder}/r/layers/")
    ]


@pytest.fixture
def snapshotter(folder, place):
    process = conftest.Process(folder, place)
    try:
        yield process
    finally:
        process.kill()


def test_new_containers_read_from_the_mount_that_took_over(snapshotter, place, folder) -> None:
    top = pull(snapshotter, stores.Store(place).add_chain({"a": "1"}))
    with snapshotter.mounted(snapshotter.prepare("old", top)) as old:
        take_over(place)
        with snapshotter.mounted(snapshotter.prepare("new", top)) as new:
            assert (new / "a").read_text() == "1"
        assert (old / "a").read_text() == "1"

    first, second = sources(folder)
    assert first.startswith(f"{folder}/mounts/1/")
    assert second.startswith(f"{folder}/mounts/2/")


def test_a_snapshotter_that_starts_afterwards_knows_it_too(snapshotter, place, folder) -> None:
    top = pull(snapshotter, stores.Store(place).add_chain({"a": "1"}))
    snapshotter.kill()
    take_over(place)
    snapshotter.start()
    snapshotter.prepare("new", top)
    snapshotter.prepare("newer", top)

    assert [source.split("/mounts/")[1][0] for source in sources(folder)] == ["1", "2"]


def test_both_mounts_of_a_layer_go_with_its_last_snapshot(snapshotter, place, folder) -> None:
    top = pull(snapshotter, stores.Store(place).add_chain({"a": "1"}))
    take_over(place)
    snapshotter.prepare("new", top)
    snapshotter.remove("new")
    snapshotter.remove(top)
    snapshotter.cleanup()

    assert sources(folder) == []
