"""The guest's block device, which a file outside holds: machine.Machine's `disk`."""

import os
import pathlib
import stat

from lab.guest import nfsd

_NODE = pathlib.Path("/run/ubda")
_MAJOR = 98
_EMPTY = bytes(2)
_SIGNATURE = 1024 + 56
"""Where ext4 has two bytes that are not zero."""


def mount(target: pathlib.Path) -> None:
    """Mount it, made into an ext4 file system first where it is empty."""
    os.mknod(_NODE, stat.S_IFBLK | 0o600, os.makedev(_MAJOR, 0))
    with _NODE.open("rb") as device:
        device.seek(_SIGNATURE)
        is_empty = device.read(len(_EMPTY)) == _EMPTY
    if is_empty:
        nfsd.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1", str(_NODE))
    target.mkdir(parents=True, exist_ok=True)
    nfsd.run("mount", "-t", "ext4", str(_NODE), str(target))
