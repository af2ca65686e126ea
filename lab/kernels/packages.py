"""Gather the emulator, and kernels and SELinux's programs of Debian's releases.

As lab.parts.debian does, with its apt configuration, and apart from it: few tests need them, and
they are large (the kernels alone 400 MB). `python -m lab.kernels.packages` gathers what is missing.
"""

import dataclasses
import pathlib
import re
import shutil
import sys

from lab import places
from lab.parts import debian

FOLDER = places.LAB / "kernels"
KERNEL_PACKAGE = "linux-image-amd64"
_PARTS_OF_A_KERNEL = re.compile(r"linux-(image|binary|modules|base)-\d\S+")


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of Debian: its name in tests, and the suite that it is in."""

    name: str
    suite: str

    @property
    def folder(self) -> pathlib.Path:
        """Where its packages are unpacked."""
        return FOLDER / self.name

    @property
    def image(self) -> pathlib.Path:
        """What is booted."""
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> pathlib.Path:
        """The folder of its modules; its name is what `uname -r` says."""
        return next(self.folder.glob("modules/*"))

    @property
    def is_there(self) -> bool:
        """Whether it was gathered."""
        return self.image.exists()


KERNELS = (
    Kernel("5.10", "bullseye"),
    Kernel("6.1", "bookworm"),
    Kernel("6.12", "trixie"),
    Kernel("7.2", "testing"),
)
QEMU = debian.Part(
    "kernels/qemu",
    "trixie",
    "qemu-system-x86",
    ("usr/bin/qemu-system-x86_64",),
    libraries=True,
)
QEMU_FOLDER = places.LAB / QEMU.folder
_KEPT = ("arch", "crypto", "fs", "lib", "net", "drivers/block", "drivers/md", "drivers/virtio")
_KEPT_FILES = ("drivers/net/veth.ko*", "drivers/dax/*.ko*")
"""Of a kernel's modules; the others, most of them drivers, are 300 MB."""
SELINUX = (
    # The policy is of the suite whose programs load it.
    debian.Part("kernels/policy", "trixie", "selinux-policy-default", libraries=True),
    debian.Part("kernels/secilc", "trixie", "secilc", libraries=True),
)


def gather() -> list[str]:
    """Gather what is missing; returns the names of kernels that Debian has no longer."""
    uri = debian.mirror()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for part in (QEMU, *SELINUX):
        if not (places.LAB / part.folder).is_dir():
            print(f"lab: {part.package} of Debian {part.suite}")
            debian.prepare_apt(uri, part.suite)
            debian.download(part.suite, [part])
            debian.unpack(part)
    gone = []
    for kernel in KERNELS:
        if not kernel.is_there:
            try:
                _gather_kernel(uri, kernel)
            except debian.PartError as error:
                print(f"lab: kernel {kernel.name}: {error}")
                gone.append(kernel.name)
    return gone


def _gather_kernel(uri: str, kernel: Kernel) -> None:
    print(f"lab: kernel of Debian {kernel.suite}")
    debian.prepare_apt(uri, kernel.suite)
    part = debian.Part(f"kernels/{kernel.name}", kernel.suite, KERNEL_PACKAGE)
    names = [name for name in debian.dependencies(part) if _PARTS_OF_A_KERNEL.fullmatch(name)]
    folder = debian.packages(part)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    what = f"the kernel of Debian {kernel.suite}"
    debian.run([*debian.apt(kernel.suite), "download", *names], what, folder)
    debian.unpack(part)
    _keep_what_is_needed(kernel)


def _keep_what_is_needed(kernel: Kernel) -> None:
    """Have image and modules in the same places for all, and have depmod list the modules."""
    unpacked = next(kernel.folder.glob("**/modules/[0-9]*"))
    kept = kernel.folder / "kept/lib/modules" / unpacked.name
    kept.mkdir(parents=True)
    for file in unpacked.glob("modules.*"):
        shutil.copy(file, kept)
    for name in _KEPT:
        if (unpacked / "kernel" / name).is_dir():
            shutil.copytree(unpacked / "kernel" / name, kept / "kernel" / name)
    for pattern in _KEPT_FILES:
        for file in (unpacked / "kernel").glob(pattern):
            target = kept / file.relative_to(unpacked)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    debian.run(["depmod", "-b", str(kernel.folder / "kept"), kept.name], "a list of modules")
    image = next(kernel.folder.glob("**/vmlinuz*"))
    new = kernel.folder.with_name(f"{kernel.folder.name}.kept")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    kept.parent.rename(new / "modules")
    image.rename(new / "vmlinuz")
    shutil.rmtree(kernel.folder)
    new.rename(kernel.folder)


def emulator() -> list[str | pathlib.Path]:
    """The command of the emulator, which has its libraries and its firmware with it."""
    libraries = next(QEMU_FOLDER.glob("usr/lib/*/libc.so.6")).parent
    loader = next(libraries.glob("ld-linux-*"))
    firmware = (QEMU_FOLDER / "usr/share/qemu", QEMU_FOLDER / "usr/share/seabios")
    places_ = [word for folder in firmware for word in ("-L", folder)]
    program = QEMU_FOLDER / QEMU.binaries[0]
    return [loader, "--library-path", libraries, program, *places_]


def main() -> None:
    """Gather what is missing."""
    try:
        gone = gather()
    except debian.PartError as error:
        raise SystemExit(f"lab: {error}") from None
    if gone:
        sys.exit(f"lab: not to be had: kernels {', '.join(gone)}")


if __name__ == "__main__":
    main()
