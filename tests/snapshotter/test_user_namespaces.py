"""Snapshots for containers in user namespaces: their files have the owners of the namespace."""

import os
import pathlib
import sqlite3

import grpc
import pytest

from agent._proto.containerd import snapshots_pb2 as pb
from agent.mounts import mountinfo, syscalls
from tests import waiting
from tests.snapshotter import conftest, stores
from tests.snapshotter.test_store_layers import pull

pytestmark = pytest.mark.root

UIDS, GIDS = "containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"
POD = {UIDS: "0:100000:65536", GIDS: "0:200000:65536"}
OTHER_POD = {UIDS: "0:300000:65536", GIDS: "0:400000:65536"}
ROOT = (100000, 200000)


@pytest.fixture
def store(folder: pathlib.Path) -> stores.Store:
    (folder / "store").mkdir()
    return stores.Store(folder / "store")


@pytest.fixture
def snapshotter(folder: pathlib.Path, store: stores.Store):
    process = conftest.Process(folder, store.layout.root)
    try:
        yield process
    finally:
        process.kill()


def view(snapshotter, key: str, parent: str, labels: dict[str, str]) -> list:
    request = pb.ViewSnapshotRequest(key=key, parent=parent, labels=labels)
    return list(snapshotter.client.View(request, timeout=30).mounts)


def owner(path: pathlib.Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def shown(folder: pathlib.Path) -> list[str]:
    """What is shown with other owners now."""
    return [each.target for each in mountinfo.read() if f"{folder}/r/m/" in each.target]


def upper(mounts: list) -> pathlib.Path:
    options = dict(each.partition("=")[::2] for each in mounts[0].options)
    return pathlib.Path(options.get("upperdir") or mounts[0].source)


def committed(snapshotter, name: str, parent: str, files: dict[str, tuple[int, int]]) -> None:
    """An ordinary layer, as containerd unpacks it."""
    with snapshotter.mounted(snapshotter.prepare(f"extract {name}", parent)) as root:
        for file, (uid, gid) in files.items():
            (root / file).write_text(file)
            os.chown(root / file, uid, gid)
    snapshotter.commit(name, f"extract {name}")


def test_layers_of_the_store_and_ordinary_ones_have_the_namespaces_owners(
    snapshotter, store
) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}, {"b": "2"}))
    committed(snapshotter, "ordinary", top, {"c": (0, 0), "d": (1000, 33), "far": (70000, 0)})

    mounts = snapshotter.prepare("container", "ordinary", POD)
    with snapshotter.mounted(mounts) as root:
        assert {name: owner(root / name) for name in (".", *sorted(os.listdir(root)))} == {
            ".": ROOT,
            "a": ROOT,
            "b": ROOT,
            "c": ROOT,
            "d": (101000, 200033),
            # As on any node: who has no place in the namespace is nobody there.
            "far": (65534, 200000),
        }
        os.chown(root / "a", 100005, 200005)
    assert owner(upper(mounts)) == ROOT
    assert owner(upper(mounts) / "a") == (100005, 200005)

    with snapshotter.mounted(snapshotter.prepare("without", "ordinary")) as root:
        assert owner(root / "a") == (0, 0)
        assert owner(root / "d") == (1000, 33)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_views_have_them_too(snapshotter, store, layers) -> None:
    top = pull(snapshotter, store.add_chain(*[{f"f{at}": "x"} for at in range(layers)]))

    for labels, expected in ((POD, ROOT), ({}, (0, 0))):
        mounts = view(snapshotter, f"view of {expected}", top, labels)
        with snapshotter.mounted(mounts) as root:
            assert {owner(root / name) for name in (".", *os.listdir(root))} == {expected}
            assert len(os.listdir(root)) == layers
            with pytest.raises(OSError, match="Read-only"):
                (root / "new").touch()


def test_a_snapshot_on_nothing_belongs_to_the_namespaces_root(snapshotter) -> None:
    with snapshotter.mounted(snapshotter.prepare("scratch", "", POD)) as root:
        assert owner(root) == ROOT


def test_the_containers_of_several_pods_and_of_one_pod_stand_side_by_side(
    snapshotter, store, folder
) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}, {"b": "2"}))
    wanted = {"one": (POD, ROOT), "two": (POD, ROOT), "three": (OTHER_POD, (300000, 400000))}
    mounts = {key: snapshotter.prepare(key, top, labels) for key, (labels, _) in wanted.items()}

    for key, (_, expected) in wanted.items():
        with snapshotter.mounted(mounts[key]) as root:
            assert {owner(root / name) for name in (".", "a", "b")} == {expected}
    assert len(shown(folder)) == 6


def test_several_ranges(snapshotter, store) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    committed(snapshotter, "ordinary", top, {"b": (999, 999), "c": (1000, 1000)})
    labels = {UIDS: "0:666:1000,1000:6666:64536", GIDS: "0:888:1000,1000:8888:64536"}

    with snapshotter.mounted(snapshotter.prepare("container", "ordinary", labels)) as root:
        assert [owner(root / name) for name in "abc"] == [(666, 888), (1665, 1887), (6666, 8888)]


@pytest.mark.parametrize(
    "labels",
    [
        {UIDS: "-1:-1:-2", GIDS: "0:0:66666"},
        {UIDS: "666:666:666", GIDS: "666:666:666"},
        {UIDS: "0:100000:65536"},
        {UIDS: "0:100000:65536,0:300000:65536", GIDS: "0:1:1"},
    ],
)
def test_maps_that_no_container_can_have_are_refused(snapshotter, labels) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        snapshotter.prepare("container", "", labels)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_after_kill_9_and_after_a_reboot_it_is_all_there(snapshotter, store, folder) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}, {"b": "2"}))
    before = snapshotter.prepare("container", top, POD)
    with snapshotter.mounted(before) as root:
        snapshotter.kill()
        assert owner(root / "a") == ROOT
        snapshotter.start()
        assert owner(root / "b") == ROOT
    assert snapshotter.mounts("container") == before
    assert len(shown(folder)) == 2

    snapshotter.kill()
    for entry in reversed(mountinfo.read()):
        if f"{folder}/r/" in entry.target:
            syscalls.unmount(entry.target)
    assert shown(folder) == []
    snapshotter.start()

    assert snapshotter.mounts("container") == before
    with snapshotter.mounted(before) as root:
        assert (root / "a").read_text() == "1"
        assert owner(root / "a") == ROOT


def test_what_is_shown_goes_with_the_snapshot_and_not_before(snapshotter, store, folder) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    mounts = snapshotter.prepare("container", top, POD)
    snapshotter.prepare("other", top, POD)
    snapshotter.remove("other")
    snapshotter.cleanup()
    assert len(shown(folder)) == 1

    with snapshotter.mounted(mounts) as root:
        snapshotter.remove("container")
        snapshotter.remove(top)
        snapshotter.cleanup()
        # The container runs on, and its layer is not taken for idle.
        assert shown(folder) == []
        assert owner(root / "a") == ROOT
        assert (root / "a").read_text() == "1"
        assert [each for each in mountinfo.read() if f"{folder}/r/layers/" in each.target]
        assert upper(mounts).exists()
    assert os.listdir(folder / "r/m") == []
    waiting.wait_until(lambda: snapshotter.cleanup() or not upper(mounts).exists())
    assert not [each for each in mountinfo.read() if f"{folder}/r/" in each.target]


def test_what_was_committed_in_a_namespace_has_its_owners_in_every_other_one(
    snapshotter, store
) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    mounts = snapshotter.prepare("container", top, POD)
    with snapshotter.mounted(mounts) as root:
        (root / "written").write_text("by the container's user 7")
        os.chown(root / "written", 100007, 200007)
    snapshotter.commit("committed", "container")

    for labels, (uid, gid) in ((POD, ROOT), (OTHER_POD, (300000, 400000)), ({}, (0, 0))):
        with snapshotter.mounted(snapshotter.prepare(f"on it {uid}", "committed", labels)) as root:
            assert owner(root / "a") == (uid, gid)
            assert owner(root) == (uid, gid)
            assert owner(root / "written") == (uid + 7, gid + 7)


def test_a_copy_that_containerd_has_made_is_taken_as_it_is(snapshotter, store, folder) -> None:
    """What containerd does where `remap-ids` is not among the snapshotter's capabilities."""
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    with snapshotter.mounted(snapshotter.prepare("sha256:1-remap", top)) as root:
        for path in (root, root / "a"):
            os.chown(path, *ROOT)
    snapshotter.commit("sha256:1", "sha256:1-remap")

    mounts = snapshotter.prepare("container", "sha256:1", POD)
    with snapshotter.mounted(mounts) as root:
        assert [owner(path) for path in (root, root / "a")] == [ROOT, ROOT]
    assert snapshotter.mounts("container") == mounts
    assert shown(folder) == []


def test_containers_made_by_an_earlier_version_keep_the_mounts_that_they_have(
    snapshotter, store, folder
) -> None:
    """It kept the labels, and did nothing for them."""
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    before = snapshotter.prepare("container", top)
    info = snapshotter.stat("container")
    info.labels.update(POD)
    snapshotter.update(info)
    snapshotter.kill()
    with sqlite3.connect(folder / "r/uimgacc.db") as connection:
        connection.executescript("DROP TABLE id_maps; PRAGMA user_version = 2")
    connection.close()
    snapshotter.start()

    assert snapshotter.mounts("container") == before
    with snapshotter.mounted(snapshotter.prepare("later", top, POD)) as root:
        assert owner(root / "a") == ROOT
