"""What the names in a layer's tar mean: cleaned, symlinks followed, as containerd does."""

import array
import dataclasses
from collections.abc import Mapping

from agent.build.tar import headers

_ZERO_TAIL = bytes(12)
_MAX_HOPS = 255


class Names:
    """The directories and symlinks of the layer so far, and what paths mean among them.

    Of files only 16 bytes each are kept, to tell whether a hard link changes one.
    `overrides` are the entries that get other attributes than their header has.
    """

    def __init__(self, overrides: Mapping[bytes, headers.Entry]) -> None:
        self._overrides = overrides
        self._files = array.array("q")
        self._attributes = array.array("q")
        self._xattrs: dict[int, int] = {}
        self._implied: dict[int, tuple[int, bytes]] = {}
        self._roots: dict[bytes, bytes] = {}
        self._changes: dict[bytes, headers.Entry] = {}
        self._folders = {b""}
        self._links: dict[bytes, bytes] = {}
        self._parent = b""

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
            if parent not in self._folders:
                return -1
            self._parent = parent
        if name in self._links or name in self._overrides:
            return -1
        size = int(block[124:135], 8)
        if kind == 0x35:
            if size:
                return -1
            self._folders.add(name)
        elif name in self._folders:
            return -1
        else:
            self._files.append(hash(name))
            self._attributes.append(hash(attributes))
        return size

    def locate(self, name: bytes) -> tuple[bytes, bytes]:
        """The real parent directory and the last part of a name; ("", "") for the root."""
        parts = _clean(name)
        if not parts or parts[-1] == b"..":
            return b"", b""
        return self._resolve(parts[:-1]), parts[-1]

    def link_target(self, link: bytes) -> bytes:
        """The real path of what a hard link names: its last part is not followed."""
        folder, _, base = link.rpartition(b"/")
        if base in (b"", b".", b".."):
            raise headers.TarHeaderError(
                f"the layer's tar has a hard link to a directory: {link[:200]!r}"
            )
        parent = self._resolve(folder.split(b"/"))
        return parent + b"/" + base if parent else base

    def missing(self, folder: bytes) -> list[bytes]:
        """The directories on the way to one that were not named so far, top first."""
        found: list[bytes] = []
        while folder not in self._folders:
            found.insert(0, folder)
            folder = folder.rpartition(b"/")[0]
        return found

    def add(self, path: bytes, kind: bytes, link: bytes) -> None:
        """Note an entry; what was in its place goes, except a directory under another."""
        self._roots.pop(path, None)
        if kind == b"5":
            self._folders.add(path)
        elif path in self._folders:
            below = path + b"/"
            self._folders = {
                name for name in self._folders if name != path and not name.startswith(below)
            }
            self._links = {
                name: link for name, link in self._links.items() if not name.startswith(below)
            }
            self._parent = b""
        target = self._links.get(link) if kind == b"1" else link if kind == b"2" else None
        if target is not None:
            self._links[path] = target
        else:
            self._links.pop(path, None)

    def note_file(self, path: bytes, entry: headers.Entry) -> None:
        """Remember what a file, or whatever else is no directory, looks like."""
        self._files.append(hash(path))
        self._attributes.append(hash(entry.attributes))
        if entry.xattrs:
            self._xattrs[hash(path)] = hash(tuple(sorted(entry.xattrs)))
        self._changes.pop(path, None)

    def note_link(self, path: bytes, entry: headers.Entry) -> None:
        """Remember what a hard link says about the file that it names."""
        root = self._roots.get(entry.link, entry.link)
        self._roots[path] = root
        change = dataclasses.replace(entry)
        if (before := self._changes.get(root)) is not None:
            change.xattrs = list({**dict(before.xattrs), **dict(entry.xattrs)}.items())
        self._changes[root] = change

    def note_implied(self, path: bytes) -> None:
        """Remember that a directory was made for what stands in it."""
        self._implied[hash(path)] = (len(self._files), path)

    def misplaced(self) -> bytes | None:
        """A file that something was put into; containerd refuses that ("not a directory")."""
        if self._implied:
            for at, name in enumerate(self._files):
                made = self._implied.get(name)
                if made is not None and at < made[0]:
                    return made[1]
        return None

    def changed(self) -> dict[bytes, headers.Entry]:
        """The files to which a hard link gives other attributes than their own entry.

        containerd applies the header of a link to the file; mkfs.erofs does not.
        """
        if not self._changes:
            return {}
        wanted = {hash(path): path for path in self._changes}
        last = {
            wanted[name]: attributes
            for name, attributes in zip(self._files, self._attributes, strict=True)
            if name in wanted
        }
        return {
            path: change
            for path, change in self._changes.items()
            if path in last
            and (
                last[path] != hash(change.attributes)
                or (
                    change.xattrs
                    and self._xattrs.get(hash(path)) != hash(tuple(sorted(change.xattrs)))
                )
            )
        }

    def _resolve(self, parts: list[bytes]) -> bytes:
        current: list[bytes] = []
        todo = parts[::-1]
        hops = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del current[-1:]
                continue
            target = self._links.get(b"/".join([*current, part])) if self._links else None
            if target is None:
                current.append(part)
                continue
            hops += 1
            if hops > _MAX_HOPS:
                raise headers.TarHeaderError(
                    f"the layer's tar has symlinks in a circle, at {part[:99]!r}"
                )
            if target.startswith(b"/"):
                current.clear()
            todo += target.split(b"/")[::-1]
        return b"/".join(current)


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
