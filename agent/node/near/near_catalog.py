"""The images that this node can serve by itself: by its mirrored records and its copies.

What the store says comes first. This is asked where the store does not answer; then nothing else
counts than what is complete here, and by the same rules: signatures, and the cluster that the
store belongs to.
"""

import pathlib
from collections.abc import Sequence

from agent.kits.aio import threads
from agent.local import mirror
from agent.model import images, records
from agent.mounts import mountpoints
from agent.node.health import node_root
from agent.node.images import registration_plan
from agent.store import layout, trusted_keys
from agent.store.lookup import catalog, file_reads, local_pool


class NearCatalog:
    """Looks images up in the folder of local copies.

    `keys` and `membership` are those of the store's catalog.
    """

    def __init__(
        self,
        node: node_root.Rooted,
        platform: images.Platform,
        keys: trusted_keys.Keys,
        membership: catalog.Membership,
    ) -> None:
        self._node = node
        self._platform = platform
        self._keys = keys
        self._membership = membership
        self._pool = local_pool.LocalPool(file_reads.OPERATIONS)

    note = ""
    """See decide.Catalog: what is not signed here is not known to be missing."""

    async def caches(self) -> Sequence[records.CacheRecord]:
        """The caches by which images of this node are matched. Raises AgentError."""
        records_here = self._records()
        if records_here is None:
            return ()
        await records_here.store()
        return await records_here.caches()

    async def image(self, reference: images.Reference) -> records.ImageRecord | None:
        """The record of an image of which everything is here. Raises AgentError."""
        records_here = self._records()
        if records_here is None:
            return None
        await records_here.store()
        record = await records_here.image(reference)
        if record is None or not await threads.run("complete", self._is_complete, record):
            return None
        return record

    async def blob(self, digest: str) -> bytes | None:
        """A mirrored manifest, index or config: its digest says that it is right."""
        records_here = self._records()
        return None if records_here is None else await records_here.blob(digest)

    def _records(self) -> catalog.Catalog | None:
        if not self._node.root:
            return None
        return catalog.Catalog(
            layout.Layout(self._folder),
            self._pool,
            deadline=0,
            keys=self._keys,
            membership=self._membership,
        )

    @property
    def _folder(self) -> pathlib.Path:
        return pathlib.Path(self._node.root) / mountpoints.COPIES

    def _is_complete(self, record: records.ImageRecord) -> bool:
        made = registration_plan.for_platform(record, self._platform)
        return made is not None and mirror.Mirror(self._folder).is_complete(made)


class Blobs:
    """Manifests, indexes and configs: those that are mirrored, else the store's."""

    def __init__(self, store: catalog.Catalog, near: NearCatalog) -> None:
        self._store = store
        self._near = near

    async def blob(self, digest: str) -> bytes | None:
        """The bytes; None where there are none; TemporaryError: the store does not answer."""
        return await self._near.blob(digest) or await self._store.blob(digest)
