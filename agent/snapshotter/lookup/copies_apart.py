"""Mounts of this node's own copies, apart from all calls that a store which hangs can hold up."""

import os
from typing import Any

from agent.kits.processes import workers
from agent.mounts.devices import layer_files


class CopiesApart:
    """A pool to its callers; `own` runs the mounts of layers that have a copy, `pool` the rest."""

    def __init__(self, pool: workers.Pool, own: workers.Pool) -> None:
        self._pool = pool
        self._own = own

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        """As the pool's."""
        is_of_copy = operation == "mount_layer" and _has_copy(*arguments[:2])
        pool = self._own if is_of_copy else self._pool
        return await pool.call(operation, *arguments, deadline=deadline)


def _has_copy(source: str, target: str) -> bool:
    """Whether there is a copy of a layer, by its file in the store and its mountpoint."""
    return os.path.exists(layer_files.copy_of(target, os.path.basename(source)))
