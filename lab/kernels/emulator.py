"""Booting an emulated machine with one of Debian's kernels."""

import pathlib
import subprocess

from lab.guest import machine
from lab.kernels import initramfs, packages

_DISK_BYTES = 4 << 30
"""Of its /tmp; sparse."""
_SHARE = "local,id={0},path={1},security_model=passthrough,multidevs=remap"


class Machine(machine.Machine):
    """A guest as lab.guest has them, with a kernel of Debian's. One processor, emulated."""

    def __init__(
        self, folder: pathlib.Path, kernel: packages.Kernel, *, memory: str = "2G", told: str = ""
    ) -> None:
        super().__init__(folder, memory=memory)
        self.kernel = kernel
        self.told = told
        """More arguments of the kernel."""

    def _boot(self) -> list[str | pathlib.Path]:
        # EROFS is mounted from files of a disk; of a file system in memory not by all kernels.
        disk = self.folder / "disk"
        with disk.open("wb") as file:
            file.truncate(_DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", disk], check=True)
        archive = self.folder / "initramfs"
        initramfs.make(self.kernel.modules, archive)
        arguments = self._arguments(self.kernel.modules.parent)
        first, *told = arguments
        quiet = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr nowatchdog"
        own = f"{quiet} rdinit=/init GUEST_INIT={first.partition('=')[2]} {self.told}"
        return [
            "nice",
            *packages.emulator(),
            *("-machine", "q35", "-accel", "tcg", "-cpu", "Nehalem", "-smp", "1"),
            *("-m", self.memory, "-nographic", "-nodefaults", "-no-reboot"),
            *("-serial", "stdio"),
            *("-kernel", self.kernel.image, "-initrd", archive),
            *("-append", " ".join([own, *told])),
            *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
            *("-fsdev", f"{_SHARE.format('root', '/')},readonly=on"),
            *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
            *("-fsdev", _SHARE.format("folder", self.folder)),
            *("-device", "virtio-9p-pci,fsdev=folder,mount_tag=folder"),
        ]
