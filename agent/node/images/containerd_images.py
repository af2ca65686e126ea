"""The images of one containerd, as one value: its client, what it has, and their snapshots.

Made once, at the start of a process; services take it instead of three objects that
must belong together.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from agent.clients.containerd import rpc
from agent.model import images, keys
from agent.node.images import image_snapshots, inventory
from agent.store.lookup import layer_requests

_ROOT = f"/var/lib/containerd/{keys.SNAPSHOTTER_PLUGINS}."
"""Where the snapshotter's root is unless containerd says it: before 1.7.16 it does not."""


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
    prover = KeyProver(client, snapshotter=snapshotter)
    return ContainerdImages(
        client,
        inventory.Inventory(client, platform),
        image_snapshots.Chains(client, prover, snapshotter=snapshotter),
    )


class KeyProver:
    """Proves it by the key in the snapshotter's folder: agent.store.lookup.layer_requests."""

    def __init__(self, client: rpc.Client, *, snapshotter: str) -> None:
        self._client = client
        self._snapshotter = snapshotter
        self._file: pathlib.Path | None = None

    async def labels(self, chain_id: str) -> Mapping[str, str]:
        """The labels of a request for a chain ID; none where the key cannot be read.

        Without them the snapshotter serves what is public. The key is read each time, from the
        local disk: the snapshotter makes another one where its folder was lost.
        """
        key = None if self._file is None else _content(self._file)
        if key is None:
            self._file = await self._find()
            key = _content(self._file)
        if key is None:
            return {}
        return {keys.AGENT_PROOF: layer_requests.agent_proof(key, chain_id)}

    async def _find(self) -> pathlib.Path:
        plugin = await self._client.plugin(keys.SNAPSHOTTER_PLUGINS, self._snapshotter)
        root = plugin.exports.get("root") if plugin is not None else None
        return pathlib.Path(root or f"{_ROOT}{self._snapshotter}", layer_requests.AGENT_KEY)


def _content(path: pathlib.Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
