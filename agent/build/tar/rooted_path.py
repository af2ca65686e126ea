"""Where a path leads within a root, as containerd finds it (continuity/fs, RootPath); pure."""

from collections.abc import Callable

MAX_LINKS = 255

Readlink = Callable[[bytes], bytes | None]
"""The target of the symlink at a path (without a slash before it); None where there is none."""


Look = Callable[[int], None]
"""Counts names that are looked at."""


class TooManyLinksError(ValueError):
    """Symlinks that lead in a circle, or nearly so."""


def resolve(path: bytes, readlink: Readlink, look: Look = lambda _: None) -> bytes:
    """The path without symlinks, `.` and `..`; what does not exist counts as no symlink.

    As there, what a symlink names is joined as text before the next step: `..` in it takes
    back a name, even that of another symlink, unless it stands in an absolute target, which
    ends the path. `look` counts the names that are looked at.
    """
    walked = 0
    while True:
        before = walked
        parts = path.split(b"/")
        look(len(parts))
        current = _Place()
        end: bytes | None = None
        for part in parts:
            if not part or part == b".":
                continue
            end = None
            candidate = current.joined(part)
            target = readlink(candidate) if candidate else None
            if target is None:
                current.join(part)
                continue
            if walked > MAX_LINKS:
                raise TooManyLinksError
            walked += 1
            if target.startswith(b"/"):
                current, end = _Place(), target
            current.join(target)
            look(target.count(b"/"))
        if walked == before:
            return current.path
        path = current.path if end is None else end


class _Place:
    """A path within the root, and those above it."""

    def __init__(self) -> None:
        self._above = [b""]

    @property
    def path(self) -> bytes:
        """The path, without a slash before it."""
        return self._above[-1]

    def joined(self, name: bytes) -> bytes:
        """The path of a name in it; `..` is what is above, and the root is above itself."""
        if name == b"..":
            return self._above[max(0, len(self._above) - 2)]
        return self.path + b"/" + name if self.path else name

    def join(self, text: bytes) -> None:
        """Go on from here by a relative path, or one that counts as such."""
        for name in text.split(b"/"):
            if name == b"..":
                del self._above[max(1, len(self._above) - 1) :]
            elif name and name != b".":
                self._above.append(self.joined(name))
