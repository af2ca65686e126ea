"""A layer is copied in slices, verified on the way, and resumed after an end at any point."""

import errno
import fcntl
import hashlib
import os
import pathlib

import pytest

from agent.local import copying

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_session_stays():
    yield
    copying.abandon()


class Layer:
    """A file of a store, and where its copy is to be."""

    def __init__(self, folder: pathlib.Path, size: int) -> None:
        self.data = os.urandom(size)
        self.source = folder / "layer"
        self.source.write_bytes(self.data)
        self.draft = folder / "tmp/layer"
        self.draft.parent.mkdir()
        self.target = folder / "sha256/ab/layer"
        self.sha256 = f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def begin(self, *, anew: bool = False) -> bool:
        return copying.begin(str(self.source), str(self.draft), len(self.data), anew=anew)

    def more(self, seconds: float = 5.0, rate: int = 0) -> copying.Progress:
        # A device that does not read: containers do not, either.
        return copying.more(str(self.draft), seconds, rate, ["loop0"])

    def finish(self, sha256: str = "") -> bool:
        return copying.finish(str(self.draft), str(self.target), sha256 or self.sha256)


SIZES = [1, 4096, 4097, MIB, 3 * MIB + 12345]


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_has_all_bytes(tmp_path: pathlib.Path, size: int) -> None:
    layer = Layer(tmp_path, size)

    assert not layer.begin()
    position, read, free = layer.more()
    assert (position, read) == (size, size)
    assert free > 0
    assert layer.finish()
    assert layer.target.read_bytes() == layer.data
    assert not layer.draft.exists()


def test_without_direct_io_a_copy_has_all_bytes(tmp_path: pathlib.Path, monkeypatch) -> None:
    """Some file systems refuse it when a file is opened, some when it is read."""
    layer = Layer(tmp_path, 2 * MIB + 5)
    monkeypatch.setattr(os, "O_DIRECT", 0)
    monkeypatch.setattr(copying, "_RWF_DONTCACHE", 0x40000000)

    layer.begin()
    layer.more()

    assert layer.finish()
    assert layer.target.read_bytes() == layer.data


def test_a_draft_is_gone_on_with(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, 5 * MIB)
    layer.begin()
    while layer.more(0.0001, rate=200 * MIB)[0] < 2 * MIB:
        pass
    copying.abandon()

    assert layer.begin()
    position, read, _ = layer.more()
    assert position == 5 * MIB
    assert read <= 3 * MIB
    assert layer.finish()
    assert layer.target.read_bytes() == layer.data


def test_a_draft_that_is_spoilt_is_found_out(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, 3 * MIB)
    layer.draft.write_bytes(bytes(2 * MIB))

    assert layer.begin()
    layer.more()
    assert not layer.finish()
    assert not layer.draft.exists()
    assert not layer.target.exists()


def test_a_draft_is_not_gone_on_with_where_that_is_asked_for(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, 3 * MIB)
    layer.draft.write_bytes(bytes(2 * MIB))

    assert not layer.begin(anew=True)
    assert layer.more()[1] == 3 * MIB
    assert layer.finish()


def test_a_longer_draft_is_of_something_else(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, MIB)
    layer.draft.write_bytes(bytes(2 * MIB))

    assert not layer.begin()


def test_wrong_bytes_make_no_copy(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, MIB)
    layer.begin()
    layer.more()

    assert not layer.finish(f"sha256:{'0' * 64}")
    assert not layer.target.exists()
    with pytest.raises(OSError, match="another worker") as caught:
        layer.more()
    assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("size", [MIB - 1, MIB + 1])
def test_a_file_of_another_size_is_not_copied(tmp_path: pathlib.Path, size: int) -> None:
    layer = Layer(tmp_path, MIB)
    layer.source.write_bytes(bytes(size))

    with pytest.raises(OSError, match="its record says") as caught:
        layer.begin()
    assert caught.value.errno == errno.EUCLEAN


def test_a_file_that_is_cut_off_meanwhile_makes_no_copy(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, 2 * MIB)
    layer.begin()
    os.truncate(layer.source, MIB)

    with pytest.raises(OSError, match="is cut off"):
        layer.more()


def test_two_do_not_write_one_draft(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, MIB)
    with layer.draft.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        with pytest.raises(BlockingIOError):
            layer.begin()
    layer.begin()


def test_the_rate_is_kept(tmp_path: pathlib.Path) -> None:
    """A slice at a rate of 1 MiB/s takes one piece, and the next one pauses for it."""
    layer = Layer(tmp_path, 3 * MIB)
    layer.begin()

    assert layer.more(0.05, rate=MIB)[0] == MIB
    assert layer.more(0.05, rate=MIB)[0] == MIB


def test_beside_containers_that_read_pieces_are_small(tmp_path: pathlib.Path, monkeypatch) -> None:
    """So it is where nothing can tell whether they do."""
    sizes = []
    write = copying._Draft.write
    monkeypatch.setattr(copying, "_REST", 0)
    monkeypatch.setattr(
        copying._Draft,
        "write",
        lambda draft, data, offset: (sizes.append(len(data)), write(draft, data, offset)),
    )
    layer = Layer(tmp_path, MIB)
    layer.begin()
    copying.more(str(layer.draft), 5.0, 0, [])

    assert sizes == [MIB // 8] * 8


def test_the_priority_is_low_while_it_copies_only(tmp_path: pathlib.Path, monkeypatch) -> None:
    seen = []
    layer = Layer(tmp_path, MIB)
    write = copying._Draft.write
    monkeypatch.setattr(
        copying._Draft,
        "write",
        lambda *arguments: (seen.append(os.getpriority(os.PRIO_PROCESS, 0)), write(*arguments)),
    )
    before = os.getpriority(os.PRIO_PROCESS, 0)
    layer.begin()
    layer.more()

    assert seen == [19]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
