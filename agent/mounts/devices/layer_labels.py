"""The SELinux label that layers are mounted with.

A layer's files have no labels of their own, so SELinux takes them for `unlabeled_t`, which no
container may read. containerd mounts the overlay of a container with the label of that container
where its `enable_selinux` is on; what it mounts otherwise, image volumes for one, has the labels
of the layers beneath. So layers are mounted as a whole with the label that the files of
containerd's own snapshots have by the policy of containers (container-selinux, refpolicy): for all
containers to read and to run, for none to write. No file is labelled.

The kernel itself is asked whether it takes a label, by a mount: a container sees neither
/etc/selinux nor /sys/fs/selinux. Standard library only.
"""

import functools
import os
import re
import tempfile
from typing import NamedTuple

from agent.mounts import mountinfo, syscalls

AUTO, OFF = "auto", "off"

_CANDIDATES = tuple(
    f"system_u:object_r:{name}{level}"
    # The second is what the first was called before, and the one that is writable.
    for name in ("container_ro_file_t", "container_share_t", "container_file_t")
    for level in (":s0", "")
)
_CONTEXT = re.compile(r'(?:^|,)context=("[^"]*"|[^,]*)')
_UNKNOWN_TYPES = ("unlabeled_t", "file_t", "default_t")
"""Types of files for which nothing says what they are."""


class State(NamedTuple):
    """What SELinux is here: `mode` is "" (not active), "permissive" or "enforcing"; `label` is what
    layers are mounted with ("": none), `problem` why there is none."""

    mode: str = ""
    label: str = ""
    problem: str = ""


@functools.cache
def is_active() -> bool:
    """Whether the kernel was started with SELinux."""
    with open("/proc/filesystems", encoding="ascii") as file:
        return any(line.split()[-1:] == ["selinuxfs"] for line in file)


def options(label: str) -> str:
    """The options of a mount with a label."""
    # Categories have commas between them.
    return f'context="{label}"' if label else ""


def of(entry: mountinfo.Entry) -> str:
    """The label that something is mounted with as a whole; "" where its files have their own."""
    found = _CONTEXT.search(entry.options)
    return found[1].strip('"') if found else ""


def unknown_type(path: str) -> str:
    """The type of a file's label where that says nothing of it, else ""."""
    try:
        label = os.getxattr(path, "security.selinux").rstrip(b"\0").decode()
    except OSError:
        return ""
    type_ = label.split(":")[2] if label.count(":") > 1 else label
    return type_ if type_ in _UNKNOWN_TYPES else ""


def state(wanted: str) -> tuple[str, str, str]:
    """Find out what layers are mounted with, by the setting, as a State; in a child of one thread.

    Enters a mount namespace of its own, so nothing of what it tries is seen or stays.
    """
    found = _state(wanted)
    return found.mode, found.label, found.problem


def _state(wanted: str) -> State:
    if not is_active():
        return State()
    syscalls.enter_private_namespace()
    with tempfile.TemporaryDirectory() as folder:
        mode = _mode(folder)
        if wanted == OFF:
            return State(mode)
        problems = []
        for label in _CANDIDATES if wanted == AUTO else (wanted,):
            try:
                return State(mode, _tried(folder, label))
            except OSError as error:
                problems.append(f"{label}: {error.strerror}")
    return State(mode, problem=f"the kernel mounts nothing with the label {problems[0]}")


def _tried(folder: str, label: str) -> str:
    """Mount with a label: as the kernel spells it. OSError EINVAL: the policy does not know it."""
    syscalls.mount("label", folder, "tmpfs", syscalls.MS_RDONLY, options(label))
    try:
        return of([entry for entry in mountinfo.read() if entry.target == folder][-1])
    finally:
        syscalls.unmount(folder)


def _mode(folder: str) -> str:
    try:
        syscalls.mount("selinuxfs", folder, "selinuxfs", syscalls.MS_RDONLY)
    except OSError:
        return "unknown"
    try:
        with open(f"{folder}/enforce", encoding="ascii") as file:
            return "enforcing" if file.read().strip() == "1" else "permissive"
    finally:
        syscalls.unmount(folder)


OPERATIONS = {"state": state}
