"""Where the entries of an artifact's tars go, and how they are read."""

from collections.abc import Iterator

import pytest

from agent.build.artifacts import packed_files
from agent.build.tar import headers
from agent.model import oci
from agent.model.artifacts import artifact_files, file_tree
from lab.samples import tars

BLOB = oci.Descriptor("sha256:" + "a" * 64, 1)


@pytest.mark.parametrize(
    ("path", "entry", "placed"),
    [
        ("weights/w", "weights/w", "weights/w"),
        ("weights/w", "w", "weights/w"),
        ("weights", "weights/a", "weights/a"),
        ("weights/sub", "weights", "weights"),
        ("weights/sub", "weights/sub/a", "weights/sub/a"),
        ("weights/sub", "sub/a", "weights/sub/a"),
        ("a/a", "a/a/f", "a/a/f"),
        ("w", "other/x", "other/x"),
        ("w", "./", ""),
    ],
)
def test_an_entry_of_a_model_has_its_path_from_where_the_model_was_packed(
    path: str, entry: str, placed: str
) -> None:
    file = artifact_files.File(blob=BLOB, path=path.encode(), is_tar=True)
    made = headers.Entry(b"0", entry.encode(), 0o644, 0, 0, 0, 0)

    assert packed_files.place(made, file).decode() == placed


def test_a_hard_link_is_moved_with_its_file() -> None:
    made = headers.Entry(b"1", b"sub/b", 0o644, 0, 0, 0, 0, link=b"sub/a")

    assert packed_files.link_target(made, b"weights/sub/b") == b"weights/sub/a"


def test_an_entry_outside_of_its_folder_is_refused() -> None:
    file = artifact_files.File(blob=BLOB, path=b"d", is_tar=True, within=b"d")
    with pytest.raises(file_tree.UnsafePath, match="outside of the folder 'd'"):
        packed_files.place(headers.Entry(b"0", b"dd/x", 0o644, 0, 0, 0, 0), file)


@pytest.mark.parametrize(
    ("folder", "below", "reason"),
    [
        ("d/" * 300, "d/" * 300 + "f", "more than 512 names"),
        (f"{'x' * 250}/" * 9 + "d", "d/" + f"{'y' * 250}/" * 9 + "f", "too long"),
    ],
)
def test_the_limits_of_a_path_hold_for_what_is_put_together(
    folder: str, below: str, reason: str
) -> None:
    file = artifact_files.File(blob=BLOB, path=f"a/{folder.strip('/')}".encode(), is_tar=True)
    made = headers.Entry(b"0", below.encode(), 0o644, 0, 0, 0, 0)
    with pytest.raises(file_tree.UnsafePath, match=reason):
        packed_files.place(made, file)


def test_the_limits_of_a_path_hold_for_the_target_of_a_hard_link() -> None:
    made = headers.Entry(b"1", b"b", 0o644, 0, 0, 0, 0, link=b"a/" * 300 + b"a")
    with pytest.raises(file_tree.UnsafePath, match="more than 512 names"):
        packed_files.link_target(made, b"d/" * 300 + b"b")


def read(tar: bytes, piece: int) -> Iterator[tuple[bytes, bytes]]:
    reader = packed_files.Reader(tar[at : at + piece] for at in range(0, len(tar), piece))
    while (entry := reader.next()) is not None:
        yield entry.name, b"".join(reader.data())[: entry.size]


@pytest.mark.parametrize("piece", [1, 100, 512, 5000])
def test_pieces_may_end_anywhere(piece: int) -> None:
    long = "long/" * 40 + "f"
    entries = [tars.folder("d"), tars.file("d/a", b"a" * 700), tars.file(long, b"b", gnu=True)]

    assert list(read(tars.archive(entries), piece)) == [
        (b"d", b""),
        (b"d/a", b"a" * 700),
        (long.encode(), b"b"),
    ]


@pytest.mark.parametrize("count", [100, 700, 1023])
def test_a_tar_that_breaks_off_is_damaged(count: int) -> None:
    with pytest.raises(headers.LayerTarError, match="in the middle of an entry"):
        list(read(tars.archive([tars.file("f", b"x" * 512)])[:count], 512))


def test_a_tar_without_an_end_is_read() -> None:
    assert list(read(tars.member(tars.file("f", b"x")), 512)) == [(b"f", b"x")]


def test_a_sparse_file_is_refused() -> None:
    entry = tars.file("f", b"x", holes=[(0, 1)], size=10, sparse="pax-1.0")
    with pytest.raises(packed_files.NotAFile, match="sparse"):
        list(read(tars.archive([entry]), 512))
