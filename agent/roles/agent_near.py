"""The parts of the node agent that make a node independent of the store."""

import contextlib
from collections.abc import Sequence

from agent import settings
from agent.kits import units
from agent.kits.processes import workers
from agent.node.near import copies, copy_records, layer_copy, starts
from agent.node.pods import served_pods
from agent.store.lookup import catalog


async def keeper(
    wanted: settings.Agent,
    node: copies.Node,
    store: catalog.Catalog,
    served: served_pods.ServedPods,
    wishes: Sequence[starts.Wishes],
    stack: contextlib.AsyncExitStack,
) -> copies.Keeper | None:
    """What keeps local copies; None where the settings want none. `wishes` beside the pods'."""
    if wanted.local == "off" or wanted.drain:
        return None
    # One thing is copied at a time, and an idle node has no worker for it.
    pool = await stack.enter_async_context(
        workers.Pool("agent.local.copy_worker", name="the local copies", size=1, kept=0)
    )
    rate = units.quantity(wanted.local_rate)
    return copies.Keeper(
        node,
        pool,
        layer_copy.Copier(pool, store.layout, rate=rate),
        copy_records.Records(store, pool),
        starts.Needs(starts.Starts(served), (starts.PodWishes(served, wanted.local), *wishes)),
        copies.Limits(mode=wanted.local, taken=wanted.local_bytes, free=wanted.local_free),
    )
