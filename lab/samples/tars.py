"""Write tar streams entry by entry, also the odd ones.

The standard library's `tarfile` writes only archives as they should be. Layers
in registries are not: names are bytes in no encoding, one name comes
twice, files are sparse in three dialects. So headers are made here, field by
field, from what an entry says.
"""

import dataclasses
import io
from collections.abc import Sequence

BLOCK = 512
FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
EPOCH = 1_700_000_000
"""The time of everything that is about no other time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member of an archive, and how it is to be written."""

    name: bytes
    kind: bytes = FILE
    data: bytes = b""
    target: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = EPOCH
    device: tuple[int, int] = (0, 0)
    pax: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """Extended records, which override the header's fields."""
    gnu: bool = False
    """Use GNU's way for what does not fit: long names, large numbers."""
    holes: Sequence[tuple[int, int]] = ()
    """Offset and length of the data of a sparse file; `data` has those pieces one after another."""
    size: int | None = None
    """The full size of a sparse file."""
    sparse: str = ""
    """The dialect of a sparse file: `gnu`, `pax-0.1` or `pax-1.0`."""


def file(name: str, data: bytes = b"", *, mode: int = 0o644, **more: object) -> Entry:
    """Return a regular file."""
    return Entry(name=name.encode(), data=data, mode=mode, **more)  # type: ignore[arg-type]


def folder(name: str, *, mode: int = 0o755, **more: object) -> Entry:
    """Return a directory."""
    return Entry(name=name.encode(), kind=FOLDER, mode=mode, **more)  # type: ignore[arg-type]


def symlink(name: str, target: str, **more: object) -> Entry:
    """Return a symbolic link."""
    return Entry(
        name=name.encode(),
        kind=SYMLINK,
        target=target.encode(),
        mode=0o777,
        **more,  # type: ignore[arg-type]
    )


def link(name: str, target: str, **more: object) -> Entry:
    """Return a hard link to an earlier entry, of this layer or one below."""
    return Entry(name=name.encode(), kind=LINK, target=target.encode(), **more)  # type: ignore[arg-type]


def archive(entries: Sequence[Entry]) -> bytes:
    """Return a whole archive."""
    stream = io.BytesIO()
    for entry in entries:
        stream.write(member(entry))
    stream.write(bytes(2 * BLOCK))
    return stream.getvalue()


def member(entry: Entry) -> bytes:
    """Return the blocks of one entry, with the extra headers that it needs."""
    if entry.sparse:
        return sparse_member(entry)
    records = dict(entry.pax)
    before = b""
    if entry.gnu:
        before = gnu_long(b"L", entry.name) + gnu_long(b"K", entry.target)
    else:
        records |= overflowing(entry)
    return before + pax_header(records) + header(entry, len(entry.data)) + padded(entry.data)


def overflowing(entry: Entry) -> dict[str, bytes]:
    """Return PAX records for the fields that do not fit into a header."""
    records = {}
    if len(entry.name) > 100:
        records["path"] = entry.name
    if len(entry.target) > 100:
        records["linkpath"] = entry.target
    for field in ("uid", "gid"):
        if getattr(entry, field) > 0o7777777:
            records[field] = str(getattr(entry, field)).encode()
    if entry.mtime < 0 or entry.mtime > 0o77777777777:
        records.setdefault("mtime", str(entry.mtime).encode())
    return {key: value for key, value in records.items() if key not in entry.pax}


def header(entry: Entry, size: int, *, kind: bytes | None = None, extra: bytes = b"") -> bytes:
    """Return the 512 bytes of an entry's own header."""
    magic = b"ustar  \0" if entry.gnu or entry.sparse == "gnu" else b"ustar\x0000"
    fields = [
        entry.name[:100].ljust(100, b"\0"),
        number(entry.mode, 8, gnu=entry.gnu),
        number(entry.uid, 8, gnu=entry.gnu),
        number(entry.gid, 8, gnu=entry.gnu),
        number(size, 12, gnu=entry.gnu),
        number(entry.mtime, 12, gnu=entry.gnu),
        b" " * 8,
        kind or entry.kind,
        entry.target[:100].ljust(100, b"\0"),
        magic,
        b"\0" * 64,
        number(entry.device[0], 8, gnu=entry.gnu),
        number(entry.device[1], 8, gnu=entry.gnu),
        extra,
    ]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def number(value: int, width: int, *, gnu: bool) -> bytes:
    """Return a number in octal or, where it does not fit, in GNU's binary form."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    if gnu:
        if value < 0:
            return value.to_bytes(width, "big", signed=True)
        return (value | 1 << (8 * width - 1)).to_bytes(width, "big")
    return b"%0*o\0" % (width - 1, 0)


def pax_header(records: dict[str, bytes]) -> bytes:
    """Return the blocks of a PAX extended header, or nothing for no records."""
    if not records:
        return b""
    data = b"".join(pax_record(key.encode(), value) for key, value in records.items())
    name = b"PaxHeaders.0/entry"
    return header(Entry(name=name), len(data), kind=b"x") + padded(data)


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return one record: its own length in decimal, key and value."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def gnu_long(kind: bytes, value: bytes) -> bytes:
    """Return GNU's extra member for a name or link target over 100 bytes."""
    if len(value) <= 100:
        return b""
    data = value + b"\0"
    return header(Entry(name=b"././@LongLink", gnu=True), len(data), kind=kind) + padded(data)


def padded(data: bytes) -> bytes:
    """Fill up to a whole number of blocks."""
    return data + bytes(-len(data) % BLOCK)


def sparse_member(entry: Entry) -> bytes:
    """Return the blocks of a sparse file in the dialect asked for."""
    size = entry.size or 0
    if entry.sparse == "gnu":
        return gnu_sparse(entry, size)
    if entry.sparse == "pax-0.1":
        pairs = b",".join(b"%d,%d" % hole for hole in entry.holes)
        records = {
            "GNU.sparse.size": b"%d" % size,
            "GNU.sparse.numblocks": b"%d" % len(entry.holes),
            "GNU.sparse.map": pairs,
            "GNU.sparse.name": entry.name,
        }
        outer = dataclasses.replace(entry, name=b"GNUSparseFile.0/" + entry.name)
        return pax_header(records) + header(outer, len(entry.data)) + padded(entry.data)
    numbers = [len(entry.holes), *(value for hole in entry.holes for value in hole)]
    data = padded(b"".join(b"%d\n" % value for value in numbers)) + entry.data
    records = {
        "GNU.sparse.major": b"1",
        "GNU.sparse.minor": b"0",
        "GNU.sparse.name": entry.name,
        "GNU.sparse.realsize": b"%d" % size,
    }
    outer = dataclasses.replace(entry, name=b"GNUSparseFile.0/" + entry.name)
    return pax_header(records) + header(outer, len(data)) + padded(data)


def gnu_sparse(entry: Entry, size: int) -> bytes:
    """Return a sparse file in GNU's oldest form, with extension blocks if needed."""
    pieces = [b"%011o\0%011o\0" % hole for hole in [*entry.holes, (size, 0)]]
    first, rest = pieces[:4], pieces[4:]
    # Offsets in the block: 386 the four first pieces, 482 "more follows", 483 the full size.
    table = b"".join(first).ljust(96, b"\0") + (b"\1" if rest else b"\0") + b"%011o\0" % size
    blocks = header(entry, len(entry.data), kind=b"S", extra=bytes(41) + table)
    while rest:
        now, rest = rest[:21], rest[21:]
        blocks += (b"".join(now).ljust(504, b"\0") + (b"\1" if rest else b"\0")).ljust(BLOCK, b"\0")
    return blocks + padded(entry.data)
