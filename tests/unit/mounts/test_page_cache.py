"""What the kernel says of real files: which parts are in memory, also after reading ahead."""

import os
import pathlib

import pytest

from agent.mounts import syscalls
from agent.mounts.pages import page_cache

UNIT = page_cache.UNIT
SIZE = 40 * UNIT + 100


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file on a disk, none of which is in memory."""
    path = tmp_path / "layer"
    path.write_bytes(os.urandom(SIZE))
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    if units_of(path):
        pytest.skip("the file system keeps its files in memory")
    return path


def units_of(path: pathlib.Path) -> set[int]:
    ((size, units),) = page_cache.units_in_memory([str(path)])
    assert size == path.stat().st_size
    return {unit for unit in range(8 * len(units)) if units[unit // 8] >> unit % 8 & 1}


def test_what_was_read_is_in_memory_and_nothing_else(file: pathlib.Path) -> None:
    read, failures = page_cache.read_ahead(
        [(str(file), 3 * UNIT, 2 * UNIT), (str(file), 40 * UNIT, UNIT)], 4
    )

    assert (read, failures) == (2 * UNIT + 100, 0)
    assert units_of(file) == {3, 4, 40}


def test_what_was_only_read_ahead_is_not_used(file: pathlib.Path) -> None:
    page_cache.read_ahead([(str(file), UNIT, 30 * UNIT)], 40)
    descriptor = os.open(file, os.O_RDONLY)
    os.pread(descriptor, 3 * UNIT, 4 * UNIT)
    os.close(descriptor)
    try:
        # Twice: to look leaves no mark.
        (first,), (again,) = (page_cache.units_unused([str(file)]) for _ in range(2))
    except OSError as error:
        pytest.skip(f"the kernel does not say what was read: {error}")

    # The last byte of each request was read, to wait for it.
    unused = {unit for unit in range(8 * len(first)) if first[unit // 8] >> unit % 8 & 1}
    assert unused < units_of(file) - {4, 5, 6}
    assert len(unused) > 10
    assert first == again


def test_pieces_longer_than_a_request_are_read_to_their_end(file: pathlib.Path) -> None:
    assert page_cache.read_ahead([(str(file), UNIT, 37 * UNIT)], 2) == (37 * UNIT, 0)
    assert units_of(file) == set(range(1, 38))


def test_what_cannot_be_read_is_counted(file: pathlib.Path) -> None:
    pieces = [("/no/such/file", 0, UNIT), (str(file), 50 * UNIT, UNIT), (str(file), 0, UNIT)]

    assert page_cache.read_ahead(pieces, 1) == (UNIT, 2)


def test_an_empty_file_has_no_units(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").touch()

    assert units_of(tmp_path / "empty") == set()


def test_a_kernel_that_does_not_say_is_not_believed(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "may_know_pages", lambda _: False)

    with pytest.raises(PermissionError):
        page_cache.units_in_memory([str(file)])
