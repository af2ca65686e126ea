"""Having folders of the node on shared mounts, so that what a container mounts there is seen.

systemd makes `/` shared. Where nothing does, the container runtime refuses a pod whose
volumes propagate mounts ("path is mounted on / but it is not a shared mount"). A
folder that is bind-mounted on itself and made shared is what it asks for; that lasts
until the next boot, and node set-up runs before each start of the pod.

Source: mount_namespaces(7), proc_pid_mountinfo(5) (`shared:N` among the optional fields).
"""

import concurrent.futures
import multiprocessing
import pathlib
from collections.abc import Sequence

from agent import errors
from agent.mounts import syscalls
from agent.setup import config

_SECONDS = 20.0


class SharingError(errors.PermanentError):
    """A folder cannot be put on a shared mount; `folder` is it."""

    def __init__(self, folder: config.Path, reason: str) -> None:
        super().__init__(f"{folder} cannot be put on a shared mount: {reason}")
        self.folder = folder


def is_shared(table: str, folder: config.Path) -> bool:
    """Whether what is mounted below a folder is seen outside, by the text of a mountinfo."""
    shared, longest = False, -1
    for line in table.splitlines():
        head = line.partition(" - ")[0].split(" ")
        target = config.Path(head[4].encode().decode("unicode_escape"))
        # Of mounts on one another, the last one is on top.
        if folder.is_relative_to(target) and len(target.parts) >= longest:
            longest = len(target.parts)
            shared = any(field.startswith("shared:") for field in head[6:])
    return shared


def share(folders: Sequence[config.Path], *, in_container: bool) -> list[config.Path]:
    """Put folders of the node on shared mounts; returns those that were not.

    In a container it works in the mounts of process 1, which must be the node's
    (hostPID). Raises SharingError.
    """
    table = pathlib.Path("/proc/1/mountinfo" if in_container else "/proc/self/mountinfo")
    changed = []
    for folder in folders:
        try:
            if is_shared(table.read_text(errors="surrogateescape"), folder):
                continue
            # A process of its own: it leaves our mounts for good, and may hang.
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as child:
                child.submit(_share, str(folder), in_container).result(_SECONDS)
        except (OSError, TimeoutError, concurrent.futures.BrokenExecutor) as error:
            raise SharingError(folder, str(error) or type(error).__name__) from error
        changed.append(folder)
    return changed


def _share(folder: str, in_container: bool) -> None:
    if in_container:
        syscalls.enter_mounts_of(1)
    syscalls.share(folder)
