"""Layers that take far more than they are: each kind is a named file.

`python -m lab.bombs FOLDER` writes them. Each is a well-formed blob; what it stands for (an
exabyte, a million names, hours of work) is what a builder must not give it.
"""

import argparse
import dataclasses
import hashlib
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import zstandard

from lab.samples import tars

_END = bytes(2 * tars.BLOCK)
_EXABYTES = (1 << 63) - 1
_MANY = 250_000
"""Entries: more than a builder with 1.2 GiB of memory gives a layer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bomb:
    """A layer: its blob, how that is compressed, its diff ID, and what a refusal of it says."""

    name: str
    blob: bytes
    suffix: str
    diff_id: str
    words: str


def make(name: str) -> Bomb:
    """Return one of them, by its name."""
    parts, words = KINDS[name]
    suffix = name.rpartition("-")[2]
    digest = hashlib.sha256()
    blob = _COMPRESS[suffix](_hashed(parts(), digest.update))
    return Bomb(
        name, blob, "" if suffix == "tar" else suffix, f"sha256:{digest.hexdigest()}", words
    )


def _hashed(parts: Iterable[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for part in parts:
        update(part)
        yield part


def _plain(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)


def _gzip(parts: Iterable[bytes]) -> bytes:
    maker = zlib.compressobj(wbits=31)  # at level 1 zeros are 200 times smaller, at 6 1,000
    return b"".join([*(maker.compress(part) for part in parts), maker.flush()])


def _zstd(parts: Iterable[bytes]) -> bytes:
    maker = zstandard.ZstdCompressor(level=3).compressobj()
    return b"".join([*(maker.compress(part) for part in parts), maker.flush()])


_COMPRESS: Mapping[str, Callable[[Iterable[bytes]], bytes]] = {
    "tar": _plain,
    "gzip": _gzip,
    "zstd": _zstd,
}


def numbered(entry: tars.Entry, count: int) -> Iterator[bytes]:
    """Yield the headers of entries without data, a hundred in each directory."""
    name = entry.name + b"00000/00"
    block = bytearray(tars.header(dataclasses.replace(entry, name=name), 0))
    total = sum(block[:148]) + sum(block[156:]) + 8 * 32
    at = len(entry.name)
    for number in range(count):
        digits = b"%05d/%02d" % divmod(number, 100)
        block[at : at + 8] = digits
        block[148:156] = b"%06o\0 " % (total + sum(digits) - 7 * 48 - 47)
        yield bytes(block)


def sparse_holes() -> Iterator[bytes]:
    """Yield a file of 8 EiB in 2,560 bytes: a hole and nothing else."""
    yield tars.archive([tars.file("f", sparse="pax-1.0", size=_EXABYTES, holes=[(_EXABYTES, 0)])])


def sparse_old_holes() -> Iterator[bytes]:
    """Yield files of 1 TiB by the map of an older dialect."""
    holes = [(1 << 40, 0)]
    for number in range(20):
        yield tars.member(tars.file(f"f{number}", sparse="pax-0.1", size=1 << 40, holes=holes))
    yield _END


def sparse_pieces() -> Iterator[bytes]:
    """Yield a file of 60 GiB in sixty thousand holes."""
    holes = [(at << 20, 0) for at in range(60 << 10)]
    yield tars.archive([tars.file("f", sparse="pax-1.0", size=60 << 30, holes=holes)])


def sparse_backwards() -> Iterator[bytes]:
    """Yield a map whose last piece has a negative length: what was read would come again."""
    holes = [(0, 1024), (1024, -1024), (0, 0)]
    yield tars.archive([tars.file("f", sparse="pax-1.0", size=1024, holes=holes)])


def large_file() -> Iterator[bytes]:
    """Yield the header of a file of 8 EiB, and no data."""
    yield tars.member(tars.file("f", gnu=True, pax={"size": b"%d" % (_EXABYTES - 511)}))
    yield _END


def zeros() -> Iterator[bytes]:
    """Yield 5 GiB of zeros, in one file of 64 MiB again and again."""
    part = tars.header(tars.file("zeros"), 64 << 20) + bytes(64 << 20)
    for _ in range(80):
        yield part
    yield _END


def files() -> Iterator[bytes]:
    """Yield very many empty files."""
    yield from numbered(tars.file("f"), _MANY)
    yield _END


def folders() -> Iterator[bytes]:
    """Yield very many empty directories."""
    yield from numbered(tars.folder("d"), _MANY)
    yield _END


def long_names() -> Iterator[bytes]:
    """Yield files with names of nearly 4,000 bytes."""
    part = b"n" * 200
    for number in range(20_000):
        name = b"/".join([part] * 19) + b"/%d" % number
        yield tars.member(tars.Entry(name=name))
    yield _END


def deep_paths() -> Iterator[bytes]:
    """Yield files that are 1,900 directories deep, of which the tar names none."""
    for number in range(20):
        yield tars.member(tars.Entry(name=b"%d" % number + b"/d" * 1900 + b"/f"))
    yield _END


def implied_folders() -> Iterator[bytes]:
    """Yield files in 500 directories each, of which the tar names none."""
    for number in range(200):
        yield tars.member(tars.Entry(name=b"%d" % number + b"/d" * 500 + b"/f"))
    yield _END


def xattrs() -> Iterator[bytes]:
    """Yield files with 3 KiB of xattrs each, no two alike."""
    for number in range(30_000):
        value = b"%d " % number + b"x" * 3000
        yield tars.member(tars.file(f"f{number}", pax={"SCHILY.xattr.user.k": value}))
    yield _END


def hard_links() -> Iterator[bytes]:
    """Yield very many hard links to one file."""
    yield tars.member(tars.file("a"))
    yield from numbered(tars.link("l", "a"), _MANY)
    yield _END


def symlinks() -> Iterator[bytes]:
    """Yield very many symlinks."""
    yield from numbered(tars.symlink("l", "t" * 90), _MANY)
    yield _END


def pax_records() -> Iterator[bytes]:
    """Yield headers of 1 MiB with a hundred thousand records each."""
    content = b"".join(b"11 k%05d=\n" % number for number in range(95_000))
    header = tars.header(tars.Entry(name=b"x"), len(content), kind=b"x") + tars.padded(content)
    for number in range(20):
        yield header + tars.member(tars.file(f"f{number}"))
    yield tars.member(tars.file("last", pax={"size": b"%d" % (_EXABYTES - 511)}))
    yield _END


def symlink_maze() -> Iterator[bytes]:
    """Yield files below chains of 250 symlinks, each of which leads through a long path."""
    detour = "/".join(["x", ".."] * 800)
    for number in range(250):
        yield tars.member(tars.symlink(f"l{number}", f"{detour}/l{number + 1}"))
    for number in range(1000):
        yield tars.member(tars.file(f"l0/{number % 2}/f{number}"))
    yield _END


def replaced_folders() -> Iterator[bytes]:
    """Yield many directories, and others that a file replaces, each of which looks at all."""
    yield from numbered(tars.folder("d"), 50_000)
    for number in range(4000):
        yield tars.member(tars.folder(f"r{number}"))
        yield tars.member(tars.file(f"r{number}"))
    yield _END


_SIZE = "it unpacks to more than"
_MEMORY = "need more memory than"
_NAMES = "the directories that its tar does not name"
_STEPS = "takes more than .* steps"

KINDS: Mapping[str, tuple[Callable[[], Iterator[bytes]], str]] = {
    "sparse-holes-tar": (sparse_holes, _SIZE),
    "sparse-old-holes-gzip": (sparse_old_holes, _SIZE),
    "sparse-pieces-gzip": (sparse_pieces, _SIZE),
    "sparse-backwards-tar": (sparse_backwards, "a sparse map that contradicts itself"),
    "large-file-tar": (large_file, _SIZE),
    "zeros-gzip": (zeros, _SIZE),
    "zeros-zstd": (zeros, _SIZE),
    "files-gzip": (files, _MEMORY),
    "folders-gzip": (folders, _MEMORY),
    "long-names-gzip": (long_names, _MEMORY),
    "deep-paths-gzip": (deep_paths, "more than 512 names"),
    "implied-folders-gzip": (implied_folders, _NAMES),
    "xattrs-gzip": (xattrs, _MEMORY),
    "hard-links-gzip": (hard_links, _MEMORY),
    "symlinks-zstd": (symlinks, _MEMORY),
    "pax-records-gzip": (pax_records, _SIZE),
    "symlink-maze-gzip": (symlink_maze, _STEPS),
    "replaced-folders-gzip": (replaced_folders, _STEPS),
}
"""What each kind yields, and the words of its refusal."""

SLOW = frozenset({"zeros-gzip", "zeros-zstd", "symlinks-zstd", "xattrs-gzip"})
"""Those that go on for long before they are too large."""


def write(folder: pathlib.Path) -> None:
    """Write all of them, each under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in KINDS:
        (folder / name).write_bytes(make(name).blob)


def main() -> None:
    """Write them to a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
