"""Mounts tried out for the doctor; operations for agent.kits.processes.workers, in a child.

The child enters a mount namespace of its own first, so no other process sees what it tries
and nothing stays. Standard library only.
"""

import base64
import os
import pathlib
import shutil
import tempfile
import zlib

from agent.mounts import mountinfo, syscalls
from agent.mounts.devices import layer_files, layer_mounting
from agent.mounts.pages import page_cache

# An EROFS file system of 8 KiB with one lz4-compressed file, `ok`, of 30,000 lines
# "ok", made by mkfs.erofs 1.8.6 -zlz4: nodes need no erofs-utils.
_IMAGE = (
    "eNrt2TsKwkAQBuCZTXywiATxACniI00QBEtFC7G0s7TQLoUXsIhYaCl4BW9i4wEU29Xe0jquUYKFihZW/h8MM0uW"
    "ncmSLkQA8K+Oh7Oajnt7Q9cZckg82SO+OI91hOHn+xM6Tk0i974ONX54vhywf83rcOY+m8OJs4jrgq7L97qkJ/I8"
    "b+S/6J/SsZoQLfocz//Ypzq89e9vK5LfvDNZeTu6KztnX9embUU5qXhOxUAqsaFakFVGmttBTpkdbtUZnx8AAAAA"
    "AAAAAAAAAPyHxsiXRvQjCH5n1/WlvugL+DqDRQ=="
)
_CONTENT = b"ok\n" * 30_000
_ROOT = (65536, 131072)
"""Who the root of a user namespace is on the node, for a trial."""


def _mounted_backing(target: str) -> str:
    source = [entry.source for entry in mountinfo.read() if entry.target == target][-1]
    return "loop" if source.startswith("/dev/loop") else "file"


def try_erofs(folder: str) -> str:
    """Mount an EROFS file that lies in `folder`: "file", or "loop" on kernels < 6.12."""
    syscalls.enter_private_namespace()
    place = pathlib.Path(tempfile.mkdtemp(prefix=".uimgacc-doctor-", dir=folder))
    target = place / "erofs"
    try:
        image = place / "image.erofs"
        image.write_bytes(zlib.decompress(base64.b64decode(_IMAGE)))
        target.mkdir()
        layer_mounting.mount_layer(str(image), str(target), image.stat().st_size)
        try:
            if (target / "ok").read_bytes() != _CONTENT:
                raise OSError(0, "the kernel reads something else than was written")
            return _mounted_backing(str(target))
        finally:
            syscalls.unmount(str(target))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def try_overlay(folder: str) -> str:
    """Mount an overlay whose upper folder lies in `folder`, as every container needs it."""
    syscalls.enter_private_namespace()
    place = pathlib.Path(tempfile.mkdtemp(prefix=".uimgacc-doctor-", dir=folder))
    names = ("lower", "upper", "work", "merged")
    lower, upper, work, merged = (place / name for name in names)
    try:
        for made in (lower, upper, work, merged):
            made.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        syscalls.mount("overlay", str(merged), "overlay", 0, options)
        try:
            (merged / "file").write_bytes(b"ok")
            return "ok" if (upper / "file").exists() else "the upper folder stays empty"
        finally:
            syscalls.unmount(str(merged))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def try_idmap(folder: str) -> None:
    """Show an EROFS file and a folder with the owners of a user namespace, and an overlay on them.

    OSError says what of that the kernel, or the file system of `folder`, cannot do.
    """
    syscalls.enter_private_namespace()
    place = pathlib.Path(tempfile.mkdtemp(prefix=".uimgacc-doctor-", dir=folder))
    names = ("erofs", "lower", "shown", "shown-lower", "upper", "work", "merged")
    erofs, lower, shown, shown_lower, upper, work, merged = (place / name for name in names)
    mounted: list[pathlib.Path] = []
    try:
        for made in (erofs, lower, shown, shown_lower, upper, work, merged):
            made.mkdir()
        image = place / "image.erofs"
        image.write_bytes(zlib.decompress(base64.b64decode(_IMAGE)))
        (lower / "file").write_bytes(b"ok")
        os.chown(upper, *_ROOT)
        layer_mounting.mount_layer(str(image), str(erofs), image.stat().st_size)
        mounted.append(erofs)
        namespace = syscalls.user_namespace(*(f"0 {first} 65536\n" for first in _ROOT))
        try:
            for source, target in ((erofs, shown), (lower, shown_lower)):
                syscalls.mount_idmapped(str(source), str(target), namespace)
                mounted.append(target)
        finally:
            os.close(namespace)
        options = f"lowerdir={shown}:{shown_lower},upperdir={upper},workdir={work}"
        syscalls.mount("overlay", str(merged), "overlay", 0, options)
        mounted.append(merged)
        for path in (merged / "ok", merged / "file"):
            status = path.stat()
            if (status.st_uid, status.st_gid) != _ROOT:
                raise OSError(0, "an overlay shows other owners", str(path))
        # Copied up from EROFS, as the first write of a container does it.
        os.chown(merged / "ok", *_ROOT)
    finally:
        for target in reversed(mounted):
            syscalls.unmount(str(target))
        shutil.rmtree(place, ignore_errors=True)


def try_layer(source: str, size: int) -> str:
    """Mount a layer of the store: "file" or "loop"; OSError says why not."""
    syscalls.enter_private_namespace()
    target = tempfile.mkdtemp(prefix="uimgacc-doctor-")
    try:
        layer_mounting.mount_layer(source, target, size)
        try:
            os.listdir(target)  # noqa: PTH208 - the names are not wanted, only that it works
            return _mounted_backing(target)
        finally:
            syscalls.unmount(target)
    finally:
        pathlib.Path(target).rmdir()


def try_switch(folder: str) -> None:
    """Mount a layer through a loop device and put its copy behind that.

    OSError says why a layer cannot be switched here.
    """
    syscalls.enter_private_namespace()
    place = pathlib.Path(tempfile.mkdtemp(prefix=".uimgacc-doctor-", dir=folder))
    target = place / "layers/layer"
    source = place / "store" / f"{'0' * 64}.erofs"
    copy = pathlib.Path(layer_files.copy_of(str(target), source.name))
    try:
        for made in (target, source.parent, copy.parent):
            made.mkdir(parents=True)
        source.write_bytes(zlib.decompress(base64.b64decode(_IMAGE)))
        size = source.stat().st_size
        layer_mounting.mount_layer(str(source), str(target), size, way=layer_mounting.LOOP)
        try:
            shutil.copyfile(source, copy)
            layer_mounting.switch_layer(str(target), str(copy), size)
            if (target / "ok").read_bytes() != _CONTENT:
                raise OSError(0, "after the switch the kernel reads something else")
        finally:
            syscalls.unmount(str(target))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def try_memory(folder: str) -> str:
    """Whether the kernel says what of a file is in memory: "ok", or what it says instead.

    "roughly: ..." where it does not distinguish what was read from what it has read ahead.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".memory") as file:
        file.write(bytes(4 * page_cache.UNIT))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = page_cache.units_in_memory([file.name])
        page_cache.read_ahead([(file.name, page_cache.UNIT, page_cache.UNIT)], 1)
        after = page_cache.units_in_memory([file.name])
        try:
            page_cache.units_unused([file.name])
        except OSError as error:
            return f"roughly: {error.strerror}"
    seen = after[0][1][0] & ~before[0][1][0]
    # A file system in memory has all of its files there.
    return "ok" if seen == 1 << 1 or before[0][1][0] == 0xF else "it shows what was not read"


OPERATIONS = {
    "try_erofs": try_erofs,
    "try_idmap": try_idmap,
    "try_layer": try_layer,
    "try_memory": try_memory,
    "try_overlay": try_overlay,
    "try_switch": try_switch,
}
