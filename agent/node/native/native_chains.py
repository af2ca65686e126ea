"""The snapshots of images on containerd's own EROFS snapshotter, which serves them from the store.

containerd 2.4 has no snapshot of a whole image, and no label by which a snapshotter knows that the
agent asks: each layer is prepared by a link that only the agent can name (layer_links), and
committed on the one below it, as containerd's own unpacker does with what it finds in its cache.
So no other setting of containerd has to be right: neither parallel unpacking nor the way in
which the CRI pulls.

containerd opens the layers' files itself, in the store, without a deadline. The agent prepares
nothing while the store does not answer.
"""

import contextlib
import logging
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from agent import errors
from agent.clients.containerd import objects, rpc
from agent.kits.aio import shared_lock, tasks, threads
from agent.model import keys, records
from agent.node.images import containerd_images, image_snapshots, inventory
from agent.node.native import layer_links
from agent.store import layout

logger = logging.getLogger(__name__)


class Catalog(Protocol):
    """What is read from the store: agent.store.lookup.catalog.Catalog.

    None is what the store lacks, what is damaged, and what no key has signed.
    """

    @property
    def layout(self) -> layout.Layout:
        """Where the store has its files."""

    async def chain(self, chain_id: str) -> records.ChainRecord | None:
        """The record of a chain ID; TemporaryError: the store does not answer."""

    async def layer(self, diff_id: str) -> records.LayerRecord | None:
        """The record of a layer that is not damaged; TemporaryError as before."""


class NotAnnouncedError(errors.TemporaryError):
    """The controller does not know of this node yet: it might delete what is used here."""

    def __init__(self) -> None:
        super().__init__(
            "this node is not announced yet: deletions in the store do not wait for it"
        )


class LinkError(errors.TemporaryError):
    """The links to layers cannot be written; `reason` is the system's."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"links to layers of the store cannot be written: {reason}")
        self.reason = reason


class _File(NamedTuple):
    """The file of a layer in the store, by the diff ID that it is named after."""

    diff_id: str
    path: pathlib.Path


class NoProof:
    """containerd's own snapshotter does not ask who makes a request."""

    async def labels(self, chain_id: str) -> Mapping[str, str]:
        """None, for whatever chain ID."""
        del chain_id
        return {}


class NativeChains(image_snapshots.Chains):
    """The chains of containerd's own snapshotter, served by links to the store's layers."""

    def __init__(self, client: rpc.Client, store: Catalog, links: layer_links.LayerLinks) -> None:
        super().__init__(client, NoProof(), snapshotter=keys.NATIVE_SNAPSHOTTER)
        self._store = store
        self._links = links
        self._linking = shared_lock.Gate()
        """What is being laid out shares it: its links are needed before snapshots refer to them."""

    async def serve(self, chain: Sequence[str], *, lease: str) -> bool:
        """Have each layer of a chain served from the store; whether all are."""
        if not await self.lay_out(chain, lease=lease):
            return False
        self.remember(chain)
        return True

    async def lay_out(self, chain: Sequence[str], *, lease: str) -> bool:
        """The same: here, each layer is a snapshot of its own."""
        async with self._linking.shared():
            return await self._lay_out(chain, lease)

    async def _lay_out(self, chain: Sequence[str], lease: str) -> bool:
        if not self._links.are_allowed:
            raise NotAnnouncedError
        present = await self.count(chain)
        if present and not await self._lease_existing(chain[present - 1], lease):
            return False
        new = chain[present:]
        found = await self._files_of(new)
        if found is None:
            return False
        made: list[str] = []
        try:
            await self._add(new, found, chain[present - 1] if present else "", lease, made)
            # Deletions take chains out of the store before they ask nodes for snapshots: of
            # this look and the node's check for deletions, one sees the other.
            if await self._files_of(new) == found:
                return True
        except _NotStagedError as error:
            logger.warning("containerd has not taken a layer", extra={"chain_id": error.chain})
        for chain_id in reversed(made):
            # What another image has been put on meanwhile stays.
            with contextlib.suppress(rpc.StateError):
                await self.remove(chain_id)
        return False

    async def complete(
        self,
        chain: Sequence[str],
        config: str,
        *,
        lease: str = "",
    ) -> Sequence[str]:
        """The chain IDs of an image's lower layers that have no snapshot.

        There is nothing to do: where the image has its snapshot, all below it have theirs.
        """
        parents = await self._parents(chain[:-1])
        return [each for each, parent in zip(chain, parents, strict=False) if parent is None]

    async def ensure_mounted(self, chain_id: str) -> None:
        """Do nothing: containerd mounts layers for each container that starts."""

    async def served(self, chain_ids: Collection[str]) -> frozenset[str]:
        """Those of some snapshots that are served from the store, not unpacked."""
        labelled = await self._client.snapshots_with(self.snapshotter, keys.NATIVE_LAYER)
        return frozenset(chain_ids) & labelled.keys()

    async def elsewhere(self, containers: Collection[objects.Container]) -> Collection[str]:
        """Those that began on uimgacc's snapshotter, before the node was set up with --native."""
        return [each.id for each in containers if each.snapshotter == keys.SNAPSHOTTER]

    async def collect(self) -> None:
        """Have containerd collect its garbage, then remove the links that no snapshot needs."""
        await super().collect()
        async with self._linking.alone():
            labelled = await self._client.snapshots_with(self.snapshotter, keys.NATIVE_LAYER)
            try:
                await threads.run("links", self._links.keep, set(labelled.values()))
            except OSError as error:
                raise LinkError(str(error)) from error

    async def _lease_existing(self, chain_id: str, lease: str) -> bool:
        """Have a lease keep a snapshot that is there, and so all below it."""
        return await self._serve(chain_id, "", lease)

    async def _files_of(self, chain: Sequence[str]) -> list[_File] | None:
        """The files of a chain's layers; None where the store lacks one."""
        files = await tasks.together(*(self._file(each) for each in chain))
        return None if None in files else [each for each in files if each is not None]

    async def _file(self, chain_id: str) -> _File | None:
        chain = await self._store.chain(chain_id)
        if chain is None or await self._store.layer(chain.diff_id) is None:
            return None
        # containerd has another working folder.
        return _File(chain.diff_id, self._store.layout.layer(chain.diff_id).absolute())

    async def _add(
        self,
        chain: Sequence[str],
        found: Sequence[_File],
        parent: str,
        lease: str,
        made: list[str],
    ) -> None:
        """Make the snapshots of a chain on `parent`; `made` gets those that were not there."""
        try:
            names = await threads.run("links", self._links.add, found)
        except OSError as error:
            raise LinkError(str(error)) from error
        for chain_id, file in zip(chain, found, strict=True):
            labels = {
                keys.SNAPSHOT_REF: chain_id,
                keys.SNAPSHOT_DIFF_ID: names[file.diff_id],
                keys.NATIVE_LAYER: file.diff_id,
            }
            if await self._add_layer(chain_id, parent, labels, lease):
                made.append(chain_id)
            parent = chain_id

    async def _add_layer(
        self, chain_id: str, parent: str, labels: Mapping[str, str], lease: str
    ) -> bool:
        """Make one snapshot; False where a pull has made it meanwhile, which serves as well."""
        key = f"extract-uimgacc-{self._make_key()} {chain_id}"
        try:
            is_staged = await self._client.prepare(
                self.snapshotter, key, parent="", labels=labels, lease=lease
            )
            if not is_staged:
                raise _NotStagedError(chain_id)
            await self._client.commit(
                self.snapshotter, chain_id, key, parent=parent, labels=labels, lease=lease
            )
        except errors.AgentError as error:
            with contextlib.suppress(errors.AgentError):
                # If this fails, the end of the lease removes it.
                await self._client.remove(self.snapshotter, key)
            if isinstance(error, rpc.ExistsError):
                return False
            raise
        return True


class _NotStagedError(errors.TemporaryError):
    """containerd would unpack a layer (chain ID `chain`), although it has a link to its file."""

    def __init__(self, chain: str) -> None:
        super().__init__(f"containerd has no layer for {chain}")
        self.chain = chain


def of(
    client: rpc.Client,
    contents: inventory.Inventory,
    store: Catalog,
    folder: pathlib.Path,
) -> containerd_images.ContainerdImages:
    """The images of a containerd whose own snapshotter has `folder` as a cache of layers.

    Raises OSError where the folder cannot be made.
    """
    links = layer_links.LayerLinks(folder)
    links.make_folder()
    chains = NativeChains(client, store, links)
    return containerd_images.ContainerdImages(client, contents, chains)
