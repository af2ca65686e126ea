"""An EROFS image from a registry: what it must be before a node's kernel reads it.

Its author is not trusted, and the kernel parses all of it. So the superblock may have only what
layers have that are built here, which every supported kernel reads: no other devices, no
compression but lz4, blocks of 4 KiB. The rest is read by fsck.erofs, in a process of its own.
Source of the format: Linux, fs/erofs/erofs_fs.h.
"""

import asyncio
import errno
import io
import pathlib
import shutil
import struct
from collections.abc import Callable

from agent import errors
from agent.build import limits, mkfs_erofs
from agent.kits.aio import threads
from agent.model import records
from agent.model.erofs import superblock
from agent.store import layer_file

TOOLCHAIN = records.Toolchain(version="", options=["native"])
"""What the record of such a layer says about its making."""

_CHECK_SECONDS = 1800.0
_SOUND = b"No errors found"
_WORDS = 1 << 14
"""Bytes of what fsck.erofs says that are kept."""
_BLOCK_BITS = 12
_BITS_AT, _FEATURES_AT, _ALGORITHMS_AT, _DEVICES_AT = 12, 80, 84, 86
_HAS_ALGORITHMS = 2
_LZ4 = 1
_ALLOWED = 1 | 2 | 4
"""Padding of lz4, its parameters with big pclusters, chunks: Linux 5.15 reads them."""

_FEATURES = {
    8: "other devices, or a second compression (Linux 5.16)",
    16: "ztailpacking (5.17)",
    32: "fragments or dedupe (6.1)",
    64: "prefixes of xattrs (6.4)",
}
_ALGORITHMS = {2: "lzma (Linux 5.16)", 4: "deflate (6.6)", 8: "zstd (6.10)"}


class NotUsable(errors.PermanentError):
    """An EROFS image must not be mounted by nodes. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"it is not used as it is: {reason}")
        self.reason = reason


class NotAllowed(errors.PermanentError):
    """A cache must not have native layers. `image` is the one that has."""

    def __init__(self, image: str) -> None:
        super().__init__(
            f"{image} has native EROFS layers, which an automatic cache does not take: the kernels"
            " of nodes parse them as their author has made them. Make an ImageCache of the image,"
            " or set UIMGACC_AUTO_NATIVE=true for the controller"
        )
        self.image = image


class Draft:
    """Where an image is written as it comes; a context manager. For one thread."""

    def __init__(
        self, path: pathlib.Path, account: limits.Account, on_write: Callable[[int], None]
    ) -> None:
        self._path = path
        self._account = account
        self._on_write = on_write
        self._file: io.FileIO | None = None

    def __enter__(self) -> "Draft":
        self._file = io.FileIO(self._path, "x")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, piece: bytes) -> None:
        """Write what follows; raise limits.TooMuch and DiskFull."""
        assert self._file is not None
        self._account.read(len(piece))
        self._on_write(len(piece))
        view = memoryview(piece)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise mkfs_erofs.DiskFull(str(self._path.parent)) from error
            raise


def fault(path: pathlib.Path) -> str | None:
    """What in a superblock must not be there; None where nothing is."""
    if (broken := layer_file.superblock_fault(path)) is not None:
        return broken
    with path.open("rb") as file:
        file.seek(superblock.OFFSET)
        block = file.read(128)
    (features,) = struct.unpack_from("<I", block, _FEATURES_AT)
    algorithms, devices = struct.unpack_from("<HH", block, _ALGORITHMS_AT)
    if block[_BITS_AT] != _BLOCK_BITS:
        return f"it has blocks of {1 << block[_BITS_AT]} bytes, and not of 4096"
    odd = _names(features & ~_ALLOWED, _FEATURES)
    if features & _HAS_ALGORITHMS:
        odd += _names(algorithms & ~_LZ4, _ALGORITHMS)
    if devices:
        odd.append(f"{devices} other devices")
    if odd:
        return f"it has {', '.join(odd)}, which not every node can read: make it without"
    return None


async def check(path: pathlib.Path, mkfs: str) -> None:
    """Read all of an image; raise NotUsable. `mkfs` is the command whose neighbour reads it."""
    reason = await threads.run("look", fault, path)
    if reason is not None:
        raise NotUsable(reason)
    command = _beside(mkfs)
    if command is None:
        raise NotUsable("there is no fsck.erofs to verify it with: install erofs-utils")
    process = await asyncio.create_subprocess_exec(
        *mkfs_erofs.killed_with_builder(),
        command,
        "-d3",
        str(path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            assert process.stderr is not None
            said = await _end_of(process.stderr)
            await process.wait()
    except TimeoutError as error:
        raise NotUsable(f"fsck.erofs has not read it in {_CHECK_SECONDS:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # fsck.erofs 1.8 also ends with status 0 where it cannot read the superblock.
    if process.returncode != 0 or _SOUND not in said:
        words = " / ".join(said.decode(errors="replace").strip().splitlines()[-2:])[-300:]
        raise NotUsable(f"fsck.erofs: {words or f'exit status {process.returncode}'}")


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    """The end of all that comes: there may be a line for each file, or for each link to one."""
    end = b""
    while piece := await stream.read(_WORDS):
        end = (end + piece)[-_WORDS:]
    return end


def _beside(mkfs: str) -> str | None:
    """The fsck.erofs of the same erofs-utils, else the one on PATH."""
    found = shutil.which(mkfs)
    if found is not None:
        own = pathlib.Path(found).with_name("fsck.erofs")
        if own.exists():
            return str(own)
    return shutil.which("fsck.erofs")


def _names(bits: int, names: dict[int, str]) -> list[str]:
    known = [name for bit, name in names.items() if bits & bit]
    rest = bits & ~sum(names)
    return [*known, *([f"unknown features {rest:#x}"] if rest else [])]
