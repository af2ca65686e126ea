"""Having folders of the node on shared mounts, so that what a container mounts there is seen.

systemd makes `/` shared. Where nothing does, the container runtime refuses a pod whose
volumes propagate mounts ("path is mounted on / but it is not a shared mount"). A
folder that is bind-mounted on itself and made shared is what it asks for; that lasts
until the next boot, and node set-up runs before each start of the pod.

Source: mount_namespaces(7), proc_pid_mountinfo(5) (`shared:N` among the optional fields).
"""

import multiprocessing
import pathlib
from collections.abc import Sequence
from multiprocessing import connection

from agent import errors
from agent.mounts import syscalls
from agent.setup.config import settings_view

_SECONDS = 20.0


class SharingError(errors.PermanentError):
    """A folder cannot be put on a shared mount; `folder` is it."""

    def __init__(self, folder: settings_view.Path, reason: str) -> None:
        super().__init__(f"{folder} cannot be put on a shared mount: {reason}")
        self.folder = folder


def is_shared(table: str, folder: settings_view.Path) -> bool:
    """Whether what is mounted below a folder is seen outside, by the text of a mountinfo."""
    shared, longest = False, -1
    for line in table.splitlines():
        head = line.partition(" - ")[0].split(" ")
        target = settings_view.Path(head[4].encode().decode("unicode_escape"))
        # Of mounts on one another, the last one is on top.
        if folder.is_relative_to(target) and len(target.parts) >= longest:
            longest = len(target.parts)
            shared = any(field.startswith("shared:") for field in head[6:])
    return shared


def share(folders: Sequence[settings_view.Path], *, in_container: bool) -> list[settings_view.Path]:
    """Put folders of the node on shared mounts; returns those that were not.

    In a container it works in the mounts of a process of the node, whose processes must
    be seen (hostPID). Raises SharingError.
    """
    process = process_of_node() if in_container else None
    table = pathlib.Path(f"/proc/{process or 'self'}/mountinfo")
    changed = []
    for folder in folders:
        if in_container and process is None:
            raise SharingError(folder, "no process of the node can be looked into (hostPID?)")
        try:
            if is_shared(table.read_text(errors="surrogateescape"), folder):
                continue
        except OSError as error:
            raise SharingError(folder, str(error)) from error
        if problem := _in_a_child(str(folder), process):
            raise SharingError(folder, problem)
        changed.append(folder)
    return changed


def process_of_node() -> str | None:
    """A process with the node's own mounts: its first one, else containerd.

    The first process of a virtual machine may have rights that no other process has; then
    even root may not look into it.
    """
    others = []
    for folder in pathlib.Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "comm").read_text().strip() == "containerd":
                others.append(folder.name)
        except OSError:
            continue  # it has ended
    for process in ("1", *sorted(others, key=int)):
        try:
            pathlib.Path(f"/proc/{process}/ns/mnt").readlink()
        except OSError:
            continue
        return process
    return None


def _in_a_child(folder: str, process: str | None) -> str:
    """Share a folder in a process that leaves our mounts for good; what went wrong, or "".

    Forked, as it needs nothing but what is loaded: in the node's mounts our files are
    somewhere else.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_share, args=(folder, process, sender))
    child.start()
    sender.close()
    try:
        return str(receiver.recv()) if receiver.poll(_SECONDS) else f"no end in {_SECONDS:.0f} s"
    except EOFError:
        return "the process that does it has ended"
    finally:
        child.kill()
        child.join()


def _share(folder: str, process: str | None, sender: connection.Connection) -> None:
    try:
        if process:
            syscalls.enter_mounts_of(process)
        syscalls.share(folder)
    except OSError as error:
        sender.send(str(error))
    else:
        sender.send("")
