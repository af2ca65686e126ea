"""A node in a guest, on a real NFS export, with agent and snapshotter mounting as in their pods."""

import collections
import pathlib
import re
from collections.abc import Sequence

from lab.guest import nfsd
from lab.runtime import nodes
from lab.web import registries

EXPORT = f"{nfsd.ADDRESS}:/store"

_OPERATION = re.compile(r"^\s+([A-Z_]+): (\d+) ", re.MULTILINE)


class Node(nodes.Node):
    """A node whose agent mounts the export; the store's place lies in a volume of the pod.

    Agent and snapshotter have mount namespaces of their own, as in containers. What they
    mount is shared with the host's (Bidirectional), but in the volume the snapshotter only
    receives (HostToContainer).
    """

    def __init__(
        self,
        folder: pathlib.Path,
        registry: registries.Registry,
        export: str = EXPORT,
        *,
        source: Sequence[str | pathlib.Path] = (),
    ) -> None:
        # Hosts have their large folders elsewhere, and a link to them.
        self.place = folder / "linked" / "store"
        super().__init__(folder, registry, self.place, source=source)
        volume = str(folder / "volume")
        (folder / "volume").mkdir()
        (folder / "linked").symlink_to("volume")
        for options in (("--bind", volume), ("--make-private",), ("--make-shared",)):
            nfsd.run("mount", *options, volume)
        own = ["unshare", "--mount", "--propagation", "unchanged"]
        receiving = ["sh", "-c", 'mount --make-rslave "$0" && exec "$@"', volume]
        self.agent.command = [*own, *self.agent.command, "--nfs", export, "--nfs-seconds", "5"]
        self.snapshotter.command = [*own, *receiving, *self.snapshotter.command]

    def capable(self) -> bool:
        """Whether it serves images from the store."""
        return self.metric("uimgacc_node_capable") == 1

    def close(self) -> None:
        """End it all, but leave mounts to the guest's own end, which is near."""
        self.agent.end()
        self.containerd.close()
        self.snapshotter.end()


def operations(folder: pathlib.Path) -> collections.Counter[str]:
    """How many operations the kernel has sent for the NFS mounts of a folder, by kind."""
    counted: collections.Counter[str] = collections.Counter()
    text = pathlib.Path("/proc/self/mountstats").read_text()
    for device in text.split("\ndevice "):
        if f" mounted on {folder}/" in device and " with fstype nfs4 " in device:
            counted.update({kind: int(number) for kind, number in _OPERATION.findall(device)})
    return counted
