"""What the collector does in the store, as an operation for agent.kits.processes.workers.

It runs in a child process that can be killed, so a hanging server does not block the controller.
The next round continues one that was cut off.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agent.control.gc import roster
from agent.kits import files
from agent.model import records
from agent.store import decoding, layout
from agent.store.gc import collection, generations
from agent.store.index import index_files
from agent.store.publish import ownership

REFUSED = "refused"
BUSY = "busy"
DONE = "done"


def collect(
    root: str,
    nodes: Sequence[tuple[str, int]],
    orders: Mapping[str, Any],
    times: Mapping[str, float],
) -> tuple[str, Any]:
    """Do one round: ("done", outcome and nodes), ("busy", text) or ("refused", text).

    `nodes` are those that report at the moment, with what they acknowledge; `orders` has
    `settled`, `held` and `seen` (agent.store.gc.collection.Orders), the `cluster` that the store
    must belong to, and whether the `index` of caches is gone through; `times` has `now` (seconds
    since 1970) and the `grace` of silent ones.
    """
    place = layout.Layout(pathlib.Path(root))
    try:
        # `store release`, and another cluster's claim, take the same lock: the store cannot change
        # hands between the look at its owner and the end of the round.
        with generations.locked(place):
            ownership.verify(place, orders["cluster"])
            known = _keep_roster(place, nodes, times)
            wanted = collection.Orders(
                settled=frozenset(orders["settled"]),
                floor=roster.floor(known.values(), generations.newest(place)),
                held=frozenset(orders["held"]),
                seen=orders["seen"],
            )
            outcome = collection.collect_locked(place, wanted)
            if orders["index"] or not index_files.is_complete(place):
                index_files.complete(place)
    except generations.CollectorBusy as error:
        return BUSY, str(error)
    except (generations.CollectionRefused, decoding.ForeignStore) as error:
        return REFUSED, str(error)
    return DONE, {
        **dataclasses.asdict(outcome),
        "nodes": {name: node.acknowledged for name, node in known.items()},
    }


def _keep_roster(
    place: layout.Layout, nodes: Sequence[tuple[str, int]], times: Mapping[str, float]
) -> Mapping[str, records.KnownNode]:
    """Merge the present nodes into the roster, and write it before anything else is done."""
    before = generations.nodes(place)
    seen = [roster.Node(name, acknowledged) for name, acknowledged in nodes]
    known = roster.merge(before, seen, now=times["now"], grace=times["grace"])
    if known != before:
        data = msgspec.json.encode(records.NodesRecord(nodes=known))
        files.write(place.nodes_record, data, tmp=place.tmp)
    return known


OPERATIONS = {"collect": collect}
