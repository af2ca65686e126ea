"""The entries of a tar in an artifact, read as Go's archive/tar reads them.

The layers of images go another way (`agent.build.tar`): what those may have, whiteouts, devices
and files in many forms, is nothing for an artifact.
"""

from collections.abc import Iterator

from agent import errors
from agent.build import limits
from agent.build.tar import headers
from agent.model.artifacts import artifact_files, file_tree

_BLOCK = 512
_KINDS = (b"0", b"1", b"2", b"5")
"""Files, hard links, symlinks and directories."""


class NotAFile(errors.PermanentError):
    """An entry of a tar is nothing that an artifact may have. `path` is its name."""

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(f"its tar has {file_tree.show(path)!r}, {reason}")
        self.path = path


class Reader:
    """Reads one tar: `next` has the header of the next entry, then `data` its content.

    Both raise LayerTarError where the tar is damaged, and what the pieces raise.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self._size = 0

    def next(self) -> headers.Entry | None:
        """The next entry, with what stands before it in place; None at the end of the tar."""
        extra = headers.Extra()
        while True:
            block = self._take(_BLOCK, may_end=not extra.seen)
            if not any(block):
                return None
            header = headers.parse(block)
            if header.kind not in b"xgLK":
                break
            if header.size > limits.HEADER:
                raise headers.LayerTarError("a name or PAX header of more than 1 MiB")
            content = self._take(header.size + -header.size % _BLOCK)
            extra.add(header.kind, content[: header.size])
        entry = extra.merge(header)
        if entry.kind not in _KINDS:
            raise NotAFile(entry.name, "which is no file, directory or link")
        if entry.sparse is not None:
            raise NotAFile(entry.name, "which is stored as a sparse file")
        if not headers.has_data(entry.kind):
            entry.size = 0
        self._size = entry.size
        return entry

    def data(self) -> Iterator[bytes]:
        """The content of the entry with its padding, in pieces."""
        left = self._size + -self._size % _BLOCK
        while left:
            data = self._some(left)
            left -= len(data)
            yield data

    def _take(self, count: int, *, may_end: bool = False) -> bytes:
        """Exactly so many bytes; b"" at the end of the tar where it may be."""
        parts: list[bytes] = []
        left = count
        while left:
            if may_end and not parts and not self._fill():
                return b""
            parts.append(self._some(left))
            left -= len(parts[-1])
        return b"".join(parts)

    def _some(self, most: int) -> bytes:
        if not self._fill():
            raise headers.LayerTarError("it ends in the middle of an entry")
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    def _fill(self) -> bool:
        """Have some bytes at hand; False at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._rest = piece
        return True


def place(entry: headers.Entry, file: artifact_files.File) -> bytes:
    """The path of an entry from the root of the artifact; raise UnsafePath.

    ORAS puts the name of a folder before the names in it, modctl the path from where a model
    was packed. Some others have the last name of the annotated path alone.
    """
    path = file_tree.cleaned(entry.name)
    if not file_tree.is_within(path, file.within):
        reason = f"is outside of the folder {file_tree.show(file.within)!r}"
        raise file_tree.UnsafePath(entry.name, reason)
    folder, _, base = file.path.rpartition(b"/")
    is_whole = file_tree.is_within(path, file.path) or file_tree.is_within(file.path, path)
    if folder and not is_whole and path.split(b"/")[0] == base:
        # Each part is within the limits of a path; the two together need not be.
        return file_tree.cleaned(folder + b"/" + path)
    return path


def link_target(entry: headers.Entry, path: bytes) -> bytes:
    """The path of the file that a hard link names, moved as the link itself was.

    Raises UnsafePath.
    """
    target = file_tree.cleaned(entry.link)
    name = file_tree.cleaned(entry.name)
    return file_tree.cleaned(path[: len(path) - len(name)] + target)
