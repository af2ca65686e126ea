"""Which nodes a deletion waits for, and which of them hold what: pure functions.

A node counts from the moment at which it has the annotation; the agent writes it before it
serves anything. It still counts for a grace period after it is gone, since pods of a node that
was removed from the API server may still run.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from agent.model import keys, records, reports

_SHOWN = 5
_REFRESH = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster as it is now; `acknowledged` is None where no agent has reported.

    `held` are the entries of its annotation.
    """

    name: str
    acknowledged: int | None
    held: tuple[str, ...] = ()


def node_of(name: str, annotations: Mapping[str, str]) -> Node:
    """Read a node's annotations. A value that is no number acknowledges nothing."""
    text = annotations.get(keys.GENERATION)
    if text is None:
        return Node(name, None)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    try:
        held = msgspec.json.decode(annotations.get(keys.HELD, "[]"), type=tuple[str, ...])
    except msgspec.DecodeError:
        # A hint only: nothing is deleted sooner for it.
        held = ()
    return Node(name, number, held)


def merge(
    before: Mapping[str, records.KnownNode], nodes: Iterable[Node], *, now: float, grace: float
) -> dict[str, records.KnownNode]:
    """The nodes to wait for: those that report now, and those absent for up to `grace` seconds.

    When a node was seen is refreshed only now and then, so that the roster seldom changes.
    """
    merged = {}
    for name, last in before.items():
        # Grace begins when the absence is noticed: the controller may have been away itself.
        since = now if last.absent is None else last.absent
        if now - since <= grace:
            merged[name] = msgspec.structs.replace(last, absent=since)
    for node in nodes:
        if node.acknowledged is None:
            continue
        known = before.get(node.name)
        fresh = known is not None and 0 <= now - known.seen <= grace * _REFRESH
        seen = known.seen if known is not None and fresh else now
        merged[node.name] = records.KnownNode(acknowledged=node.acknowledged, seen=seen)
    return merged


def floor(nodes: Iterable[records.KnownNode], newest: int) -> float:
    """The generation that all have acknowledged; `newest` where there are no nodes.

    A node that acknowledges a generation which does not exist yet reports of another store, or
    of this one before it was restored from a backup.
    """
    acknowledged = [known.acknowledged if known.acknowledged <= newest else 0 for known in nodes]
    return min(acknowledged, default=newest)


def held_layers(nodes: Iterable[Node]) -> set[str]:
    """The layers that nodes report to hold, by their tags (by diff ID from earlier versions)."""
    return {entry.layer for node in nodes for entry in entries_of(node)}


def holders(nodes: Iterable[Node], cache_id: str) -> list[str]:
    """The holders of a deleted cache's layers: `2 pods on node`, each node's once, in order.

    Agents of earlier versions name the pods: `pod ns/name on node`.
    """
    names = set()
    for node in nodes:
        of_cache = [entry for entry in entries_of(node) if entry.cache == cache_id]
        if pods := len({entry.holder for entry in of_cache if entry.is_pod}):
            names.add(f"{pods} pod{'s' if pods > 1 else ''} on {node.name}")
        for who in (entry.holder for entry in of_cache if not entry.is_pod):
            what = f"pod {who}" if "/" in who and " " not in who else who
            names.add(f"{what} on {node.name}")
    return sorted(names)


def entries_of(node: Node) -> list[reports.Held]:
    """What a node reports to hold; what is no such entry is left out."""
    decoded = (reports.decode_held(text) for text in node.held)
    return [entry for entry in decoded if entry is not None]


def waiting_sentence(cache_id: str, who: Sequence[str], silent: Sequence[str]) -> str:
    """The message to the person who deleted a cache; "" where it waits for nothing."""
    if who:
        return (
            f"Cache {cache_id} is deleted; its layers stay until they are released:"
            f" they are held by {_some(who)}."
        )
    if silent:
        return (
            f"Cache {cache_id} is deleted; its layers stay until every node reports that it holds"
            f" none of them: waiting for {_some(silent)}."
        )
    return ""


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
