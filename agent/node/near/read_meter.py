"""Counts what this node reads from the store, and from its own copies: figures of the kernel.

Of NFS, what the client has had from the server for all mounts of the store's export: for
containers, copies, reading ahead and look-ups alike. Of other stores, and of copies, what was read
through the layers' loop devices. A layer that is mounted without one (UIMGACC_LOCAL=off on another
file system than NFS) is not seen.
"""

import asyncio
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.metrics import copy_metrics
from agent.mounts import mountinfo

_SECONDS = 60.0
_SECTOR = 512
_NAME, _SECTORS_READ = 2, 5
"""Fields of a line of /proc/diskstats (Documentation/admin-guide/iostats.rst)."""
_MOUNT = re.compile(r"^device \S+ mounted on (\S+) with fstype nfs", re.MULTILINE)
_BYTES = re.compile(r"^\s*bytes:\s*((?:\d+ ){7}\d+)", re.MULTILINE)
_SERVER = "server of "
_FROM_SERVER = 4
"""Of the eight figures of `bytes:`, that of all reads which reached the server
(fs/nfs/iostat.h)."""


class Layers(Protocol):
    """The mounted layers: agent.node.near.copies.Keeper."""

    @property
    def devices(self) -> Mapping[str, bool]:
        """Their loop devices, and whether each reads a local copy; as of the last look."""


class ReadMeter:
    """Looks at the kernel's figures once a minute; `proc` is where they are.

    `store` is the store's folder, `source` what the agent mounts there by itself, "" if nothing;
    `layers` are None where no copies are kept.
    """

    def __init__(
        self,
        store: pathlib.Path,
        layers: Layers | None,
        *,
        source: str = "",
        proc: pathlib.Path = pathlib.Path("/proc"),
    ) -> None:
        self._store = store
        self._layers = layers
        self._source = source
        self._proc = proc
        self._seen: dict[str, int] | None = None

    async def run(self) -> None:
        """Count for ever."""
        while True:
            self.count()
            await asyncio.sleep(_SECONDS)

    def count(self) -> None:
        """Count what was read since the last call."""
        table = list(mountinfo.parse(self._read("self/mountinfo")))
        mount = mountinfo.beneath(self._store, table, self._source)
        is_nfs = mount is not None and mount.kind.startswith("nfs")
        now = self._through_devices()
        if mount is not None and is_nfs:
            now |= self._from_server(mount.source, table)
        devices = self._layers.devices if self._layers is not None else {}
        before, self._seen = self._seen, now
        if before is None:
            return
        for name, total in now.items():
            # A figure that has fallen is one of another mount.
            more = max(0, total - before.get(name, 0))
            if name.startswith(_SERVER):
                copy_metrics.bytes_read("store", more)
            elif devices.get(name):
                copy_metrics.bytes_read("local", more)
            elif name in devices and not is_nfs:
                copy_metrics.bytes_read("store", more)

    def _from_server(self, source: str, table: Sequence[mountinfo.Entry]) -> dict[str, int]:
        """Bytes by file system: mounts that share one, share its figures."""
        devices = {entry.target: entry.device for entry in table if entry.source == source}
        text = self._read("self/mountstats")
        found: dict[str, int] = {}
        for start in _MOUNT.finditer(text):
            device = devices.get(mountinfo.unescaped(start[1]))
            figures = _BYTES.search(text, start.end())
            if device is not None and figures is not None:
                found[f"{_SERVER}{device}"] = int(figures[1].split()[_FROM_SERVER])
        return found

    def _through_devices(self) -> dict[str, int]:
        """Bytes by loop device."""
        rows = (line.split() for line in self._read("diskstats").splitlines() if " loop" in line)
        return {row[_NAME]: int(row[_SECTORS_READ]) * _SECTOR for row in rows}

    def _read(self, name: str) -> str:
        try:
            return (self._proc / name).read_text(errors="surrogateescape")
        except OSError:
            return ""  # what a kernel or a container does not show, is not counted
