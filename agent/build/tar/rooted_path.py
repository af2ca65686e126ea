"""Where a path leads within a root, as containerd finds it (continuity/fs, RootPath); pure."""

import posixpath
from collections.abc import Callable

MAX_LINKS = 255

Readlink = Callable[[bytes], bytes | None]
"""The target of the symlink at a path (without a slash before it); None where there is none."""


class TooManyLinksError(ValueError):
    """Symlinks that lead in a circle, or nearly so."""


def resolve(path: bytes, readlink: Readlink) -> bytes:
    """The path without symlinks, `.` and `..`; what does not exist counts as no symlink.

    As there, what a symlink names is joined as text before the next step: `..` in it takes
    back a name, even that of another symlink, unless it stands in an absolute target.
    """
    walked = 0
    while True:
        before, current = walked, b"/"
        for part in path.split(b"/"):
            if not part or part == b".":
                continue
            candidate = _join(current, part)
            target = readlink(candidate[1:]) if candidate != b"/" else None
            if target is None:
                current = candidate
                continue
            if walked > MAX_LINKS:
                raise TooManyLinksError
            walked += 1
            current = target if target.startswith(b"/") else _join(current, target)
        if walked == before:
            return _join(current, b"")[1:]
        path = current


def _join(folder: bytes, rest: bytes) -> bytes:
    return posixpath.normpath(b"/" + (folder + b"/" + rest).lstrip(b"/"))
