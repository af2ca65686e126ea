"""containerd's conformance suite for snapshotters, ported from its table.

Source: containerd core/snapshots/testsuite (21 tests). The suite itself runs against the
same command with UIMGACC_CONFORMANCE=1; the port is there because that needs a Go compiler.
"""

import os
import pathlib
import re
import stat
import subprocess
import sys
import time

import grpc
import pytest

from agent._proto.containerd import snapshots_pb2 as pb
from lab.parts import conformance

pytestmark = pytest.mark.root

KINDS = {"view": 1, "active": 2, "committed": 3}


def code_of(call, *arguments) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return caught.value.code()


def write(folder, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def layer(snapshotter, name: str, parent: str, files: dict[str, str]) -> str:
    """Prepare, write files, commit: one layer."""
    with snapshotter.mounted(snapshotter.prepare(f"{name}-key", parent)) as folder:
        write(folder, files)
    snapshotter.commit(name, f"{name}-key")
    return name


def tree(folder) -> dict[str, str]:
    """Every file and its text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_basic(snapshotter) -> None:
    layer(snapshotter, "one", "", {"foo": "foo\n", "a/b/c": "deep"})

    assert code_of(snapshotter.stat, "one-key") is grpc.StatusCode.NOT_FOUND
    layer(snapshotter, "two", "one", {"bar": "bar\n"})
    assert snapshotter.stat("two").parent == "one"
    with snapshotter.mounted(snapshotter.view("look", "two")) as folder:
        assert tree(folder) == {"foo": "foo\n", "a/b/c": "deep", "bar": "bar\n"}
    listed = snapshotter.walk()
    assert set(listed) == {"one", "two", "look"}
    assert all(snapshotter.stat(name) == info for name, info in listed.items())
    with pytest.raises(grpc.RpcError) as caught:
        snapshotter.remove("one")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "remove" in caught.value.details()


def test_stat_active_and_committed(snapshotter) -> None:
    snapshotter.prepare("key")
    active = snapshotter.stat("key")
    snapshotter.commit("name", "key")
    committed = snapshotter.stat("name")

    assert (active.name, active.parent, active.kind) == ("key", "", KINDS["active"])
    assert (committed.name, committed.parent, committed.kind) == ("name", "", KINDS["committed"])


def test_parents_are_linked(snapshotter) -> None:
    layer(snapshotter, "a", "", {})
    layer(snapshotter, "b", "a", {})

    assert [snapshotter.stat(name).parent for name in "ab"] == ["", "a"]


@pytest.mark.parametrize("first", ["prepare", "view"])
@pytest.mark.parametrize("second", ["prepare", "view"])
def test_a_key_is_given_once(snapshotter, first: str, second: str) -> None:
    layer(snapshotter, "base", "", {})
    getattr(snapshotter, first)("key", "base")

    code = code_of(getattr(snapshotter, second), "key", "base")

    assert code is grpc.StatusCode.ALREADY_EXISTS


def test_update(snapshotter) -> None:
    before = time.time_ns()
    snapshotter.prepare("key", labels={"a": "1"})
    snapshotter.commit("name", "key", {"l1": "v1", "l2": "v2"})
    info = snapshotter.stat("name")

    assert before <= info.created_at.ToNanoseconds() <= time.time_ns()
    assert info.created_at == info.updated_at
    assert dict(info.labels) == {"l1": "v1", "l2": "v2"}
    changed = snapshotter.update(pb.Info(name="name", labels={"l1": "x"}), "labels.l1", "labels.l2")
    assert dict(changed.labels) == {"l1": "x"}
    assert changed.updated_at.ToNanoseconds() > changed.created_at.ToNanoseconds()
    whole = pb.Info(name="name", parent="no", kind=KINDS["view"], labels={"new": "set"})
    changed = snapshotter.update(whole)
    assert (dict(changed.labels), changed.parent, changed.kind) == ({"new": "set"}, "", 3)
    assert dict(snapshotter.update(pb.Info(name="name"), "labels").labels) == {}
    assert code_of(snapshotter.update, whole, "parent") is grpc.StatusCode.INVALID_ARGUMENT


def test_a_key_is_free_after_remove(snapshotter) -> None:
    layer(snapshotter, "base", "", {})
    snapshotter.prepare("key", "base")
    snapshotter.remove("key")
    snapshotter.view("key")
    snapshotter.remove("key")
    snapshotter.prepare("other")
    snapshotter.commit("key", "other")

    assert snapshotter.stat("key").kind == KINDS["committed"]


def test_walk_understands_filters(snapshotter) -> None:
    layer(snapshotter, "base", "", {})
    snapshotter.prepare("active", "base", {"l": "1", "has.dot": "x"})
    snapshotter.view("look", "base")
    snapshotter.prepare("late")
    snapshotter.commit("named", "late", {"l": "2"})
    expected = {
        ("name==base",): {"base"},
        ("parent==base",): {"active", "look"},
        ('parent!=""',): {"active", "look"},
        ("kind==active",): {"active"},
        ("kind==view",): {"look"},
        ("kind==committed",): {"base", "named"},
        ("labels.l",): {"active", "named"},
        ("labels.l==2",): {"named"},
        ('labels."has.dot"==x',): {"active"},
        ("kind==committed,labels.l==2",): {"named"},
        ("kind==view", "name==named"): {"look", "named"},
        ("name~=^(base|look)$",): {"base", "look"},
        (): {"base", "active", "look", "named"},
    }

    found = {filters: set(snapshotter.walk(*filters)) for filters in expected}

    assert found == expected
    assert code_of(snapshotter.walk, "name==a b,,=") is grpc.StatusCode.INVALID_ARGUMENT


def test_stat_during_a_walk(snapshotter) -> None:
    for number in range(5):
        snapshotter.prepare(f"key{number}")
    for page in snapshotter.client.List(pb.ListSnapshotsRequest()):
        for info in page.info:
            assert snapshotter.stat(info.name) == info


def test_files_change_across_layers(snapshotter) -> None:
    layer(snapshotter, "a", "", {"foo": "foo\n", "etc/hosts": "127.0.0.1 localhost"})
    layer(snapshotter, "b", "a", {"foo": "foo", "etc/hosts": "127.0.0.1 localhost.localdomain"})

    with snapshotter.mounted(snapshotter.view("look", "b")) as folder:
        found = tree(folder)

    assert found == {"foo": "foo", "etc/hosts": "127.0.0.1 localhost.localdomain"}


def test_a_folder_of_a_lower_layer_can_be_removed(snapshotter) -> None:
    layer(snapshotter, "a", "", {"dir1/f1": "1", "dir2/f2": "2"})
    with snapshotter.mounted(snapshotter.prepare("key", "a")) as folder:
        (folder / "dir1/f1").unlink()
        (folder / "dir1").rmdir()
        write(folder, {"dir1/f3": "3"})
    snapshotter.commit("b", "key")

    with snapshotter.mounted(snapshotter.view("look", "b")) as folder:
        assert tree(folder) == {"dir1/f3": "3", "dir2/f2": "2"}


def test_owners_and_modes_survive_a_commit(snapshotter) -> None:
    layer(snapshotter, "a", "", {"opt/a": "1", "opt/b": "2"})
    with snapshotter.mounted(snapshotter.prepare("key", "a")) as folder:
        os.chown(folder / "opt/a", 1, 1)
        os.chown(folder / "opt/b", 1, 1)
        (folder / "dir").mkdir(mode=0o700)
        (folder / "dir").chmod(0o777)
    snapshotter.commit("b", "key")

    with snapshotter.mounted(snapshotter.view("look", "b")) as folder:
        assert (folder / "opt/a").stat().st_uid == 1
        assert stat.S_IMODE((folder / "dir").stat().st_mode) == 0o777


def test_deleted_files_stay_deleted(snapshotter) -> None:
    layer(snapshotter, "a", "", {"foo": "f", "bar": "b"})
    with snapshotter.mounted(snapshotter.prepare("key", "a")) as folder:
        (folder / "foo").unlink()
    snapshotter.commit("b", "key")

    with snapshotter.mounted(snapshotter.prepare("child", "b")) as folder:
        assert tree(folder) == {"bar": "b"}


def test_a_file_of_a_lower_layer_can_be_moved(snapshotter) -> None:
    layer(snapshotter, "a", "", {"dir1/f1": "x", "dir2/f2": "y"})
    with snapshotter.mounted(snapshotter.prepare("key", "a")) as folder:
        (folder / "dir1/f1").rename(folder / "dir2/f1")
    snapshotter.commit("b", "key")

    with snapshotter.mounted(snapshotter.view("look", "b")) as folder:
        assert tree(folder) == {"dir2/f1": "x", "dir2/f2": "y"}


def test_a_middle_layer_cannot_be_removed(snapshotter) -> None:
    layer(snapshotter, "a", "", {})
    layer(snapshotter, "b", "a", {})
    snapshotter.prepare("top", "b")

    assert code_of(snapshotter.remove, "b") is grpc.StatusCode.FAILED_PRECONDITION
    for name in ("top", "b", "a"):
        snapshotter.remove(name)
    assert snapshotter.walk() == {}


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_view_is_read_only(snapshotter, depth: int) -> None:
    parent = ""
    for number in range(depth):
        parent = layer(snapshotter, f"l{number}", parent, {f"f{number}": "x"})

    with (
        snapshotter.mounted(snapshotter.view("look", parent)) as folder,
        pytest.raises(OSError, match="Read-only"),
    ):
        (folder / "new").write_text("x")
    assert code_of(snapshotter.commit, "no", "look") is grpc.StatusCode.FAILED_PRECONDITION


def test_the_root_folder_has_mode_755_whatever_the_umask(snapshotter) -> None:
    with snapshotter.mounted(snapshotter.prepare("key")) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_of_the_same_layer_can_be_renamed(snapshotter) -> None:
    with snapshotter.mounted(snapshotter.prepare("key")) as folder:
        write(folder, {"old/f": "x"})
        (folder / "old").rename(folder / "new")
        assert tree(folder) == {"new/f": "x"}


def test_128_layers_are_mounted_and_compared(snapshotter) -> None:
    parent, expected = "", {}
    for number in range(128):
        files = {f"f{number}": str(number), "shared": str(number)}
        expected |= files
        parent = layer(snapshotter, f"l{number}", parent, files)

    with snapshotter.mounted(snapshotter.view("look", parent)) as folder:
        assert tree(folder) == expected


def test_mounts_are_the_same_when_asked_again(snapshotter) -> None:
    layer(snapshotter, "a", "", {"f": "x"})
    prepared = snapshotter.prepare("key", "a")

    assert snapshotter.mounts("key") == prepared
    assert code_of(snapshotter.mounts, "a") is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("method", ["stat", "mounts", "remove", "usage"])
def test_an_unknown_key_is_not_found(snapshotter, method: str) -> None:
    assert code_of(getattr(snapshotter, method), "none") is grpc.StatusCode.NOT_FOUND


def test_a_parent_must_be_committed_and_known(snapshotter) -> None:
    snapshotter.prepare("active")

    assert code_of(snapshotter.prepare, "x", "none") is grpc.StatusCode.NOT_FOUND
    assert code_of(snapshotter.prepare, "x", "active") is grpc.StatusCode.INVALID_ARGUMENT


def test_usage_counts_own_bytes_only(snapshotter) -> None:
    layer(snapshotter, "a", "", {"f": "x" * 100_000})
    layer(snapshotter, "b", "a", {"g": "x"})

    size_a, inodes_a = snapshotter.usage("a")
    size_b, inodes_b = snapshotter.usage("b")

    assert size_a >= 100_000 > size_b
    assert (inodes_a, inodes_b) == (2, 2)
    assert snapshotter.usage("a") == (size_a, inodes_a)


@pytest.mark.skipif(
    not os.environ.get("UIMGACC_CONFORMANCE"),
    reason="UIMGACC_CONFORMANCE=1 builds and runs containerd's own suite",
)
@pytest.mark.timeout(1200)
def test_containerds_own_suite(folder) -> None:
    program = conformance.program(pathlib.Path(__file__).with_name("conformance"))

    done = subprocess.run(
        [program, "-test.root", "-test.v"],
        env={
            **os.environ,
            "TMPDIR": str(folder),
            "UIMGACC": pathlib.Path(sys.executable).with_name("uimgacc"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )

    results = re.findall(r"^ +--- (\w+): TestConformance/(\S+)", done.stdout, re.MULTILINE)
    assert [name for result, name in results if result != "PASS"] == []
    assert len(results) == 21
    assert done.returncode == 0
