"""The spool of large files: the same bytes whatever the number of threads, bounded, tidy."""

import concurrent.futures
import contextlib
import errno
import itertools
import os
import pathlib
import random
import threading
from collections.abc import Iterator, Sequence

import pytest

from agent.build import mkfs_erofs
from agent.build.bulk import extents, spool
from agent.build.tar import detours, headers

SOURCE = random.Random(2)
CONTENTS = [
    SOURCE.randbytes(3 * extents.SIZE + 7),
    bytes(30 * extents.SIZE),
    b"".join(SOURCE.choice([bytes(9000), SOURCE.randbytes(9000)]) for _ in range(400)),
]
REPEATED = SOURCE.randbytes(extents.SIZE * 3 // 4)
LITTLE = REPEATED + REPEATED[-extents.SIZE // 4 :]
"""An extent that saves more than an eighth, and less than a file has to. What is repeated is near:
lz4 finds nothing that is more than 64 KiB away."""


@contextlib.contextmanager
def spooled(
    path: pathlib.Path, threads: int, contents: Sequence[bytes] = CONTENTS
) -> Iterator[spool.Spool]:
    with spool.Spool(path, detours.Detours("sha256:a"), threads=threads) as bulk:
        fill(bulk, contents)
        bulk.finish()
        yield bulk


def fill(bulk: spool.Spool, contents: Sequence[bytes]) -> None:
    for content in contents:
        entry = headers.Entry(b"0", b"f", 0o644, 1, 2, len(content), 3)
        _, detour = bulk.diverted.send(entry)
        bulk.begin(detour)
        for start in range(0, len(content), 100_000):
            bulk.write(content[start : start + 100_000])
        bulk.end()


def test_the_number_of_threads_does_not_show(tmp_path) -> None:
    with spooled(tmp_path / "a", 1) as one, spooled(tmp_path / "b", 4) as four:
        assert one.path.read_bytes() == four.path.read_bytes()
        assert (one.table.starts, one.table.blocks) == (four.table.starts, four.table.blocks)
        assert one.files == four.files


def test_files_follow_one_another_behind_the_front(tmp_path) -> None:
    with spooled(tmp_path / "a", 2) as bulk:
        assert [(each.first, each.count) for each in bulk.files] == [(0, 4), (4, 30), (34, 28)]
        assert bulk.table.starts[0] * extents.BLOCK == spool.FRONT
        last = bulk.table.starts[-1] + abs(bulk.table.blocks[-1])
        assert bulk.path.stat().st_size == last * extents.BLOCK


def read_plain(bulk: spool.Spool, file: spool.File) -> bytes:
    """What a file of plain extents has."""
    data = bulk.path.read_bytes()
    own = slice(file.first, file.first + file.count)
    pieces = zip(bulk.table.starts[own], bulk.table.blocks[own], strict=True)
    found = [data[at * extents.BLOCK : (at + count) * extents.BLOCK] for at, count in pieces]
    return b"".join(found)[: file.detour.size]


@pytest.mark.parametrize(
    "content",
    [
        LITTLE * 20,
        LITTLE * 20 + LITTLE[-70_000:],
        CONTENTS[0][: 3 * extents.SIZE] + bytes(extents.SIZE + 5),
        LITTLE + CONTENTS[0][: extents.SIZE] + LITTLE * 9 + CONTENTS[0][: 3 * extents.SIZE] * 4,
    ],
    ids=["run", "run with an end", "one behind", "two runs"],
)
def test_a_file_that_saves_little_as_a_whole_is_plain(tmp_path, content: bytes) -> None:
    assert min(extents.pack(memoryview(content)).blocks) < 0
    contents = [CONTENTS[1], content, CONTENTS[2]]
    with spooled(tmp_path / "a", 1, contents) as one, spooled(tmp_path / "b", 4, contents) as four:
        file = one.files[1]
        own = slice(file.first, file.first + file.count)

        assert min(one.table.blocks[own]) > 0
        assert read_plain(one, file) == content
        assert one.path.read_bytes() == four.path.read_bytes()
        places = sorted(zip(one.table.starts, map(abs, one.table.blocks), strict=True))
        assert all(at + count <= after for (at, count), (after, _) in itertools.pairwise(places))
        # Some of it is where its compressed extents were.
        used = sum(count for _, count in places) * extents.BLOCK
        assert one.path.stat().st_size - spool.FRONT < used + 2 * extents.SIZE


def test_many_runs_are_unpacked_a_bounded_number_at_a_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(spool, "_MOST_RUNS", 2)
    content = (LITTLE * 9 + SOURCE.randbytes(extents.SIZE)) * 9
    with spooled(tmp_path / "a", 2, [content, *CONTENTS]) as bulk:
        assert read_plain(bulk, bulk.files[0]) == content


def test_a_build_that_ends_does_not_wait_until_a_long_run_is_unpacked(
    tmp_path, monkeypatch
) -> None:
    began, leaving = threading.Event(), threading.Event()
    unpacked: list[int] = []

    def unpack(_: bytes, size: int) -> bytes:
        unpacked.append(size)
        began.set()
        assert leaving.wait(60)
        return bytes(size)

    def shutdown(pool: concurrent.futures.ThreadPoolExecutor, **how: bool) -> None:
        leaving.set()
        end(pool, **how)

    monkeypatch.setattr(extents, "unpack", unpack)
    end = concurrent.futures.ThreadPoolExecutor.shutdown
    monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "shutdown", shutdown)
    with spool.Spool(tmp_path / "a", detours.Detours("sha256:a"), threads=2) as bulk:
        fill(bulk, [LITTLE * 20, CONTENTS[0] * 20])
        assert began.wait(60)

    assert len(unpacked) == 1


def test_a_file_stays_as_it_is_where_unpacking_it_would_leave_much_room_unused(tmp_path) -> None:
    with spooled(tmp_path / "a", 2, [(LITTLE + CONTENTS[0][: extents.SIZE]) * 20]) as bulk:
        packed = [blocks for blocks in bulk.table.blocks if blocks < 0]

        assert len(packed) == 20
        assert not extents.is_worth_it(sum(map(abs, bulk.table.blocks)), 40 * extents.SIZE)
        size = bulk.path.stat().st_size - spool.FRONT
        assert size == sum(map(abs, bulk.table.blocks)) * extents.BLOCK


def test_without_large_files_there_is_no_file(tmp_path) -> None:
    with spool.Spool(tmp_path / "a", detours.Detours.none(), threads=1):
        pass

    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_spool_that_was_not_used(tmp_path) -> None:
    with spooled(tmp_path / "a", 2):
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)

    with pytest.raises(mkfs_erofs.DiskFull), spooled(tmp_path / "a", 2):
        pass


def test_empty_files_have_marks_of_their_own() -> None:
    entry = headers.Entry(b"0", b"f", 0o600, 1, 2, 1 << 40, 3, 4)
    one, other = detours.Detours("sha256:a"), detours.Detours("sha256:b")

    sent = [one.send(entry), one.send(entry), other.send(entry)]

    assert len({detour.mark for _, detour in sent}) == 3
    for empty, detour in sent:
        assert (empty.size, empty.mode, empty.mtime_ns) == (0, 0o600, 0)
        assert (empty.uid, empty.gid, empty.mtime) == (
            detour.mark.uid,
            detour.mark.gid,
            detour.mark.mtime,
        )
        assert len(empty.encode(b"f")) == 512
        assert (detour.size, detour.padding) == (1 << 40, 0)
        assert (detour.uid, detour.gid, detour.mtime, detour.mtime_ns) == (1, 2, 3, 4)
