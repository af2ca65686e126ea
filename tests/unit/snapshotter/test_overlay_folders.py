"""Removing what containers wrote, and knowing whose folders are in use."""

import os
import pathlib
import subprocess
import threading

import pytest

from agent.snapshotter import overlay_folders


@pytest.fixture
def places(tmp_path: pathlib.Path) -> overlay_folders.Folders:
    made = overlay_folders.Folders(tmp_path)
    made.make(1)
    return made


def nest(path: str, levels: int) -> None:
    """Folders deeper than any path that a system call takes."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(os.open("f", os.O_CREAT, dir_fd=below))
        os.close(here)
        here = below
    os.close(here)


def test_folders_nested_deeper_than_any_recursion_are_removed(places) -> None:
    """A thousand levels once ended the snapshotter at every start."""
    nest(places.upper(1), 1500)

    places.remove(1)

    assert places.ids() == set()


def test_a_removal_that_is_stopped_is_finished_later(places) -> None:
    nest(places.upper(1), 50)
    places.stopped.set()
    places.remove(1)
    assert places.ids() == {1}

    places.stopped.clear()
    places.remove(1)
    assert places.ids() == set()


def test_links_are_removed_not_followed(places, tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    upper = pathlib.Path(places.upper(1))
    (upper / "link").symlink_to(outside)
    os.mkfifo(upper / "fifo")
    os.mkdir(os.fsencode(upper) + b"/\xff\n")

    places.remove(1)

    assert places.ids() == set()
    assert (outside / "kept").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("lowerdir=R/s/1/fs:R/layers/abc,upperdir=R/s/2/fs,workdir=R/s/2/work,index=off", {1, 2}),
        ("lowerdir=s/1/fs:layers/abc:s/4/fs,upperdir=R/s/2/fs,workdir=R/s/2/work", {1, 2, 4}),
        ("lowerdir=1/fs:4/fs,upperdir=R/s/2/fs,workdir=R/s/2/work", {1, 2, 4}),
        ("ro,lowerdir=1/fs:4/fs", {1, 4}),
        (
            "lowerdir=/v/snapshots/1/fs,upperdir=/v/snapshots/9/fs,workdir=/v/snapshots/9/work",
            set(),
        ),
        ("lowerdir=1/fs:7/fs,upperdir=/v/snapshots/9/fs,workdir=/v/snapshots/9/work", set()),
        # What is shown to a user namespace is the folder itself.
        ("lowerdir=R/m/7/layers/0123456789abcdef:R/m/7/s/3/fs,upperdir=R/s/7/fs", {3, 7}),
    ],
)
def test_the_folders_that_an_overlay_uses(places, tmp_path, options: str, expected: set) -> None:
    """containerd's own overlayfs snapshotter counts the same numbers: they are not ours."""
    assert places._mentioned(options.replace("R", str(tmp_path))) == expected


def test_usage_is_what_du_says(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"x" * 5000)
    os.link(tmp_path / "a" / "f", tmp_path / "a" / "again")
    counted = subprocess.run(["du", "-s", "-B1", tmp_path], capture_output=True, check=True)

    never = threading.Event()
    assert overlay_folders.count(str(tmp_path), never) == (int(counted.stdout.split()[0]), 3)
    assert overlay_folders.count(str(tmp_path / "none"), never) == (0, 0)
