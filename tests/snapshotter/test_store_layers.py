"""Layers of the store: served when they can be, left to the pull when not, never wrong."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

import grpc
import pytest

from agent.mounts import mountinfo, syscalls
from tests.snapshotter import conftest, stores

pytestmark = pytest.mark.root

REF = "containerd.io/snapshot.ref"


@pytest.fixture
def store(folder: pathlib.Path) -> stores.Store:
    (folder / "store").mkdir()
    return stores.Store(folder / "store")


@pytest.fixture
def snapshotter(folder: pathlib.Path, store: stores.Store, request: pytest.FixtureRequest):
    """Its parameter is how long the store may take, where a test waits for that."""
    lookup_seconds = getattr(request, "param", 10)
    process = conftest.Process(folder, store.layout.root, lookup_seconds=lookup_seconds)
    try:
        yield process
    finally:
        process.kill()


def pull(snapshotter, chain_ids: list[str]) -> str:
    """What containerd does for layers that are in the store; the backend name of the top."""
    parent = ""
    for chain_id in chain_ids:
        with pytest.raises(grpc.RpcError) as caught:
            snapshotter.prepare(f"extract-1 {chain_id}", parent, {REF: chain_id})
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        parent = find(snapshotter, chain_id, parent)
    return parent


def find(snapshotter, chain_id: str, parent: str) -> str:
    """containerd's look-up after AlreadyExists."""
    found = snapshotter.walk(f'labels."{REF}"=={chain_id},parent=="{parent}"')
    info = next(info for info in found.values() if info.kind == 3)
    assert snapshotter.stat(info.name) == info
    return info.name


def mounted_layers(folder: pathlib.Path) -> list[str]:
    return [entry.target for entry in mountinfo.read() if f"{folder}/r/layers/" in entry.target]


def test_a_container_runs_on_layers_of_the_store(snapshotter, store, folder) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1", "both": "low"}, {"b": "2", "both": "high"}))

    with snapshotter.mounted(snapshotter.prepare("c", top)) as root:
        assert {name: (root / name).read_text() for name in os.listdir(root)} == {
            "a": "1",
            "b": "2",
            "both": "high",
        }
        (root / "new").write_text("writable")
    assert snapshotter.usage(top) == (0, 0)


def serve_whole(snapshotter, chain_ids: list[str]) -> str:
    """What the agent asks for: the top of a chain on nothing; its backend name."""
    return pull(snapshotter, chain_ids[-1:])


def test_a_chain_on_no_parent_is_served_with_all_its_layers(snapshotter, store, folder) -> None:
    layers = [{"a": "1", "both": "low"}, {"b": "2", "both": "high"}, {"c": "3"}]
    chain = store.add_chain(*layers)
    top = serve_whole(snapshotter, chain)

    assert snapshotter.stat(top).parent == ""
    assert snapshotter.usage(top) == (0, 0)
    with snapshotter.mounted(snapshotter.prepare("container", top)) as root:
        assert {name: (root / name).read_text() for name in os.listdir(root)} == {
            "a": "1",
            "b": "2",
            "both": "high",
            "c": "3",
        }
    assert serve_whole(snapshotter, chain) == top
    assert len(snapshotter.walk()) == 2
    assert len(mounted_layers(folder)) == 3


def test_a_whole_image_and_a_pull_of_it_share_mounts_and_outlive_each_other(
    snapshotter, store, folder
) -> None:
    chain = store.add_chain({"a": "1"}, {"b": "2"})
    whole, pulled = serve_whole(snapshotter, chain), pull(snapshotter, chain)
    assert whole != pulled
    assert len(mounted_layers(folder)) == 2

    for name in (pulled, snapshotter.stat(pulled).parent):
        snapshotter.remove(name)
    snapshotter.cleanup()
    assert len(mounted_layers(folder)) == 2
    with snapshotter.mounted(snapshotter.prepare("container", whole)) as root:
        assert sorted(os.listdir(root)) == ["a", "b"]
    snapshotter.remove("container")
    snapshotter.remove(whole)
    snapshotter.cleanup()
    assert mounted_layers(folder) == []


def test_the_layers_of_a_whole_image_are_mounted_again_after_a_reboot(
    snapshotter, store, folder
) -> None:
    top = serve_whole(snapshotter, store.add_chain({"a": "1"}, {"b": "2"}, {"a": "1"}))
    snapshotter.kill()
    for target in mounted_layers(folder):
        syscalls.unmount(target)
    snapshotter.start()

    with snapshotter.mounted(snapshotter.prepare("container", top)) as root:
        assert sorted(os.listdir(root)) == ["a", "b"]


@pytest.mark.parametrize("damage", ["chain", "layer", "loop"])
def test_an_image_with_a_layer_that_is_not_right_is_not_served_whole(
    snapshotter, store, damage
) -> None:
    bottom, middle, top = store.add_chain({"a": "1"}, {"b": "2"}, {"c": "3"})
    record = store.layout.chain_record(middle)
    match damage:
        case "chain":
            record.unlink()
        case "layer":
            store.layout.layer(bottom).write_bytes(b"no layer")
        case "loop":
            record.write_text(record.read_text().replace(bottom, top))
    snapshotter.prepare("extract", "", {REF: top})

    assert [info.name for info in snapshotter.walk().values()] == ["extract"]


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_long_chain_is_served_whole_or_not_at_all(
    snapshotter, store, folder, is_complete
) -> None:
    """More layers than are asked for at once."""
    chain = store.add_chain(*({str(number): "x"} for number in range(20)))
    if is_complete:
        with snapshotter.mounted(snapshotter.prepare("c", serve_whole(snapshotter, chain))) as root:
            assert len(os.listdir(root)) == 20
        return
    store.layout.chain_record(chain[0]).unlink()
    snapshotter.prepare("extract", "", {REF: chain[-1]})
    snapshotter.cleanup()
    assert mounted_layers(folder) == []


def test_two_pulls_share_records_and_mounts(snapshotter, store, folder) -> None:
    chain = store.add_chain({"a": "1"}, {"b": "2"})

    assert pull(snapshotter, chain) == pull(snapshotter, chain)
    assert len(snapshotter.walk()) == 2
    assert len(mounted_layers(folder)) == 2


def test_the_same_chain_on_two_parents_is_two_records(snapshotter, store) -> None:
    """One namespace unpacked the lower layer, another has it from the store."""
    lower, upper = store.add_chain({"a": "1"}, {"b": "2"})
    snapshotter.prepare("key")
    snapshotter.commit("k8s.io/1/lower", "key", {REF: lower})
    for parent in ("k8s.io/1/lower", pull(snapshotter, [lower])):
        with pytest.raises(grpc.RpcError):
            snapshotter.prepare("x", parent, {REF: upper})
        find(snapshotter, upper, parent)


def test_the_same_layer_twice_in_a_chain(snapshotter, store) -> None:
    chain = store.add_chain({"a": "1"}, {"b": "2"}, {"a": "1"})

    with snapshotter.mounted(snapshotter.prepare("c", pull(snapshotter, chain))) as root:
        assert sorted(os.listdir(root)) == ["a", "b"]


def test_a_layer_that_is_not_in_the_store_is_unpacked_as_ever(snapshotter, store) -> None:
    (known,) = store.add_chain({"a": "1"})
    unknown = "sha256:" + "0" * 64

    parent = pull(snapshotter, [known])
    mounts = snapshotter.prepare("extract", parent, {REF: unknown})
    with snapshotter.mounted(mounts) as root:
        (root / "b").write_text("2")
    snapshotter.commit("top", "extract", {REF: unknown})

    with snapshotter.mounted(snapshotter.view("look", "top")) as root:
        assert sorted(os.listdir(root)) == ["a", "b"]


def test_no_label_no_already_exists(snapshotter, store) -> None:
    """containerd <= 2.2.1 would loop for ever otherwise."""
    (chain_id,) = store.add_chain({"a": "1"})

    assert snapshotter.prepare(f"extract-1 {chain_id}")[0].type == "bind"


@pytest.mark.parametrize("damage", ["record", "size", "superblock", "layer gone", "chain"])
def test_a_damaged_store_is_a_miss(snapshotter, store, damage: str) -> None:
    (chain_id,) = store.add_chain({"a": "1"})
    path = store.layout.layer(chain_id)
    match damage:
        case "record":
            store.layout.layer_record(chain_id).write_text('{"diff_id": 1}')
        case "chain":
            store.layout.chain_record(chain_id).write_text("\0\0")
        case "size":
            path.write_bytes(path.read_bytes() + b"x")
        case "superblock":
            path.write_bytes(b"\0" * path.stat().st_size)
        case "layer gone":
            path.unlink()

    assert snapshotter.prepare("extract", "", {REF: chain_id})[0].type == "bind"


@pytest.mark.parametrize("state", ["empty", "gone", "format 2"])
def test_no_store_is_a_miss_and_heals(snapshotter, store, state: str) -> None:
    (chain_id,) = store.add_chain({"a": "1"})
    root = store.layout.root
    aside = root.with_name("aside")
    root.rename(aside)
    if state != "gone":
        root.mkdir()
    if state == "format 2":
        (root / "store.json").write_text('{"format": 2, "id": "x"}')

    assert snapshotter.prepare("extract", "", {REF: chain_id})[0].type == "bind"
    if state != "gone":
        for path in root.iterdir():
            path.unlink()
        root.rmdir()
    aside.rename(root)
    pull(snapshotter, [chain_id])


def test_what_was_unmounted_is_mounted_again_before_a_container_gets_it(
    snapshotter, store, folder
) -> None:
    """As after a reboot: records are there, mounts are not."""
    top = pull(snapshotter, store.add_chain({"a": "1"}, {"b": "2"}))
    snapshotter.prepare("before", top)
    for target in mounted_layers(folder):
        syscalls.unmount(target)

    for mounts in (snapshotter.mounts("before"), snapshotter.prepare("after", top)):
        with snapshotter.mounted(mounts) as root:
            assert sorted(os.listdir(root)) == ["a", "b"]


def test_a_layer_that_cannot_be_mounted_again_is_unavailable_not_empty(
    snapshotter, store, folder
) -> None:
    (chain_id,) = store.add_chain({"a": "1"})
    top = pull(snapshotter, [chain_id])
    syscalls.unmount(mounted_layers(folder)[0])
    store.layout.layer(chain_id).unlink()

    with pytest.raises(grpc.RpcError) as caught:
        snapshotter.prepare("c", top)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert chain_id in caught.value.details()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_keeps_mounts_records_and_running_containers(
    snapshotter, store, folder, end: str
) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}, {"b": "2"}))
    before = [entry for entry in mountinfo.read() if entry.target in mounted_layers(folder)]
    with snapshotter.mounted(snapshotter.prepare("c", top)) as root:
        getattr(snapshotter, end)()
        assert (root / "a").read_text() == "1"
        snapshotter.start()
        after = [entry for entry in mountinfo.read() if entry.target in mounted_layers(folder)]
        assert after == before
        assert snapshotter.mounts("c")[0].type == "overlay"
        assert (root / "b").read_text() == "2"


def test_cleanup_unmounts_what_no_snapshot_refers_to(snapshotter, store, folder) -> None:
    chain = store.add_chain({"a": "1"}, {"b": "2"})
    top = pull(snapshotter, chain)
    snapshotter.cleanup()
    assert len(mounted_layers(folder)) == 2

    snapshotter.remove(top)
    snapshotter.cleanup()
    assert len(mounted_layers(folder)) == 1
    pull(snapshotter, chain)
    assert len(mounted_layers(folder)) == 2


def damage_database(path: pathlib.Path, damage: str, *, keep_wal: bool) -> None:
    if not keep_wal:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    match damage:
        case "deleted":
            path.unlink()
        case "truncated":
            os.truncate(path, 5000)
        case "garbage":
            path.write_bytes(b"\x5a" * 9000)


@pytest.mark.parametrize(
    ("damage", "is_alive", "keep_wal"),
    [
        ("deleted", True, True),
        ("deleted", True, False),
        ("deleted", False, True),
        ("deleted", False, False),
        ("truncated", False, True),
        ("truncated", False, False),
        ("garbage", True, True),
        ("garbage", True, False),
        ("garbage", False, True),
    ],
)
def test_a_lost_database_starts_anew_and_running_containers_go_on(
    snapshotter, store, folder, damage: str, is_alive: bool, keep_wal: bool
) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    with snapshotter.mounted(snapshotter.prepare("c", top)) as root:
        (root / "own").write_text("kept")
        if not is_alive:
            snapshotter.kill()
        damage_database(snapshotter.root / "uimgacc.db", damage, keep_wal=keep_wal)
        if is_alive and (damage == "deleted" or not keep_wal):
            # What is written now is lost: nothing may be called done.
            with pytest.raises(grpc.RpcError) as caught:
                snapshotter.prepare("lost")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert snapshotter.process.wait(timeout=60) == 1
            assert "was deleted or replaced" in snapshotter.log
        snapshotter.kill()
        snapshotter.start()
        snapshotter.cleanup()
        known = set(snapshotter.walk())
        if damage == "deleted" or not (is_alive or keep_wal):
            assert known == set()
        else:
            # The log has all that there is, and it is written over the damage: at the next
            # start, or at the end of whoever has it open.
            assert known >= {top, "c"}
        assert (root / "a").read_text() == "1"
        assert (root / "own").read_text() == "kept"
        # New snapshots never get the folder of an old one that is still in use.
        again = pull(snapshotter, store.add_chain({"a": "1"}))
        with snapshotter.mounted(snapshotter.prepare("d", again)) as other:
            assert sorted(os.listdir(other)) == ["a"]


def test_a_crash_leaves_no_folders(snapshotter, folder) -> None:
    snapshotter.kill()
    (snapshotter.root / "s" / "77" / "fs").mkdir(parents=True)
    snapshotter.start()
    snapshotter.cleanup()

    assert not (snapshotter.root / "s" / "77").exists()


def test_a_second_snapshotter_does_not_take_the_root(snapshotter, folder) -> None:
    snapshotter.prepare("key")
    second = subprocess.Popen(
        [
            conftest.COMMAND,
            "snapshotter",
            "--root",
            str(snapshotter.root),
            "--address",
            str(snapshotter.socket),
        ],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(1)
    assert snapshotter.stat("key").kind == 2
    # It waits for its predecessor (an upgrade), then serves the same snapshots.
    snapshotter.stop()
    snapshotter.channel = grpc.insecure_channel(f"unix://{snapshotter.socket}")
    grpc.channel_ready_future(snapshotter.channel).result(timeout=20)
    second.terminate()
    assert second.wait(timeout=20) == 0


def workers_of(pid: int) -> list[int]:
    """The processes that look things up for it; not its watcher, which would never end."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [
        int(child)
        for child in children
        if b"worker_child" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert found
    return found


def serves(snapshotter, chain_id: str) -> bool:
    """Whether a layer is served from the store; nothing is left where it is not."""
    try:
        snapshotter.prepare("asking", "", {REF: chain_id})
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.ALREADY_EXISTS
    snapshotter.remove("asking")
    return False


@pytest.mark.parametrize("snapshotter", [3], indirect=True)
def test_a_stopped_worker_delays_one_pull_and_no_more(snapshotter, store) -> None:
    """A store that hangs: as seen from the process, a worker that never answers."""
    known = store.add_chain({"a": "1"})
    pull(snapshotter, known)
    chain = store.add_chain({"b": "2"}, {"c": "3"})
    stopped = workers_of(snapshotter.process.pid)
    for child in stopped:
        os.kill(child, signal.SIGSTOP)

    assert snapshotter.prepare("x", "", {REF: chain[0]})[0].type == "bind"
    assert snapshotter.prepare("y", "", {REF: chain[0]})[0].type == "bind"
    # The second one was answered without a question to the store.
    assert snapshotter.log.count("the store does not answer") == 1
    assert snapshotter.mounts("x")
    deadline = time.monotonic() + 60
    while not serves(snapshotter, chain[0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pull(snapshotter, chain)
    for child in stopped:
        # One that was not asked for anything was not killed.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)


def test_a_layer_stays_mounted_under_a_container_that_no_snapshot_knows(
    snapshotter, store, folder
) -> None:
    """Else nobody could tell any more that its file is read: the store might delete it."""
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    with snapshotter.mounted(snapshotter.prepare("c", top)) as root:
        snapshotter.remove("c")
        snapshotter.remove(top)
        snapshotter.cleanup()
        assert len(mounted_layers(folder)) == 1
        assert (root / "a").read_text() == "1"
    snapshotter.cleanup()

    assert mounted_layers(folder) == []


def test_an_idle_layer_goes_by_itself_when_its_last_user_has_gone(
    snapshotter, store, folder
) -> None:
    """containerd asks for no cleanup then: it has forgotten the snapshots long before."""
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    with snapshotter.mounted(snapshotter.view("v", top)):
        snapshotter.remove("v")
        snapshotter.remove(top)
        snapshotter.cleanup()
        assert len(mounted_layers(folder)) == 1
    deadline = time.monotonic() + 60
    while mounted_layers(folder):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_layer_with_an_open_file_stays_mounted(snapshotter, store, folder) -> None:
    top = pull(snapshotter, store.add_chain({"a": "1"}))
    with (pathlib.Path(mounted_layers(folder)[0]) / "a").open():
        snapshotter.remove(top)
        snapshotter.cleanup()
        assert len(mounted_layers(folder)) == 1
    snapshotter.cleanup()

    assert mounted_layers(folder) == []
