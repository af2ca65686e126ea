"""The folder of local copies after any end, and on a disk without room."""

import os
import pathlib
import time

import pytest

from agent.local import copy_paths, disk

NAME, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def where(tmp_path: pathlib.Path) -> copy_paths.CopyPaths:
    where = copy_paths.of(str(tmp_path))
    disk.prepare(where.folder)
    return where


def put(path: str, size: int = 10) -> pathlib.Path:
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))
    return file


def test_what_a_killed_agent_has_left_goes_but_for_drafts(where) -> None:
    for path in (where.draft(NAME), where.tree_draft(NAME), f"{where.tmp}/.record.json.0a1b"):
        put(path)
    disk.sweep(where.folder)

    assert sorted(os.listdir(where.tmp)) == [f"{NAME}.erofs", f"{NAME}.erofs.verity"]


def test_there_is_one_draft_at_a_time(where) -> None:
    for name in (NAME, OTHER):
        put(where.draft(name))
    disk.clear_drafts(where.folder, NAME)
    assert os.listdir(where.tmp) == [f"{NAME}.erofs"]

    disk.clear_drafts(where.folder)
    assert os.listdir(where.tmp) == []


def test_copies_are_found_with_their_trees(where) -> None:
    put(where.layer(NAME), 100)
    put(where.tree(NAME), 10)
    put(f"{where.layer_files}/ab/what is this")
    os.utime(where.layer(NAME), (0, 1000.0))
    copies, free, whole = disk.look(where.folder)

    assert copies == [(NAME, 110, 1000.0)]
    assert 0 < free <= whole


def test_a_use_is_noted_in_the_file_s_time(where) -> None:
    put(where.layer(NAME))
    os.utime(where.layer(NAME), (0, 1000.0))
    disk.touch(where.folder, [NAME, OTHER])

    assert disk.look(where.folder)[0][0][2] > time.time() - 60


def test_a_copy_goes_with_all_that_belongs_to_it(where) -> None:
    put(where.layer(NAME))
    put(where.tree(NAME))
    disk.write_record(where.folder, NAME, b"{}")
    disk.remove(where.folder, NAME)
    disk.remove(where.folder, NAME)

    assert disk.look(where.folder)[0] == []
    assert not os.path.exists(where.tree(NAME))
    assert disk.read_record(where.folder, NAME) == b""


def test_old_marks_go_with_the_next(where) -> None:
    disk.mark(where.folder, NAME, "wrong")
    os.utime(where.mark(NAME), (0, time.time() - 7200))
    disk.mark(where.folder, OTHER, "wrong")

    assert os.listdir(where.marks) == [OTHER]


def test_a_folder_with_a_link_in_place_of_a_copy_has_no_copy(where) -> None:
    target = put(f"{where.folder}/elsewhere")
    pathlib.Path(where.layer(NAME)).parent.mkdir()
    pathlib.Path(where.layer(NAME)).symlink_to(target)

    assert disk.look(where.folder)[0] == []
