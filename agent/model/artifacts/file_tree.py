"""Which paths the files of an artifact may have, and that no two of them meet.

The author of an artifact is not trusted: its files stay below the root of the image, each path
is there once, and none leads through a symlink. Names that image layers use for whiteouts are
refused: a file of that name would hide another one and not be there.
"""

from agent import errors

MAX_PATH = 4000
"""Bytes of a path, as for the layers of images."""

MAX_DEPTH = 512
"""Names of a path."""

_MAX_NAME = 255
_WHITEOUT = b".wh."
_SHOWN = 200


class UnsafePath(errors.PermanentError):
    """A path that no file of an artifact may have. `path` as it came, `reason` what is wrong."""

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(f"its file {show(path)!r} {reason}")
        self.path = path
        self.reason = reason


class Tree:
    """The files, directories and symlinks of one artifact so far."""

    def __init__(self) -> None:
        self._folders: set[bytes] = {b""}
        self._files: set[bytes] = set()
        self._links: set[bytes] = set()

    def add_file(self, path: bytes) -> list[bytes]:
        """Add a file; the directories above it that were not there, top first."""
        missing = self._parents(path)
        self._require_free(path)
        self._files.add(path)
        return missing

    def add_folder(self, path: bytes) -> list[bytes]:
        """Add a directory, also one that is there; the same."""
        missing = self._parents(path)
        if path in self._files or path in self._links:
            raise UnsafePath(path, "is there twice, once as a directory")
        self._folders.add(path)
        return missing

    def add_symlink(self, path: bytes, target: bytes, *, within: bytes) -> list[bytes]:
        """Add a symlink, which leads nowhere outside of the directory `within`; the same.

        Its target has `..` only at directories that are there: after another symlink that would
        be a step from where this one leads to.
        """
        missing = self._parents(path)
        self._require_free(path)
        if not target or target.startswith(b"/") or not self._stays(path, target, within):
            reason = f"is a symlink that leads out of it, or may, to {show(target)!r}"
            raise UnsafePath(path, reason)
        self._links.add(path)
        return missing

    def require_file(self, path: bytes, link: bytes) -> None:
        """Raise UnsafePath unless a hard link leads to a file that is there."""
        if path not in self._files:
            raise UnsafePath(link, f"is a hard link to {show(path)!r}, which is no file of it")

    def _stays(self, path: bytes, target: bytes, within: bytes) -> bool:
        """Whether a symlink's target never leaves a directory, not even on its way."""
        here = path.split(b"/")[:-1]
        least = within.count(b"/") + 1 if within else 0
        for part in target.split(b"/"):
            if part == b"..":
                if len(here) <= least or b"/".join(here) not in self._folders:
                    return False
                here.pop()
            elif part not in (b"", b"."):
                here.append(part)
        return True

    def _require_free(self, path: bytes) -> None:
        if path in self._folders or path in self._files or path in self._links:
            raise UnsafePath(path, "is there twice")

    def _parents(self, path: bytes) -> list[bytes]:
        missing = []
        parent = path.rpartition(b"/")[0]
        while parent not in self._folders:
            if parent in self._files or parent in self._links:
                kind = "a file" if parent in self._files else "a symlink"
                raise UnsafePath(path, f"is below {show(parent)!r}, which is {kind}")
            missing.append(parent)
            parent = parent.rpartition(b"/")[0]
        self._folders.update(missing)
        return missing[::-1]


def cleaned(path: bytes) -> bytes:
    """A path without `.` and empty parts, b"" for the root; raise UnsafePath."""
    if path.startswith(b"/"):
        raise UnsafePath(path, "has an absolute path")
    if b"\0" in path:
        raise UnsafePath(path, "has a zero byte in its name")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UnsafePath(path, "has .. in its path")
    if any(len(part) > _MAX_NAME for part in parts) or len(path) > MAX_PATH:
        limits = f"{_MAX_NAME} bytes in a name, {MAX_PATH:,} in all"
        raise UnsafePath(path, f"has a path that is too long (at most {limits})")
    if len(parts) > MAX_DEPTH:
        raise UnsafePath(path, f"has a path of more than {MAX_DEPTH} names")
    if any(part.startswith(_WHITEOUT) for part in parts):
        raise UnsafePath(path, "has a name that begins with .wh., which hides files in images")
    return b"/".join(parts)


def is_within(path: bytes, folder: bytes) -> bool:
    """Whether a path is a directory or below it; everything is below the root, b""."""
    return not folder or path == folder or path.startswith(folder + b"/")


def show(path: bytes) -> str:
    """A path for a message."""
    return path.decode(errors="backslashreplace")[:_SHOWN]
