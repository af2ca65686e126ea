"""What may block on a hung store, as operations for agent.kits.workers.

Standard library only and few imports: it runs in children without site-packages.
"""

import os


def read(path: str, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes; OSError EFBIG beyond it."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs 2 MB here
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(27, "larger than any record", path)
    return data


def size_of(path: str) -> int:
    """The size of a file in bytes."""
    return os.stat(path).st_size  # noqa: PTH116 - as above


OPERATIONS = {"read": read, "size_of": size_of}
