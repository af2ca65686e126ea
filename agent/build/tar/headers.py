"""Tar headers: read as Go's archive/tar reads them, written as mkfs.erofs understands.

Names are bytes: a tar says nothing about their encoding, and neither does Linux.
"""

import dataclasses
import re
from collections.abc import Mapping

from agent import errors

USTAR = b"ustar\x0000"
GNU = b"ustar  \x00"
_STAR_TRAILER = b"tar\x00"
_SPECIAL_MODES = 0o7777
_MAX_TIME = divmod((1 << 63) - 1, 1_000_000_000)
_DECIMAL = re.compile(rb"[+-]?[0-9]+")
_TIME = re.compile(rb"([+-]?[0-9]+)(?:\.([0-9]*))?")
_SCHILY = b"SCHILY.xattr."
_LENGTH = 100
"""The length of a PAX record has fewer digits, also where it has zeros before it."""
_TIMES = (b"atime", b"ctime", b"mtime")


class LayerTarError(errors.PermanentError):
    """A layer's tar cannot be unpacked, by containerd neither. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the layer's tar cannot be unpacked: {reason}")
        self.reason = reason


@dataclasses.dataclass(slots=True)
class Sparse:
    """A GNU sparse file in PAX form.

    `inline`: its map stands before its data; else `numbers` is the map. `size` is
    that of the whole file, where it is given.
    """

    inline: bool
    numbers: list[int]
    size: int | None


@dataclasses.dataclass(slots=True)
class Entry:
    """One entry, with what its extended headers say already in place."""

    kind: bytes
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_ns: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    sparse: Sparse | None = None

    @property
    def attributes(self) -> bytes:
        """What a hard link to this entry may change, except xattrs, in the form of a header."""
        plain = b"%07o%07o%07o%011o" % (self.mode, self.uid, self.gid, self.mtime)
        return plain + b".%d" % self.mtime_ns if self.mtime_ns else plain

    def encode(self, path: bytes) -> bytes:
        """The header blocks of this entry under the given clean path."""
        pax = [_pax_record(_SCHILY + key, value) for key, value in self.xattrs]
        if len(path) > 100:
            pax.append(_pax_record(b"path", path))
        if len(self.link) > 100:
            pax.append(_pax_record(b"linkpath", self.link))
        if self.mtime_ns or self.mtime >= 8**11:
            pax.append(_pax_record(b"mtime", b"%d.%09d" % (self.mtime, self.mtime_ns)))
        for key, value, limit in (
            (b"size", self.size, 8**11),
            (b"uid", self.uid, 8**7),
            (b"gid", self.gid, 8**7),
        ):
            if value >= limit:
                pax.append(_pax_record(key, b"%d" % value))
        block = self.block(path)
        if not pax:
            return block
        content = b"".join(pax)
        extended = Entry(b"x", b"x", 0o644, 0, 0, len(content), 0).block(b"x")
        return extended + content + bytes(-len(content) % 512) + block

    def block(self, path: bytes) -> bytes:
        """The plain header block, without what does not fit into one."""
        block = bytearray(512)
        block[: min(len(path), 100)] = path[:100]
        block[100:108] = b"%07o\x00" % self.mode
        block[108:116] = b"%07o\x00" % (self.uid if self.uid < 8**7 else 0)
        block[116:124] = b"%07o\x00" % (self.gid if self.gid < 8**7 else 0)
        block[124:136] = b"%011o\x00" % (self.size if self.size < 8**11 else 0)
        block[136:148] = b"%011o\x00" % (self.mtime if self.mtime < 8**11 else 0)
        block[148:156] = b"        "
        block[156:157] = self.kind
        block[157 : 157 + min(len(self.link), 100)] = self.link[:100]
        block[257:265] = USTAR
        block[329:337] = _device(self.major)
        block[337:345] = _device(self.minor)
        block[148:156] = b"%06o\x00 " % sum(block)
        return bytes(block)


def show(path: bytes) -> str:
    """A path for a message."""
    return path.decode(errors="backslashreplace")[:200]


def root_entry() -> bytes:
    """The header of the root as containerd's snapshotter makes it."""
    return Entry(b"5", b"", 0o755, 0, 0, 0, 0).encode(b"./")


def opaque_entry(parent: bytes) -> bytes:
    """The header that makes a directory opaque.

    The root's is an attribute of the root: mkfs.erofs fails on the marker there.
    """
    if parent:
        return Entry(b"0", b"", 0, 0, 0, 0, 0).encode(parent + b"/.wh..wh..opq")
    root = Entry(b"5", b"", 0o755, 0, 0, 0, 0)
    root.xattrs = [(b"trusted.overlay.opaque", b"y")]
    return root.encode(b"./")


def has_data(kind: bytes) -> bool:
    """Whether data follow a header of this type, whatever size it has."""
    return kind not in (b"1", b"2", b"3", b"4", b"5", b"6")


def decimal(text: bytes) -> int:
    """A number of a PAX header or sparse map; LayerTarError where it is none of 64 bits."""
    number = int(text) if _DECIMAL.fullmatch(text) and len(text) < 100 else 1 << 63
    if not -(1 << 63) <= number < 1 << 63:
        raise LayerTarError(f"not a number: {text[:40]!r}")
    return number


def parse(block: bytes) -> Entry:
    """Read a header block as archive/tar does; LayerTarError where that fails."""
    if not _checksum_fits(block):
        raise LayerTarError("a header with a wrong checksum")
    entry = Entry(
        kind=block[156:157],
        name=_text(block[0:100]),
        mode=_number(block[100:108]) & _SPECIAL_MODES,
        uid=_number(block[108:116]),
        gid=_number(block[116:124]),
        size=_number(block[124:136]),
        mtime=_number(block[136:148]),
        link=_text(block[157:257]),
    )
    magic = block[257:265]
    if magic in (USTAR, GNU):
        entry.major, entry.minor = _number(block[329:337]), _number(block[337:345])
    if prefix := _prefix(block, magic):
        entry.name = prefix + b"/" + entry.name
    if entry.size < 0:
        raise LayerTarError("an entry of negative size")
    return entry


class Extra:
    """What stands before an entry: PAX headers, GNU long names."""

    def __init__(self) -> None:
        self.seen = False
        self._pax: dict[bytes, bytes] = {}
        self._long_name = b""
        self._long_link = b""

    def add(self, kind: bytes, content: bytes) -> None:
        """Take one of them; a global PAX header takes back what stands before it."""
        self.seen = True
        if kind == b"g":
            _parse_pax(content)
            self._pax, self._long_name, self._long_link = {}, b"", b""
        elif kind == b"x":
            self._pax = _parse_pax(content)
        elif kind == b"L":
            self._long_name = _text(content)
        elif kind == b"K":
            self._long_link = _text(content)

    def merge(self, entry: Entry) -> Entry:
        """Complete an entry by them, as archive/tar and containerd see it."""
        pax = self._pax
        entry.name = self._long_name or pax.get(b"path") or entry.name
        entry.link = self._long_link or pax.get(b"linkpath") or entry.link
        for key in ("uid", "gid", "size"):
            if value := pax.get(key.encode()):
                setattr(entry, key, decimal(value))
        times = {key: _pax_time(pax[key]) for key in _TIMES if pax.get(key)}
        entry.mtime, entry.mtime_ns = times.get(b"mtime", (entry.mtime, 0))
        if entry.kind == b"\x00":
            entry.kind = b"5" if entry.name.endswith(b"/") else b"0"
        if entry.kind not in (b"0", b"1", b"2", b"3", b"4", b"5", b"6"):
            raise LayerTarError(
                f"an entry of type {entry.kind!r},"
                f" {entry.name[:200]!r}: containerd does not unpack it either"
            )
        entry.sparse = _sparse(entry, pax)
        _settle(entry, pax)
        return entry


def _settle(entry: Entry, pax: Mapping[bytes, bytes]) -> None:
    """What containerd and Linux make of the values."""
    if entry.size < 0:
        raise LayerTarError("an entry of negative size")
    # chown(-1) leaves the owner as it is: root, who made the file.
    entry.uid = _owner(entry.uid)
    entry.gid = _owner(entry.gid)
    if not (0, 0) <= (entry.mtime, entry.mtime_ns) <= _MAX_TIME:
        entry.mtime = entry.mtime_ns = 0
    if entry.kind == b"2":
        entry.mode = 0o777
    if has_data(entry.kind):
        entry.major = entry.minor = 0
    else:
        entry.size = 0
    entry.xattrs = [
        (key.removeprefix(_SCHILY), value) for key, value in pax.items() if key.startswith(_SCHILY)
    ]


def _owner(number: int) -> int:
    number &= 0xFFFFFFFF
    return 0 if number == 0xFFFFFFFF else number


def _checksum_fits(block: bytes) -> bool:
    stated = _number(block[148:156])
    rest = block[:148] + b"        " + block[156:]
    unsigned = sum(rest)
    return stated in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def _text(field: bytes) -> bytes:
    return field.partition(b"\x00")[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        # Base 256, two's complement; the first bit only marks it.
        bits = 8 * len(field) - 1
        number = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return number - (1 << bits) if field[0] & 0x40 else number
    text = _text(field.strip(b" \x00"))
    if not text:
        return 0
    try:
        return int(text, 8) if text.isdigit() else int("x")
    except ValueError as error:
        raise LayerTarError(f"not an octal number: {text!r}") from error


def _prefix(block: bytes, magic: bytes) -> bytes:
    if magic == USTAR:
        return _text(block[345:476] if block[508:512] == _STAR_TRAILER else block[345:500])
    if magic == GNU and block[345]:
        # The times of GNU's format stand here. Writers of Go before 1.8 put a prefix.
        times = (block[345:357], block[357:369])
        if any(time[0] and not _is_number(time) for time in times):
            prefix = _text(block[345:500])
            return prefix if prefix.isascii() else b""
    return b""


def _is_number(field: bytes) -> bool:
    try:
        _number(field)
    except LayerTarError:
        return False
    return True


def _parse_pax(content: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + _LENGTH)
        count = decimal(content[at : space if space >= 0 else at + _LENGTH])
        end = at + count
        if space < 0 or count < 5 or end > len(content) or content[end - 1 : end] != b"\n":
            raise LayerTarError("a damaged PAX header")
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        named = key in (b"path", b"linkpath", b"uname", b"gname")
        if not equals or not key or b"\x00" in (value if named else key):
            raise LayerTarError("a damaged PAX header")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            pieces.append(value)
        else:
            records[key] = value
        at = end
    if pieces:
        records[b"GNU.sparse.map"] = b",".join(pieces)
    return records


def _pax_record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _pax_time(text: bytes) -> tuple[int, int]:
    match = _TIME.fullmatch(text)
    if match is None:
        raise LayerTarError(f"not a time: {text[:40]!r}")
    seconds = decimal(match[1])
    nanoseconds = int((match[2] or b"").ljust(9, b"0")[:9])
    if nanoseconds and text.startswith(b"-"):
        return seconds - 1, 10**9 - nanoseconds
    return seconds, nanoseconds


def _sparse(entry: Entry, pax: Mapping[bytes, bytes]) -> Sparse | None:
    version = (pax.get(b"GNU.sparse.major", b""), pax.get(b"GNU.sparse.minor", b""))
    outline = pax.get(b"GNU.sparse.map", b"")
    if version not in ((b"1", b"0"), (b"0", b"0"), (b"0", b"1")) and (
        version != (b"", b"") or not outline
    ):
        return None
    entry.name = pax.get(b"GNU.sparse.name") or entry.name
    size = pax.get(b"GNU.sparse.size") or pax.get(b"GNU.sparse.realsize")
    numbers = [decimal(text) for text in outline.split(b",")] if outline else []
    if len(numbers) % 2 or any(number < 0 for number in numbers):
        raise LayerTarError("a damaged sparse map")
    return Sparse(
        inline=version == (b"1", b"0"),
        numbers=numbers,
        size=decimal(size) if size else None,
    )


def _device(number: int) -> bytes:
    return b"%07o\x00" % number if 0 <= number < 8**7 else b"\x80" + number.to_bytes(7, "big")
