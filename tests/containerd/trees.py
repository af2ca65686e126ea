"""A folder tree as a table, for comparing two entry by entry."""

import hashlib
import os
import stat
from typing import Any


def describe(root: bytes) -> dict[bytes, dict[str, Any]]:
    """Every entry below `root` (and itself), with all that an image can say of it."""
    entries: dict[bytes, dict[str, Any]] = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    for path in _walk(root):
        found = os.lstat(path)
        name = path[len(root) :] or b"/"
        entry: dict[str, Any] = {
            "type": stat.S_IFMT(found.st_mode),
            "mode": oct(stat.S_IMODE(found.st_mode)),
            "owner": (found.st_uid, found.st_gid),
            "xattrs": _xattrs(path),
        }
        if name != b"/":
            # The root's own time is that of the container's writable layer.
            entry["mtime"] = found.st_mtime_ns
        if stat.S_ISREG(found.st_mode):
            entry["size"] = found.st_size
            entry["content"] = _sha256(path)
            names.setdefault((found.st_dev, found.st_ino), []).append(name)
        elif stat.S_ISLNK(found.st_mode):
            entry["target"] = os.readlink(path)
        elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            entry["device"] = (os.major(found.st_rdev), os.minor(found.st_rdev))
        entries[name] = entry
    for group in names.values():
        for name in group:
            entries[name]["links"] = sorted(group)
    return entries


def _walk(folder: bytes):
    yield folder
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        else:
            yield entry.path


def _xattrs(path: bytes) -> dict[str, bytes]:
    found = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(found)}


def _sha256(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(expected: dict, found: dict, *, unpacked_after: int) -> list[str]:
    """One line per difference, in words.

    A folder that no layer names gets the time of unpacking: such times, those
    after `unpacked_after` (nanoseconds), are not compared.
    """
    lines = [f"only expected: {name!r}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"only found: {name!r}" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        ours, theirs = found[name], expected[name]
        lines += [
            f"{name!r} {key}: expected {theirs.get(key)!r}, found {ours.get(key)!r}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
            and not (key == "mtime" and theirs[key] >= unpacked_after)
        ]
    return lines
