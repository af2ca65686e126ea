"""What may block on a hung store, as operations for agent.kits.processes.workers.

Standard library only and few imports: it runs in children without site-packages.
"""

import errno
import itertools
import os

RECORD_LIMIT = 16 << 20
"""Bytes of a record. What is larger is refused where it would be written, and is damage where it
is read."""

BLOB_LIMIT = 64 << 20
"""The same for manifests, indexes and configs."""

LOOKUP_LIMIT = 1 << 20
"""The same for the records that each pull waits for: those of layers and chains."""

_PART = 1 << 16
"""Bytes; almost every record is smaller, and memory for a part is had without a system call."""


def read(path: str, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes; OSError EFBIG beyond it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        left = limit + 1
        while left and (part := os.read(file, min(_PART, left))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(file)
    if not left:
        raise OSError(errno.EFBIG, "larger than any record", path)
    return b"".join(parts)


def read_all(paths: list[str], limit: int) -> list[bytes | None]:
    """The contents of some files; None for each that is not there, or is larger."""
    return [_read_if_there(path, limit) for path in paths]


def _read_if_there(path: str, limit: int) -> bytes | None:
    try:
        return read(path, limit)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EFBIG):
            return None
        raise


def probe(path: str, limit: int) -> bytes:
    """As `read`, but the server is asked, too.

    An NFS client that holds a delegation opens and reads a file that it has in its
    cache for minutes after the server has gone. statvfs is never answered from a cache.
    """
    os.statvfs(os.path.dirname(path))
    return read(path, limit)


def size_of(path: str) -> int:
    """The size of a file in bytes."""
    return os.stat(path).st_size


def time_of(path: str) -> int:
    """When a file or folder was changed last, in nanoseconds; 0 where it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def names_in(path: str, suffix: str) -> list[str]:
    """The names in a folder that end in `suffix`, sorted; none where it is not there."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))


def names_where(mark: str, paths: list[str], most: int) -> list[list[str]] | None:
    """The names in some folders, of each at most so many; None where the file `mark` is missing."""
    try:
        os.stat(mark)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [_some_names(path, most) for path in paths]


def _some_names(path: str, most: int) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in itertools.islice(entries, most)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_folder(path: str, suffix: str, limit: int) -> list[tuple[str, bytes, int]]:
    """`read_some` of all files of a folder whose names end in `suffix`."""
    return read_some(path, names_in(path, suffix), limit)


def read_some(path: str, names: list[str], limit: int) -> list[tuple[str, bytes, int]]:
    """Files of a folder: (name, content, errno).

    A file that cannot be read has b"" and the number of its error; one that is not there is left
    out.
    """
    files = []
    for name in names:
        try:
            files.append((name, read(f"{path}/{name}", limit), 0))
        except FileNotFoundError:
            continue
        except IsADirectoryError:
            continue
        except OSError as error:
            files.append((name, b"", error.errno or errno.EIO))
    return files


OPERATIONS = {
    "names_in": names_in,
    "names_where": names_where,
    "probe": probe,
    "read": read,
    "read_all": read_all,
    "read_folder": read_folder,
    "read_some": read_some,
    "size_of": size_of,
    "time_of": time_of,
}
