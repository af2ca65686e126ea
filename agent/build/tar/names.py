"""What the names in a layer's tar mean: cleaned, symlinks followed, as containerd does."""

from collections.abc import Container, Mapping

from agent.build import limits
from agent.build.tar import acl, headers, inodes, rooted_path

_MAX_PART = 255
_MAX_PATH = 4000
"""A path has at most 4095 bytes, and begins with the folder of containerd's snapshot."""

_MAX_TARGET = 4095
"""The longest text that a system call takes as a path."""

_ZERO_TAIL = bytes(12)


class Names:
    """The directories and symlinks of the layer so far, and what paths mean among them.

    `corrected` are the numbers of entries that get other attributes than their header has.
    `look` counts the names that are looked at.
    """

    def __init__(
        self, files: inodes.Inodes, corrected: Container[int], *, look: rooted_path.Look
    ) -> None:
        self._corrected = corrected
        self._look = look
        self._note_path = files.paths.append
        self._note_attributes = files.attributes.append
        self._paths = files.paths
        self.gone: set[bytes] = set()
        """Directories that the tar names, and that were replaced or removed later."""
        self._folders = {b""}
        self._unnamed: set[bytes] = set()
        self._xattrs: dict[bytes, dict[bytes, bytes]] = {}
        """Of directories that have some."""
        self._links: dict[bytes, bytes] = {}
        self._parent = b""
        self._resolved = (b"", b"")
        self._children: dict[bytes, int] = {}
        self.compared = 0
        """Names that mkfs.erofs compares: for each entry with all that are in its directory."""

    def quick(self, block: bytes) -> int:  # noqa: C901 - one test after another, for speed
        """The size of the data of an entry that may pass as it is; -1 when it may not.

        It may when it is a file or directory with a plain, clean header, in a
        directory that the tar has named, and stands in nothing's place.
        """
        kind = block[156]
        if (
            (kind != 0x30 and kind != 0x35)
            or block[345]
            or block[500:512] != _ZERO_TAIL
            or block[257:265] not in (headers.USTAR, headers.GNU)
            or block[100:103] != b"000"
            or block[135] not in b"\x00 "
        ):
            return -1
        attributes = block[100:107] + block[108:115] + block[116:123] + block[136:147]
        if (attributes + block[124:135]).strip(b"01234567"):
            return -1
        name = block[:100].partition(b"\x00")[0]
        if kind == 0x35:
            name = name.rstrip(b"/")
        if not name or name[0] in b"./" or b"//" in name or b"/." in name or name[-1] == 0x2F:
            return -1
        parent = name.rpartition(b"/")[0]
        if parent != self._parent:
            if parent not in self._folders or self.default_acl(parent) is not None:
                return -1
            self._parent = parent
        if name in self._links or name in self._xattrs:
            return -1
        size = int(block[124:135], 8)
        if kind == 0x35:
            if size:
                return -1
            self._folders.add(name)
            self._unnamed.discard(name)
        elif name in self._folders or len(self._paths) in self._corrected:
            return -1
        else:
            self._note_path(hash(name))
            self._note_attributes(hash(attributes))
        self.enter(parent)
        return size

    @property
    def folders(self) -> int:
        """How many directories there are."""
        return len(self._folders)

    def enter(self, parent: bytes) -> None:
        """Count an entry of a directory."""
        number = self._children.get(parent, 0)
        self._children[parent] = number + 1
        self.compared += number

    def locate(self, name: bytes) -> tuple[bytes, bytes]:
        """The real parent directory and the last part of a name; ("", "") for the root."""
        parts = _clean(name)
        if not parts or parts[-1] == b"..":
            return b"", b""
        folder = b"/".join(parts[:-1])
        _require_short(folder, name)
        return self._resolve(folder), parts[-1]

    def link_target(self, link: bytes) -> bytes:
        """The real path of what a hard link names: its last part is not followed."""
        _require_short(link, link)
        folder, _, base = link.rpartition(b"/")
        if base in (b"", b".", b".."):
            raise headers.LayerTarError(f"a hard link to the directory {headers.show(link)}")
        parent = self._resolve(folder)
        return parent + b"/" + base if parent else base

    def missing(self, folder: bytes) -> list[bytes]:
        """The directories on the way to one that were not named so far, top first."""
        missing: list[bytes] = []
        while folder not in self._folders:
            missing.append(folder)
            folder = folder.rpartition(b"/")[0]
        return missing[::-1]

    def add(self, path: bytes, kind: bytes, link: bytes) -> None:
        """Note an entry; what was in its place goes, except a directory under another."""
        if kind == b"5":
            self._folders.add(path)
            self._unnamed.discard(path)
        elif path in self._folders:
            self.remove(path)
        target = self._links.get(link) if kind == b"1" else link if kind == b"2" else None
        if target is not None:
            self._links[path] = target
        elif path not in self._links:
            return
        else:
            del self._links[path]
        self._resolved = (b"", b"")

    def remove(self, path: bytes) -> bool:
        """Forget a path and all below it; whether it was a directory or a symlink."""
        is_folder = path in self._folders and path != b""
        if is_folder:
            below = path + b"/"
            self._look(len(self._folders) + len(self._links) + len(self._xattrs))
            gone = {name for name in self._folders if name == path or name.startswith(below)}
            self._folders -= gone
            self.gone |= gone - self._unnamed
            self._unnamed -= gone
            for table in (self._links, self._xattrs):
                for name in [name for name in table if name == path or name.startswith(below)]:
                    del table[name]
            self._parent = b""
        self._resolved = (b"", b"")
        return self._links.pop(path, None) is not None or is_folder

    def note_unnamed(self, folder: bytes) -> None:
        """Note that a directory was made for what stands in it; no entry names it so far."""
        self._unnamed.add(folder)

    def where(self, path: bytes) -> bytes:
        """Where a path leads now; its last part is followed, too."""
        return self._resolve(path)

    def has(self, path: bytes) -> bool:
        """Whether there is a directory or a symlink."""
        return path in self._folders or path in self._links

    def is_folder(self, path: bytes) -> bool:
        """Whether there is a directory."""
        return path in self._folders

    def xattrs(self, folder: bytes) -> Mapping[bytes, bytes]:
        """The xattrs of a directory."""
        return self._xattrs.get(folder, {})

    def set_xattrs(self, folder: bytes, xattrs: Mapping[bytes, bytes]) -> None:
        """Note all xattrs that a directory has now."""
        if xattrs:
            self._xattrs[folder] = dict(xattrs)
            self._parent = b""
        else:
            self._xattrs.pop(folder, None)

    def default_acl(self, folder: bytes) -> bytes | None:
        """What the kernel makes an access ACL of for everything new in a directory."""
        return self._xattrs[folder].get(acl.DEFAULT) if folder in self._xattrs else None

    def _resolve(self, path: bytes) -> bytes:
        # Entries of one directory follow one another, and most layers have few symlinks.
        if path != self._resolved[0]:
            try:
                self._resolved = path, rooted_path.resolve(path, self._links.get, self._look)
            except rooted_path.TooManyLinksError as error:
                raise headers.LayerTarError(
                    f"symlinks in a circle, at {headers.show(path)}"
                ) from error
        return self._resolved[1]


def _clean(name: bytes) -> list[bytes]:
    """Go's path.Clean, in parts."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if parts and parts[-1] != b"..":
                parts.pop()
            elif not name.startswith(b"/"):
                parts.append(part)
        else:
            parts.append(part)
    return parts


def _require_short(text: bytes, name: bytes) -> None:
    if len(text) > _MAX_TARGET:
        raise headers.LayerTarError(f"a path that is too long, {headers.show(name)}")


def require_fit(path: bytes, entry: headers.Entry) -> None:
    """Raise LayerTarError for what no system call of Linux takes."""
    if len(path) > _MAX_PART and (
        len(path) > _MAX_PATH or any(len(part) > _MAX_PART for part in path.split(b"/"))
    ):
        raise headers.LayerTarError(f"a path that is too long, {headers.show(path)}")
    if path.count(b"/") >= limits.PATH_DEPTH:
        raise limits.TooMuch(f"a path of more than {limits.PATH_DEPTH} names, {headers.show(path)}")
    if entry.kind == b"2" and not 0 < len(entry.link) <= _MAX_TARGET:
        raise headers.LayerTarError(
            f"the symlink {headers.show(path)} to a target of {len(entry.link)} bytes"
        )
