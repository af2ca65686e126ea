"""How much memory this process may use: what cgroups, its own limits and the machine leave it."""

import pathlib
import resource
from collections.abc import Iterator

_PROC = pathlib.Path("/proc")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")


def limit(proc: pathlib.Path = _PROC, cgroups: pathlib.Path = _CGROUPS) -> int:
    """Bytes: the smallest limit of a cgroup that this process is in, else all of the machine."""
    return min([*_of_cgroups(proc, cgroups), *_of_process(), _of_machine(proc)])


def _of_process() -> Iterator[int]:
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        yield soft


def _of_machine(proc: pathlib.Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    raise ValueError("/proc/meminfo does not say how much memory there is")


def _of_cgroups(proc: pathlib.Path, cgroups: pathlib.Path) -> Iterator[int]:
    for folder, name in _files(proc, cgroups):
        for each in (folder, *folder.parents):
            try:
                text = (each / name).read_text().strip()
            except OSError:
                text = ""
            if text.isdigit():
                yield int(text)
            if each == cgroups:
                break


def _files(proc: pathlib.Path, cgroups: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Folders of the cgroups of this process, and the file with the limit: versions 2 and 1."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield cgroups / path.lstrip("/"), "memory.max"
        elif "memory" in controllers.split(","):
            yield cgroups / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
    # In a container the path may be that of the host; its own cgroup is then at the root.
    yield cgroups, "memory.max"
    yield cgroups / "memory", "memory.limit_in_bytes"
