"""What containerd makes of a layer, done step by step with the kernel's own calls.

Follows pkg/archive/tar.go (applyNaive, createTarFile, mkparent) of containerd 2.1.9, for tars
whose entries `lab.samples.tars` describes. It decodes nothing, so it says nothing about headers.
"""

import errno
import os
import pathlib
import posixpath
import shutil
import stat
from collections.abc import Sequence

from agent.build.tar import rooted_path
from lab.samples import tars

XATTR = "SCHILY.xattr."


def unpack(layers: Sequence[Sequence[tars.Entry]], folder: pathlib.Path) -> list[pathlib.Path]:
    """Unpack the layers of an image, each into a folder; OSError where containerd fails."""
    roots: list[pathlib.Path] = []
    for at, entries in enumerate(layers):
        root = folder / f"right-{at}"
        root.mkdir()
        root.chmod(0o755)
        apply(entries, os.fsencode(root), [os.fsencode(one) for one in reversed(roots)])
        roots.append(root)
    return roots


def apply(entries: Sequence[tars.Entry], root: bytes, parents: Sequence[bytes]) -> None:
    folders, unpacked = [], set()
    for entry in entries:
        folder, base = posixpath.split(posixpath.normpath(entry.name))
        folder = follow(root, folder)
        if folder:
            make_parent(root, folder, parents)
        path = os.path.join(root, folder, base)
        if base.startswith(b".wh."):
            whiteout(path, entry, unpacked, is_bottom=not parents)
            continue
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        if os.path.lexists(path) and not (is_folder and entry.kind == tars.FOLDER):
            remove(path)
        create(root, path, entry)
        if entry.kind == tars.FOLDER:
            folders.append(entry)
        unpacked.add(path)
    for entry in folders:
        path = os.path.join(root, follow(root, posixpath.normpath(entry.name)))
        os.utime(path, ns=(entry.mtime * 10**9,) * 2, follow_symlinks=False)


def follow(root: bytes, path: bytes) -> bytes:
    def readlink(candidate: bytes) -> bytes | None:
        full = os.path.join(root, candidate)
        try:
            found = os.lstat(full)
        except FileNotFoundError:
            return None
        return os.readlink(full) if stat.S_ISLNK(found.st_mode) else None

    try:
        return rooted_path.resolve(path, readlink)
    except rooted_path.TooManyLinksError as error:
        raise OSError(errno.ELOOP, "too many links") from error


def make_parent(root: bytes, path: bytes, parents: Sequence[bytes]) -> None:
    full = os.path.join(root, path)
    if os.path.lexists(full):
        if not stat.S_ISDIR(os.lstat(full).st_mode):
            raise NotADirectoryError(full)
        return
    if above := posixpath.dirname(path):
        make_parent(root, above, parents)
    os.mkdir(full)
    os.chmod(full, 0o755)
    for parent in parents:
        source = os.path.join(parent, follow(parent, path))
        if not os.path.lexists(source):
            continue
        found = os.lstat(source)
        if stat.S_ISDIR(found.st_mode):
            os.chown(full, found.st_uid, found.st_gid)
            os.chmod(full, stat.S_IMODE(found.st_mode))
            os.utime(full, ns=(found.st_atime_ns, found.st_mtime_ns))
            for name in os.listxattr(source):
                if not name.startswith("trusted."):
                    os.setxattr(full, name, os.getxattr(source, name))
        return


def whiteout(path: bytes, entry: tars.Entry, unpacked: set[bytes], *, is_bottom: bool) -> None:
    folder, base = posixpath.split(path)
    hidden = os.path.join(folder, base[4:])
    if base == b".wh..wh..opq" and not is_bottom:
        os.setxattr(folder, "trusted.overlay.opaque", b"y")
    elif base == b".wh..wh..opq":
        for top, folders, files in os.walk(folder):
            for name in [*folders, *files]:
                if os.path.join(top, name) not in unpacked:
                    remove(os.path.join(top, name))
                    folders[:] = [one for one in folders if one != name]
    elif not is_bottom:
        os.mknod(hidden, stat.S_IFCHR, 0)
        os.chown(hidden, entry.uid, entry.gid)
    elif os.path.lexists(hidden):
        remove(hidden)


def remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def create(root: bytes, path: bytes, entry: tars.Entry) -> None:
    if entry.kind == tars.FOLDER:
        if not os.path.lexists(path):
            os.mkdir(path, entry.mode)
    elif entry.kind == tars.FILE:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, entry.mode)
        os.write(descriptor, entry.data)
        os.close(descriptor)
    elif entry.kind == tars.LINK:
        folder, base = posixpath.split(entry.target)
        target = os.path.join(root, follow(root, folder), base)
        os.link(target, path, follow_symlinks=False)
    elif entry.kind == tars.SYMLINK:
        os.symlink(entry.target, path)
    else:
        kind = stat.S_IFIFO if entry.kind == tars.FIFO else stat.S_IFCHR
        os.mknod(path, entry.mode | kind, os.makedev(*entry.device))
    set_attributes(path, entry)


def set_attributes(path: bytes, entry: tars.Entry) -> None:
    os.lchown(path, entry.uid, entry.gid)
    for key, value in entry.pax.items():
        name = key.removeprefix(XATTR)
        if name == key or name.startswith("trusted."):
            continue
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            is_ignored = error.errno == errno.EPERM and name.startswith("user.")
            if not is_ignored and error.errno != errno.ENOTSUP:
                raise
    if not os.path.islink(path):
        os.chmod(path, entry.mode)
    time = float(entry.pax.get("mtime", entry.mtime))
    os.utime(path, ns=(max(0, int(time * 10**9)),) * 2, follow_symlinks=False)
