"""Mounting an NFS export and looking after it, as operations for agent.kits.processes.workers.

Any of these may hang for as long as the server does; the process is killed then,
which the NFS client allows at every wait. mount(2) is called directly: mount.nfs
would be another process to kill, and all that it adds for NFS 4 is the server's
address. Standard library only.
"""

import contextlib
import errno
import os
import socket

from agent.mounts import mountinfo, syscalls
from agent.mounts.devices import layer_files

_FLAGS = (
    syscalls.MS_RDONLY
    | syscalls.MS_NOSUID
    | syscalls.MS_NODEV
    | syscalls.MS_NOEXEC
    | syscalls.MS_NOATIME
)


def survey(place: str) -> tuple[str, str, bool]:
    """(kind, link, empty) of the place, as agent.mounts.nfs.Seen has them. Asks no server."""
    if os.path.islink(place):
        return "link", os.readlink(place), False
    if any(entry.target == place for entry in mountinfo.read()):
        # A mount: its folder may hang, and is not asked.
        return "folder", "", False
    try:
        return "folder", "", not os.listdir(place)
    except FileNotFoundError:
        return "", "", False
    except NotADirectoryError:
        return "file", "", False


def check(path: str) -> None:
    """Ask the server for the root of a mount; OSError ESTALE when the export is gone.

    statvfs is the one question that no cache answers: with a delegation, even
    opening and reading a file works for minutes after the server went away.
    """
    os.statvfs(path)


def resolve(server: str) -> list[str]:
    """The addresses of a server, the best first. Raises OSError EHOSTUNREACH where it has none."""
    try:
        answers = socket.getaddrinfo(server, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(errno.EHOSTUNREACH, error.strerror or str(error), server) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in answers))


def mount(source: str, address: str, target: str, attempts: list[tuple[str, str]]) -> str:
    """Mount on the folder `target`, made for it; return the options that the server took.

    Tries the next of the attempts where the server does not speak a version. Raises
    OSError.
    """
    os.makedirs(target, mode=0o700, exist_ok=True)
    failure = OSError(errno.EINVAL, "nothing to try")
    for kind, options in attempts:
        data = f"{options},addr={address}"
        try:
            syscalls.mount(source, target, kind, _FLAGS, data)
        except OSError as error:
            failure = error
            if error.errno not in (errno.EPROTONOSUPPORT, errno.EINVAL):
                break
        else:
            return data
    with contextlib.suppress(OSError):
        os.rmdir(target)
    raise failure


def read_ahead(target: str, kib: int) -> bool:
    """Have the kernel read so many KiB ahead in files of a mount; whether that was to be changed.

    It holds for files that are opened from then on. The server is not asked. Raises OSError where
    sysfs cannot be written, and ENOENT where nothing is mounted there.
    """
    devices = [entry.device for entry in mountinfo.read() if entry.target == target]
    if not devices:
        raise OSError(errno.ENOENT, "nothing is mounted there", target)
    path = f"/sys/class/bdi/{os.major(devices[-1])}:{os.minor(devices[-1])}/read_ahead_kb"
    with open(path, "r+", encoding="ascii") as file:
        if int(file.read()) == kib:
            return False
        file.write(str(kib))
    return True


def link(place: str, text: str) -> None:
    """Have the link at `place` point to `text` from one moment to the next.

    An empty folder there, as volumes are made with, gives way. Raises OSError
    EBUSY when it is itself a volume of this container: then it cannot be a link.
    """
    draft = f"{place}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    os.symlink(text, draft)
    if os.path.isdir(place) and not os.path.islink(place):
        os.rmdir(place)
    os.rename(draft, place)


def unmount(target: str) -> bool:
    """Unmount what no process uses; False, and nothing happens, while one does."""
    try:
        syscalls.unmount(target)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno != errno.EINVAL:
            raise
    with contextlib.suppress(OSError):
        os.rmdir(target)
    return True


OPERATIONS = {
    **layer_files.OPERATIONS,
    "check": check,
    "link": link,
    "mount": mount,
    "read_ahead": read_ahead,
    "resolve": resolve,
    "survey": survey,
    "unmount": unmount,
}
