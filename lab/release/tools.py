"""What a release needs beside the lab's parts: oras to push, and an emulator to try arm64.

As lab.parts.debian gathers them, and apart from it: `make test` needs neither.
"""

import os
import pathlib

from lab import places
from lab.parts import debian

ORAS = debian.Part("release-tools/oras", "trixie", "oras")
# Linked statically: it runs on any machine, and in any container.
QEMU = debian.Part("release-tools/qemu", "trixie", "qemu-user")
MACHINES = {"x86_64": "arm64", "aarch64": "amd64"}


def oras() -> pathlib.Path:
    """Return the program that pushes, gathered by the first caller."""
    return _gathered(ORAS) / "usr/bin/oras"


def emulator(architecture: str) -> pathlib.Path:
    """Return the program that runs another architecture's programs."""
    name = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}[architecture]
    return _gathered(QEMU) / "usr/bin" / name


def _gathered(part: debian.Part) -> pathlib.Path:
    folder = places.LAB / part.folder
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"lab: {part.package} of Debian {part.suite}", flush=True)
        debian.prepare_apt(debian.mirror(), part.suite)
        debian.download(part.suite, [part])
        debian.unpack(part)
    return folder


def other_architecture() -> str:
    """Return the platform of a release that this machine can only emulate."""
    return MACHINES[os.uname().machine]
