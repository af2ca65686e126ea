"""Sets of digests that may be larger than memory: spread over 256 buckets by their first byte.

The store is spread in the same way (`<xx>` folders), so one that goes through it folder by
folder needs one bucket at a time. What does not fit into memory goes to local files.
"""

import pathlib
from collections.abc import Iterable

BUCKETS = 256
_LIMIT = 8 << 20


class Spool:
    """Records of `width` bytes each; the first byte says in which bucket one is.

    `folder` is a local folder for what exceeds `limit` bytes of memory, `name` begins
    the names of the files there. Of one thread.
    """

    def __init__(self, folder: pathlib.Path, name: str, *, width: int, limit: int = _LIMIT) -> None:
        self._folder = folder
        self._name = name
        self._width = width
        self._limit = limit
        self._buckets = [bytearray() for _ in range(BUCKETS)]
        self._size = 0
        self._spilled = False

    def add(self, record: bytes) -> None:
        """Put a record into its bucket; the same one twice is there twice."""
        assert len(record) == self._width
        self._buckets[record[0]] += record
        self._size += self._width
        if self._size > self._limit:
            self._spill()

    def extend(self, records: Iterable[bytes]) -> None:
        """Put many records into their buckets."""
        for record in records:
            self.add(record)

    def bucket(self, number: int) -> list[bytes]:
        """The records of one bucket."""
        data = bytes(self._buckets[number])
        if self._spilled and (path := self._path(number)).exists():
            data += path.read_bytes()
        return split(data, self._width)

    def _spill(self) -> None:
        for number, bucket in enumerate(self._buckets):
            if bucket:
                with self._path(number).open("ab") as file:
                    file.write(bucket)
                bucket.clear()
        self._size = 0
        self._spilled = True

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{self._name}-{number:02x}"


def split(joined: bytes, width: int) -> list[bytes]:
    """The records of `width` bytes each that were joined: so many take far less memory."""
    return [joined[start : start + width] for start in range(0, len(joined), width)]
