"""The dm-verity hash tree of a layer file, as `veritysetup format` makes it (hash type 1, SHA-256).

It is made where the layer is: the kernel then checks each block that it reads against the root
hash in the layer's record. The tree follows the EROFS image in the layer file, and a small
`.dmverity` file beside it says where: containerd 2.4 reads both (its internal/dmverity).
A layer that was published without a tree gets it in a file of its own, for a layer file never
changes.

Format: https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import struct
import tempfile
import uuid
from collections.abc import Callable, Iterator

from agent.model import digests, records
from agent.store import hash_leaves

BLOCK = hash_leaves.BLOCK
"""Bytes of a block, of data as of hashes."""

_HASH = hash_leaves.HASH
_CHUNK = hash_leaves.CHUNK
_IN_MEMORY = 4 << 20
"""Bytes of one level of a tree, above which it is kept in a temporary file."""

_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")


@dataclasses.dataclass(frozen=True, slots=True)
class Parameters:
    """What is chosen for a tree; from the layer's name, so that the same layer has the same one."""

    salt: bytes
    uuid: uuid.UUID

    @classmethod
    def of(cls, diff_id: str) -> "Parameters":
        """The salt is the diff ID itself."""
        name = digests.hex_of(diff_id)
        return cls(bytes.fromhex(name), uuid.uuid5(uuid.NAMESPACE_OID, f"uimgacc verity {name}"))


@dataclasses.dataclass(frozen=True, slots=True)
class Sealed:
    """A layer file that is followed by its tree: digest of all bytes, and the tree's record."""

    digest: str
    verity: records.VerityTree


def seal(
    source: pathlib.Path, draft: pathlib.Path, chosen: Parameters, *, scratch: pathlib.Path
) -> Sealed:
    """Copy a finished EROFS image to a draft's path, unless it is there, and append its tree.

    One pass over the bytes. What does not fit in memory of the tree is kept in `scratch`.
    """
    whole = hashlib.sha256()
    mode = "r+" if source == draft else "x"
    with (
        _Tree(chosen.salt, scratch) as tree,
        io.FileIO(draft, mode) as writer,
    ):

        def take(data: memoryview) -> None:
            whole.update(data)
            if source != draft:
                _write(writer, data)

        size = tree.read(source, take)
        padding = bytes(-size % BLOCK)
        whole.update(padding)
        writer.seek(size)
        _write(writer, padding)
        verity = _append(writer, tree, chosen, offset=size + len(padding), whole=whole)
    return Sealed(f"sha256:{whole.hexdigest()}", verity)


def beside(
    layer: pathlib.Path,
    draft: pathlib.Path,
    chosen: Parameters,
    *,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Sealed:
    """Write the tree of a published layer to a file of its own; `digest` is the layer's.

    `on_bytes` is called with the bytes that were read so far.
    """
    whole = hashlib.sha256()
    with (
        _Tree(chosen.salt, draft.parent) as tree,
        io.FileIO(draft, "x") as writer,
    ):
        done = 0

        def take(data: memoryview) -> None:
            nonlocal done
            whole.update(data)
            done += len(data)
            on_bytes(done)

        tree.read(layer, take)
        verity = _append(writer, tree, chosen, offset=0)
    return Sealed(f"sha256:{whole.hexdigest()}", verity)


def _append(
    writer: io.FileIO,
    tree: "_Tree",
    chosen: Parameters,
    *,
    offset: int,
    whole: "hashlib._Hash | None" = None,
) -> records.VerityTree:
    """Write what follows the data; `whole` is the digest that goes on over it."""
    own = hashlib.sha256()
    size = 0
    for part in tree.finished(chosen):
        _write(writer, part)
        own.update(part)
        if whole is not None:
            whole.update(part)
        size += len(part)
    return records.VerityTree(
        root_hash=tree.root.hex(),
        salt=chosen.salt.hex(),
        data_blocks=tree.blocks,
        offset=offset,
        tree_size=size,
        sha256=f"sha256:{own.hexdigest()}",
    )


def sidecar(verity: records.VerityTree) -> bytes:
    """The content of the `.dmverity` file beside a layer that has its tree in it."""
    named = {"roothash": verity.root_hash, "hashoffset": verity.offset}
    return json.dumps(named, indent=2).encode()


def fault(path: pathlib.Path, verity: records.VerityTree) -> str | None:
    """Why the tree in a file (of the layer, or its own) is not what the record says; else None.

    Reads the tree alone, not what it vouches for.
    """
    digest = hashlib.sha256()
    top = b""
    left = verity.tree_size
    with path.open("rb") as file:
        file.seek(verity.offset)
        while left and (data := file.read(min(left, _CHUNK))):
            top = top or data[BLOCK : 2 * BLOCK]
            digest.update(data)
            left -= len(data)
    if left:
        return "its hash tree is cut off"
    if f"sha256:{digest.hexdigest()}" != verity.sha256:
        return "its hash tree does not have the sha256 of its record"
    if top and hashlib.sha256(bytes.fromhex(verity.salt) + top).hexdigest() != verity.root_hash:
        return "its hash tree does not have the root hash of its record"
    return None


_Level = tempfile.SpooledTemporaryFile[bytes]


class _Tree:
    """The levels of a tree while the data go by, the lowest first; a context manager."""

    def __init__(self, salt: bytes, scratch: pathlib.Path) -> None:
        self._salt = salt
        self._salted = hash_leaves.salted(salt)
        self._scratch = scratch
        self._levels: list[_Level] = []
        self.root = b""
        self.blocks = 0

    def __enter__(self) -> "_Tree":
        return self

    def __exit__(self, *exc: object) -> None:
        for level in self._levels:
            level.close()

    def read(self, path: pathlib.Path, take: Callable[[memoryview], None]) -> int:
        """Read a file to its end, passing on its bytes; how many there were."""
        buffer = memoryview(bytearray(_CHUNK))
        size = 0
        lowest = self._new_level()
        whole = path.stat().st_size
        with io.FileIO(path) as reader, hash_leaves.Hasher(str(path), self._salt, whole) as hasher:
            while filled := hash_leaves.fill(reader, buffer):
                take(buffer[:filled])
                size += filled
                buffer[filled : filled + -filled % BLOCK] = bytes(-filled % BLOCK)
                lowest.write(hasher.hashes(buffer[: filled + -filled % BLOCK]))
        self.blocks = -(-size // BLOCK)
        return size

    def finished(self, chosen: Parameters) -> Iterator[bytes]:
        """Make the upper levels; the superblock, and all levels, the top first."""
        hashes = self.blocks
        while hashes > 1:
            level = self._levels[-1]
            level.write(bytes(-level.tell() % BLOCK))
            hashes = level.tell() // BLOCK
            level.seek(0)
            above = self._new_level()
            while data := level.read(_CHUNK):
                above.write(hash_leaves.of(memoryview(data), self._salted))
        top = self._levels.pop()
        top.seek(0)
        self.root = top.read(_HASH)
        top.close()
        yield _superblock(chosen, self.blocks).ljust(BLOCK, b"\0")
        for level in reversed(self._levels):
            level.seek(0)
            while data := level.read(_CHUNK):
                yield data

    def _new_level(self) -> _Level:
        level: _Level = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed with the tree
            _IN_MEMORY, dir=str(self._scratch)
        )
        self._levels.append(level)
        return level


def _superblock(chosen: Parameters, blocks: int) -> bytes:
    sizes = (BLOCK, BLOCK, blocks, len(chosen.salt))
    return _SUPERBLOCK.pack(b"verity", 1, 1, chosen.uuid.bytes, b"sha256", *sizes, chosen.salt)


def _write(writer: io.FileIO, data: bytes | memoryview) -> None:
    done = 0
    view = memoryview(data)
    while done < len(view):
        done += writer.write(view[done:]) or 0
