"""The program with which containerd unpacks images into EROFS layers."""

import subprocess

from agent.setup.node import host

_SECONDS = 20.0
_NEEDED = "--tar="


def problem(machine: host.Host) -> str:
    """Why containerd of this node could not unpack an image into EROFS layers; "" where it can.

    It asks `mkfs.erofs --help` for the same word when it starts (plugins/diff/erofs).
    """
    try:
        done = subprocess.run(
            [*machine.enter, "mkfs.erofs", "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        said = done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if _NEEDED in said:
        return ""
    return (
        "--native needs mkfs.erofs on the node (package erofs-utils, 1.8 or newer), with which"
        " containerd unpacks the images that the store does not have"
    )
