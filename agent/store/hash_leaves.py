"""Hashes of a file's blocks, the lowest level of its hash tree; by another process for large files.

To hash single blocks holds the interpreter's lock: the other threads of a builder would wait, and
so would the digest of the whole file, which is taken in the same pass.

Started as `python -I -S hash_leaves.py PATH SALT SIZE`, the salt in hex, it writes the hashes of
the first SIZE bytes to its standard output, and ends when that is closed. Standard library only.
"""

import contextlib
import hashlib
import io
import subprocess
import sys
from typing import IO

BLOCK = 4096
"""Bytes of a block, of data as of hashes."""

HASH = 32
"""Bytes of a hash."""

CHUNK = 4 << 20
"""Bytes that are read at once."""

LARGE = 64 << 20
"""Bytes of a file that another process is worth starting for."""

# hashlib lets go of the interpreter for more bytes than this at once. For single blocks that
# costs more than the hashing, and with other threads at work a thousand times more.
_PIECE = 2047


def salted(salt: bytes) -> "hashlib._Hash":
    """What a hash begins with."""
    return hashlib.sha256(salt)


def of(data: memoryview, start: "hashlib._Hash") -> bytes:
    """The hashes of whole blocks, one after another."""
    hashes = []
    for at in range(0, len(data), BLOCK):
        digest = start.copy()
        digest.update(data[at : at + _PIECE])
        digest.update(data[at + _PIECE : at + 2 * _PIECE])
        digest.update(data[at + 2 * _PIECE : at + BLOCK])
        hashes.append(digest.digest())
    return b"".join(hashes)


def fill(reader: io.FileIO, buffer: memoryview) -> int:
    """Read until a buffer is full or the file ends; how many bytes there were."""
    filled = 0
    while filled < len(buffer) and (count := reader.readinto(buffer[filled:])):
        filled += count
    return filled


class Hasher:
    """Hashes the blocks of one file, which are given to it in order; a context manager.

    What the other process does not say, because it has ended, is hashed here.
    """

    def __init__(self, path: str, salt: bytes, size: int) -> None:
        self._start = salted(salt)
        self._command = [sys.executable, "-I", "-S", __file__, path, salt.hex(), str(size)]
        self._process: subprocess.Popen[bytes] | None = None
        self._is_large = size >= LARGE

    def __enter__(self) -> "Hasher":
        if self._is_large:
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
                )
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()

    def hashes(self, data: memoryview) -> bytes:
        """The hashes of the next blocks, which are whole."""
        if self._process is not None and self._process.stdout is not None:
            size = len(data) // BLOCK * HASH
            found = self._process.stdout.read(size)
            if len(found) == size:
                return found
            self._stop()
        return of(data, self._start)

    def _stop(self) -> None:
        if self._process is not None:
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process.kill()
            self._process.wait()
            self._process = None


def _write(path: str, salt: bytes, size: int, output: IO[bytes]) -> None:
    start = salted(salt)
    buffer = memoryview(bytearray(CHUNK))
    with io.FileIO(path) as reader:
        while size and (filled := fill(reader, buffer[: min(size, CHUNK)])):
            size -= filled
            end = filled + -filled % BLOCK
            buffer[filled:end] = bytes(end - filled)
            output.write(of(buffer[:end], start))
            output.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        _write(sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3]), sys.stdout.buffer)
