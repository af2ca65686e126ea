"""Debian's SELinux policy for emulated machines: compiled outside, loaded inside.

Debian's packages bring the policy as modules that an installation compiles on the machine. Here
secilc compiles them to one file, with a few rules of our own: processes of the test are `kernel_t`,
as all are that were there before the policy, and take a container engine's part.
"""

import bz2
import os
import pathlib
import subprocess
import tempfile

from lab import places
from lab.kernels import packages
from lab.parts import debian

POLICY = packages.FOLDER / "policy.33"
"""Version 33 of the binary form, for kernels from 5.5 on."""
CONTAINER = "system_u:system_r:container_t:s0"
"""The label of a container's processes."""

_MOUNTPOINT = pathlib.Path("/sys/fs/selinux")
_OWN = """
(allow kernel_t container_t (process (transition dyntransition siginh rlimitinh noatsecure)))
(allow kernel_t container_t (process (getattr sigkill signal)))
(allow container_t kernel_t (fd (use)))
(allow container_t kernel_t (process (sigchld)))
(allow container_t kernel_t (fifo_file (read write getattr append ioctl)))
"""


def compile_policy() -> pathlib.Path:
    """Have the policy compiled; where it is."""
    if POLICY.exists():
        return POLICY
    folder = places.LAB / "kernels/policy"
    with tempfile.TemporaryDirectory() as made:
        texts = [pathlib.Path(made, "own.cil")]
        texts[0].write_text(_OWN)
        for module in sorted(folder.glob("usr/share/selinux/default/*.pp.bz2")):
            draft = pathlib.Path(made, module.stem)
            draft.write_bytes(bz2.decompress(module.read_bytes()))
            texts.append(draft.with_suffix(".cil"))
            _run("policy", "usr/libexec/selinux/hll/pp", draft, texts[-1])
        new = POLICY.with_suffix(".new")
        target = ("-o", new, "-f", "/dev/null")
        _run("secilc", "usr/bin/secilc", "-m", "-M", "true", "-c", "33", *target, *texts)
    new.rename(POLICY)
    return POLICY


def _run(part: str, program: str, *arguments: str | pathlib.Path) -> None:
    folder = packages.FOLDER / part
    libraries = next(folder.glob("usr/lib/*/libc.so.6")).parent
    loader = next(libraries.glob("ld-linux-*"))
    command = [loader, "--library-path", libraries, folder / program, *arguments]
    debian.run([str(word) for word in command], "the SELinux policy")


def load() -> None:
    """Load the policy, inside. Nothing is refused until `enforce`."""
    subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", _MOUNTPOINT], check=True)
    # The kernel takes it in one piece.
    descriptor = os.open(_MOUNTPOINT / "load", os.O_WRONLY)
    try:
        os.write(descriptor, POLICY.read_bytes())
    finally:
        os.close(descriptor)


def enforce(*, on: bool) -> None:
    """Have what the policy does not allow refused, or only logged."""
    (_MOUNTPOINT / "enforce").write_text("1" if on else "0")


def label(path: pathlib.Path, context: str) -> None:
    """Label a file."""
    os.setxattr(path, "security.selinux", context.encode())


def denials() -> str:
    """What the kernel's log has of refusals, the last ones."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return "\n".join([line for line in log.splitlines() if "avc:" in line][-20:])
