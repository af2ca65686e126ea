"""The collector: one round over a store, from what is not wanted to files that are gone.

Each step can be cut off at any point; the next round goes on from what is there. The
protocol and why no node, no Ready cache and no build loses a file by it are in
docs/internals/store.md.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Collection

import msgspec

from agent.kits import files
from agent.model import records
from agent.store import layout
from agent.store.gc import changes, generations, plans, reachability, removal
from agent.store.publish import build_claims

SETTLE_SECONDS = 180.0
"""After this, every machine has seen what was announced, and what it had written before is seen.

Three times what an NFS client may take a folder's or file's attributes for current (acdirmax,
acregmax: 60 s): once for the builder's look, once for the collector's, and once to spare.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a round may do.

    `settled`: tokens of decisions that were announced so long ago that every builder
    knows of them. `floor`: the generation that every node has acknowledged. `held`:
    layers (diff IDs) that nodes say they hold; only a hint. `min_age`: seconds for
    which a file must have been left alone. `seen`: what an earlier round saw (its
    Outcome.seen): where that is all as it was, and nothing is due, the store is not
    gone through again.
    """

    settled: Collection[str] = ()
    floor: float = 0
    held: Collection[str] = ()
    min_age: float = 0.0
    seen: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a round did and left: `announced` are the tokens of decisions not taken yet,
    `waiting` the generations that nodes have not let go of, `complete` False where
    there is more to plan. `layers` were deleted, `freed` bytes. `seen` stands for what
    it saw, "" where that does not hold for long; `unchanged`: it went through nothing.
    """

    announced: tuple[str, ...] = ()
    waiting: tuple[int, ...] = ()
    newest: int = 0
    planned: int = 0
    complete: bool = True
    layers: int = 0
    freed: int = 0
    seen: str = ""
    unchanged: bool = False


@dataclasses.dataclass(slots=True)
class _Tally:
    layers: int = 0
    freed: int = 0


def collect(place: layout.Layout, orders: Orders) -> Outcome:
    """Do one round. Raises CollectorBusy, CollectionRefused, and OSError of the store."""
    with generations.locked(place):
        return collect_locked(place, orders)


def collect_locked(place: layout.Layout, orders: Orders) -> Outcome:
    """The same, for a caller that holds the collector's lock (generations.locked)."""
    tally = _Tally()
    _resume(place, tally)
    claims = list(build_claims.standing(place))
    wishes = changes.wishes(place, claims, orders.held)
    deletions = generations.outstanding(place)
    unchanged = orders.seen == changes.seen(wishes, deletions) and not _is_due(deletions, orders)
    planned, complete = 0, True
    if unchanged:
        _doom(place, orders)
    else:
        planned, complete = _go_through(place, claims, orders, tally)
    deletions = generations.outstanding(place)
    return Outcome(
        announced=(*deletions.pending, *deletions.doomed.values()),
        waiting=tuple(deletions.phases),
        newest=generations.newest(place),
        planned=planned,
        complete=complete,
        layers=tally.layers,
        freed=tally.freed,
        seen=changes.seen(wishes, deletions) if complete else "",
        unchanged=unchanged,
    )


def _go_through(
    place: layout.Layout, claims: Collection[records.ClaimRecord], orders: Orders, tally: _Tally
) -> tuple[int, bool]:
    """Go a step on with all deletions, and plan more: (layers planned, whether that is all)."""
    with tempfile.TemporaryDirectory(prefix="uimgacc-collector-") as folder:
        scratch = pathlib.Path(folder)
        marks = reachability.mark(place, claims, scratch)
        hidden = _decide(place, marks, orders, tally)
        _doom(place, orders)
        deletions = generations.outstanding(place)
        listed = plans.Listed(place, deletions, scratch, hidden=hidden)
        plans.lift(place, deletions, listed, orders.held)
        planned, complete = plans.plan(place, marks, listed, min_age=orders.min_age)
        if complete:
            _forget(place, marks)
        return planned, complete


def _is_due(deletions: generations.Outstanding, orders: Orders) -> bool:
    """Whether something can be decided."""
    return not {*deletions.pending, *deletions.doomed.values()}.isdisjoint(orders.settled)


def _doom(place: layout.Layout, orders: Orders) -> None:
    """Announce that the files of what all nodes have let go are about to go."""
    for number in _in_phase(generations.outstanding(place), generations.Phase.RETIRED):
        if number <= orders.floor:
            generations.doom(place, number)


def _resume(place: layout.Layout, tally: _Tally) -> None:
    """End what was decided by a round that was cut off."""
    deletions = generations.outstanding(place)
    for path in deletions.leftovers:
        generations.remove(path)
    _hide(place, _in_phase(deletions, generations.Phase.HIDING))
    for number in _in_phase(deletions, generations.Phase.DELETING):
        _delete(place, number, tally)


def _in_phase(deletions: generations.Outstanding, phase: generations.Phase) -> list[int]:
    return [number for number, reached in deletions.phases.items() if reached is phase]


def _decide(
    place: layout.Layout, marks: reachability.Marks, orders: Orders, tally: _Tally
) -> Collection[int]:
    """Decide what is settled, now that it is known what is wanted: the new generations."""
    deletions = generations.outstanding(place)
    decided = [
        _retire(place, token, marks) for token in deletions.pending if token in orders.settled
    ]
    hidden = [number for number in decided if number]
    _hide(place, hidden)
    for number, phase in deletions.phases.items():
        if phase is generations.Phase.RETIRED:
            _give_back(place, number, marks)
        elif phase is generations.Phase.DOOMED and deletions.doomed[number] in orders.settled:
            _finish(place, number, deletions.doomed[number], marks, tally=tally)
    return hidden


def _retire(place: layout.Layout, token: str, marks: reachability.Marks) -> int:
    """Make a plan a generation, without what is wanted by now; its number, 0 where none is made."""
    pending = generations.marker(place, token, "pending")
    plan = generations.planned(place, token)
    if plan is None:
        return 0
    record = _still_unwanted(place, plan, marks)
    if not (record.layers or record.images or record.blobs):
        generations.remove(pending)
        return 0
    deletions = generations.outstanding(place)
    number = max(generations.newest(place), *deletions.phases, 0) + 1
    record = msgspec.structs.replace(record, generation=number)
    final = generations.marker(place, number, "list")
    files.write(final, records.encode(record), tmp=place.tmp)
    if generations.move(pending, generations.marker(place, number, "hiding")):
        return number
    generations.remove(final)
    return 0


def _still_unwanted(
    place: layout.Layout, plan: records.RetiredRecord, marks: reachability.Marks
) -> records.RetiredRecord:
    """A plan without what is wanted; with all chains that any list knows of its layers."""
    known: dict[str, set[str]] = {}
    for number in plan.earlier:
        before = generations.content(place, number)
        for layer in before.layers if before is not None else ():
            known.setdefault(layer.diff_id, set()).update(layer.chains)
    layers = [
        records.RetiredLayer(
            diff_id=layer.diff_id,
            chains=sorted({*layer.chains, *present, *known.get(layer.diff_id, ())}),
        )
        for layer, wanted, present in reachability.marked(plan.layers, marks)
        if not wanted
    ]
    blobs = [
        blob
        for bucket, group in reachability.by_bucket(plan.blobs).items()
        for wanted_here in [marks.wanted_in(bucket)]
        for blob in group
        if reachability.raw(blob) not in wanted_here
    ]
    unwanted = [
        ref
        for ref in plan.images
        if str(reachability.image_places(place, ref)[0]) not in marks.wanted_images
    ]
    return msgspec.structs.replace(plan, layers=layers, images=unwanted, blobs=blobs)


def _hide(place: layout.Layout, numbers: Collection[int]) -> None:
    """Take images, chains and blobs out of the store, then publish that to the nodes.

    All generations together: what costs time is to make it durable, folder by folder.
    """
    folders: set[str] = set()
    for number in numbers:
        folders |= removal.hide(place, _decided(place, number))
    # Also where nothing was left to remove: the round that did may have ended before this.
    removal.sync(folders)
    for number in sorted(numbers):
        _publish(place, _decided(place, number))


def _decided(place: layout.Layout, number: int) -> records.RetiredRecord:
    record = generations.decided(place, number)
    if record is None:
        hiding = generations.marker(place, number, "hiding")
        raise generations.CollectionRefused(str(hiding), "its list is missing")
    return record


def _publish(place: layout.Layout, record: records.RetiredRecord) -> None:
    """Publish to the nodes what is hidden; other generations do not name it any more."""
    number = record.generation
    if record.layers:
        generations.replace(place, record)
        generations.publish_newest(place, number)
    gone = {layer.diff_id for layer in record.layers}
    for before in record.earlier:
        _take_out(place, before, gone)
    for cache in record.caches:
        generations.remove(place.deleted_caches / f"{cache}.json")
    hiding = generations.marker(place, number, "hiding")
    generations.remove(hiding)
    files.sync_folder(hiding.parent)
    generations.remove(generations.marker(place, number, "list"))


def _take_out(place: layout.Layout, number: int, gone: Collection[str]) -> None:
    record = generations.content(place, number)
    if record is not None:
        left = [layer for layer in record.layers if layer.diff_id not in gone]
        if len(left) < len(record.layers):
            generations.replace(place, msgspec.structs.replace(record, layers=left))


def _give_back(place: layout.Layout, number: int, marks: reachability.Marks) -> None:
    """Take off a list what a cache or build has taken up again.

    Only where all its chains are back: otherwise a chain would be forgotten by which a
    node may still hold the layer.
    """
    record = generations.content(place, number)
    back = {
        layer.diff_id
        for layer, wanted, _ in reachability.marked(record.layers if record else (), marks)
        if wanted and all(place.chain_record(chain).exists() for chain in layer.chains)
    }
    if back:
        _take_out(place, number, back)


def _finish(
    place: layout.Layout,
    number: int,
    token: str,
    marks: reachability.Marks,
    *,
    tally: _Tally,
) -> None:
    """Delete a generation that no node holds, without what is in use again."""
    record = generations.content(place, number)
    # A chain that is there again may have been mounted again: such a
    # layer is planned anew, with all its chains.
    back = {
        layer.diff_id
        for layer, wanted, present in reachability.marked(record.layers if record else (), marks)
        if wanted or present
    }
    if back:
        _take_out(place, number, back)
    doomed = generations.marker(place, token, "doomed")
    if generations.move(doomed, generations.marker(place, number, "deleting")):
        _delete(place, number, tally)


def _delete(place: layout.Layout, number: int, tally: _Tally) -> None:
    """Remove the files of a generation, then all that is known of it."""
    deleting = generations.marker(place, number, "deleting")
    record = generations.content(place, number)
    if record is not None:
        gone = removal.delete(place, record)
        tally.layers += gone.layers
        tally.freed += gone.freed
    generations.remove(place.retired_record(number))
    files.sync_folder(deleting.parent)
    generations.remove(deleting)


def _forget(place: layout.Layout, marks: reachability.Marks) -> None:
    """Drop the records of deleted caches of whose layers none waits for anything."""
    deletions = generations.outstanding(place)
    planned = {
        cache
        for token in deletions.pending
        for record in [generations.planned(place, token)]
        for cache in (record.caches if record is not None else ())
    }
    for cache in set(marks.deleted_caches) - planned:
        generations.remove(place.deleted_caches / f"{cache}.json")
