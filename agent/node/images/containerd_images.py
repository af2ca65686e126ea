"""The images of one containerd, as one value: its client, what it has, and their snapshots.

Made once, at the start of a process; services take it instead of three objects that
must belong together.
"""

import dataclasses

from agent.clients.containerd import rpc
from agent.model import images
from agent.node.images import image_snapshots, inventory


@dataclasses.dataclass(frozen=True, slots=True)
class ContainerdImages:
    """Access to images and to their snapshots in one snapshotter."""

    client: rpc.Client
    inventory: inventory.Inventory
    chains: image_snapshots.Chains

    @property
    def snapshotter(self) -> str:
        """The name of the uimgacc snapshotter in containerd's configuration."""
        return self.chains.snapshotter


def of(client: rpc.Client, platform: images.Platform, *, snapshotter: str) -> ContainerdImages:
    """The images of the containerd that a client is connected to."""
    return ContainerdImages(
        client,
        inventory.Inventory(client, platform),
        image_snapshots.Chains(client, snapshotter=snapshotter),
    )
