"""Free what no cache names, at once: for a store that no node reads at the moment.

The collector's own rounds (agent.store.gc.collection), which wait for builders only: the
person who runs this knows that no node reads the store.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

from agent import errors
from agent.store import layout
from agent.store.gc import collection, generations


class NodesReadStore(errors.PermanentError):
    """A controller deletes from this store, and waits for its nodes. `nodes` are their names."""

    def __init__(self, nodes: Sequence[str]) -> None:
        some = ", ".join(nodes[:3]) + (", ..." if len(nodes) > 3 else "")
        super().__init__(
            f"{len(nodes)} nodes of a cluster read this store ({some}): its controller frees what"
            " they have let go. If that cluster is no more, remove meta/nodes.json"
        )
        self.nodes = tuple(nodes)


@dataclasses.dataclass(frozen=True, slots=True)
class Pruned:
    """How many layers went, and the bytes that they had."""

    layers: int
    freed: int


def prune(
    place: layout.Layout,
    *,
    min_age: float,
    settle: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Pruned:
    """Delete what is not wanted and was left alone for `min_age` seconds.

    `settle` are the seconds after which builders on other machines surely see what is
    announced, and are seen: none where the file system is local.

    Raises NodesReadStore, CollectorBusy and CollectionRefused.
    """
    if known := sorted(generations.nodes(place)):
        raise NodesReadStore(known)
    layers = freed = 0
    settled: tuple[str, ...] = ()
    while True:
        orders = collection.Orders(settled=settled, floor=math.inf, min_age=min_age)
        outcome = collection.collect(place, orders)
        layers += outcome.layers
        freed += outcome.freed
        if not (outcome.announced or outcome.waiting or outcome.planned):
            return Pruned(layers, freed)
        settled = outcome.announced
        if settle and settled:
            sleep(settle)
