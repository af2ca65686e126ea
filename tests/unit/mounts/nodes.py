"""A layer of a store, its place on a node, and its copy there."""

import os
import pathlib
import shutil
import subprocess

from agent.mounts import mountinfo, syscalls
from agent.mounts.devices import layer_mounting, loop_devices

HEX = "ab" + "0" * 62
FILE_BACKED = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12)
"""Whether this kernel mounts EROFS from files; older ones through loop devices only."""
CONTENT = b"".join(number.to_bytes(4) for number in range(100_000))


class Node:
    """A layer in a store, and its place on the node."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.stored = folder / f"store/sha256/ab/{HEX}.erofs"
        self.copy = folder / f"root/local/sha256/ab/{HEX}.erofs"
        self.target = folder / f"root/layers/{HEX[:16]}"
        for path in (self.stored.parent, self.copy.parent, self.target, folder / "tree"):
            path.mkdir(parents=True)
        (folder / "tree/file").write_bytes(CONTENT)
        command = ["mkfs.erofs", "--quiet", self.stored, folder / "tree"]
        subprocess.run(command, check=True)
        self.size = self.stored.stat().st_size

    @property
    def name(self) -> str:
        """The name of the layer's file."""
        return self.stored.name

    def make_copy(self) -> None:
        shutil.copyfile(self.stored, self.copy)

    def mount(self, way: str = layer_mounting.LOOP) -> int:
        return layer_mounting.mount_layer(str(self.stored), str(self.target), self.size, None, way)

    def switch(self, file: pathlib.Path) -> int:
        return layer_mounting.switch_layer(str(self.target), str(file), self.size)

    @property
    def sources(self) -> list[str]:
        return [each.source for each in mountinfo.read() if each.target == str(self.target)]

    @property
    def loop(self) -> str:
        (loop,) = loop_devices.beneath(self.sources[-1])
        return loop

    def reads(self, file: pathlib.Path) -> bool:
        """Whether the mount reads this file, through its page cache."""
        seen, wanted = loop_devices.status(self.loop), file.stat()
        return seen == (wanted.st_dev, wanted.st_ino, False)

    def close(self) -> None:
        """Unmount what was mounted."""
        for _ in self.sources:
            syscalls.unmount(str(self.target), syscalls.MNT_DETACH)
