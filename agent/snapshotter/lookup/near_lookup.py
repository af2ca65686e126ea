"""Finds layers among the copies of this node first, and only then in the store.

The node's agent copies layers, and the records of the images that it serves, into the folder
`local` of the snapshotter's root, which has the layout of a store. If all records and copies of a
chain are there, it is served from them: no request goes to the server, and a server that hangs
delays nothing. The same rules hold for these records as for the store's. Where they lack something,
or do not permit the request, the store is asked, as its records may have changed since.

Deletions in the store do not wait for copies. So after the mount of a copy the store is not asked
again whether the layer is still there (see agent.snapshotter.store_layers).
"""

import asyncio
import logging
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent import errors
from agent.local import copy_paths, disk
from agent.model import digests, records
from agent.mounts import verification
from agent.mounts.devices import device_mapper
from agent.snapshotter.lookup import answers, layer_rules, store_lookup
from agent.store import layout
from agent.store.lookup import chain_index, file_reads, layer_permissions, local_pool

logger = logging.getLogger(__name__)

_IDENTIFIED_SECONDS = 30.0
_MOST = 1000
"""Most layers of a chain: a damaged record might name itself as the layer below."""


class NearLookup:
    """Looks in the folder of local copies `folder`, then asks `store`.

    Without `refuses_marked`, layers are served although the agent has read wrong bytes of them.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        store: store_lookup.StoreLookup,
        conditions: layer_rules.Conditions,
        *,
        refuses_marked: bool = True,
    ) -> None:
        self._layout = layout.Layout(folder)
        self._marks = copy_paths.CopyPaths(str(folder))
        self._refuses_marked = refuses_marked
        self._store = store
        self._pool = local_pool.LocalPool(file_reads.OPERATIONS, chain_index.OPERATIONS)
        # There is no deadline in a LocalPool.
        permissions = layer_permissions.Permissions(self._layout, self._pool, deadline=0)
        self._rules = layer_rules.Rules(self._layout, conditions, permissions)
        self._identified_until = 0.0

    @property
    def verified(self) -> verification.Verification | None:
        """See answers.Lookup, as for the other methods."""
        return self._store.verified

    def path(self, diff_id: str) -> pathlib.Path:
        """The file of a layer in the store. Where there is a copy, that is mounted instead."""
        return self._store.path(diff_id)

    def is_out_of_reach(self, diff_ids: Iterable[str]) -> bool:
        """Whether any of these layers has no copy, while a failed store is not asked."""
        left = (each for each in diff_ids if not self._layout.layer(each).exists())
        return self._store.is_out_of_reach(left)

    def pause_after(self, error: Exception) -> None:
        """Do not ask the store for a while."""
        self._store.pause_after(error)

    async def find(
        self, chain_id: str, requester: layer_permissions.Requester, *, whole: bool
    ) -> answers.Hit | answers.Miss:
        """Look a chain ID up here, then in the store. Raises nothing."""
        try:
            if (hit := await self._find_here(chain_id, requester, whole=whole)) is not None:
                return hit
        except (errors.AgentError, OSError) as error:
            logger.info(
                "not served by the node's own records",
                extra={"chain_id": chain_id, "reason": str(error)},
            )
        answer = await self._store.find(chain_id, requester, whole=whole)
        if isinstance(answer, answers.Hit) and self._has_marked(answer):
            return answers.Miss("corrupt_layer", mounted=True)
        return answer

    async def _find_here(
        self, chain_id: str, requester: layer_permissions.Requester, *, whole: bool
    ) -> answers.Hit | None:
        """Look a chain ID up among the node's copies; None where something of it is missing."""
        name = digests.hex_of(chain_id)
        rows = await self._call("find_chains", str(self._layout.root), name, _MOST if whole else 1)
        if rows is None or not await self._is_identified():
            return None
        layers = []
        for row_name, chain_data, layer_data, size in rows:
            row_id = f"sha256:{row_name}"
            chain, record = self._rules.records_of(row_id, chain_data, layer_data, size)
            if await self._rules.refusal(chain, record, requester) is not None:
                return None
            path, tree = self.path(chain.diff_id), self._rules.tree(record)
            layers.append(answers.Layer(row_id, chain.diff_id, path, size, tree=tree))
        return answers.Hit(tuple(layers))

    async def _is_identified(self) -> bool:
        """Whether the copied records belong to a store that this node may serve."""
        now = asyncio.get_running_loop().time()
        if now < self._identified_until:
            return True
        data = await self._call("read", str(self._layout.store_record), file_reads.RECORD_LIMIT)
        if self._rules.obstacle(data) is not None:
            return False
        self._identified_until = now + _IDENTIFIED_SECONDS
        return True

    async def confirm(self, layers: Sequence[answers.Layer]) -> answers.Miss | None:
        """Look again whether the store has chains."""
        return await self._store.confirm(layers)

    async def damaged(self, diff_ids: Sequence[str]) -> Mapping[str, str] | None:
        """Which layers the store calls damaged."""
        return await self._store.damaged(diff_ids)

    async def tree(self, diff_id: str, size: int) -> device_mapper.Tree | None:
        """The hash tree that a layer is verified by; that of a copy is in the node's own record."""
        if self.verified is None:
            return None
        if self._layout.layer(diff_id).exists():
            try:
                path = str(self._layout.layer_record(diff_id))
                data = await self._call("read", path, file_reads.LOOKUP_LIMIT)
                return self._rules.tree_of(data, diff_id, size)
            except (OSError, records.RecordError) as error:
                logger.info("no local record", extra={"layer": diff_id, "reason": str(error)})
        return await self._store.tree(diff_id, size)

    def _has_marked(self, hit: answers.Hit) -> bool:
        """Whether the agent has recently read wrong bytes of one of the layers from the store."""
        return any(self._is_marked(layer.diff_id) for layer in hit.layers)

    def _is_marked(self, diff_id: str) -> bool:
        if not self._refuses_marked or self._layout.layer(diff_id).exists():
            return False
        try:
            marked = os.stat(self._marks.mark(digests.hex_of(diff_id))).st_mtime
        except OSError:
            return False
        return abs(time.time() - marked) < disk.MARKED_SECONDS

    async def _call(self, operation: str, *arguments: Any) -> Any:
        return await self._pool.call(operation, *arguments, deadline=0)
