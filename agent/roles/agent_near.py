"""The parts of the node agent that make starts quick, and a node independent of the store."""

import contextlib
import dataclasses
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from agent.kits import units
from agent.kits.processes import workers
from agent.model import images
from agent.node.health import node_root
from agent.node.images import provide, register
from agent.node.near import copies, copy_records, layer_copy, near_catalog, record_mirror, starts
from agent.node.pods import served_pods
from agent.node.starts import expected_starts, profile_book, read_ahead, start_watch
from agent.settings import agent_settings
from agent.store import trusted_keys
from agent.store.lookup import catalog

_OF_STARTS = "agent.node.starts.start_files"


class Node(start_watch.Node, Protocol):
    """This node, as the agent knows it."""

    @property
    def platform(self) -> images.Platform:
        """What its images are made for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ahead:
    """What is done ahead of starts, of which pods are served through `expected`."""

    expected: expected_starts.ExpectedStarts
    reading: read_ahead.ReadAhead

    def services(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """For run_services."""
        return {"starts": self.expected.run(), "read ahead": self.reading.run()}


async def ahead(
    wanted: agent_settings.Agent,
    store: catalog.Catalog,
    node: Node,
    sink: expected_starts.Sink,
    stack: contextlib.AsyncExitStack,
) -> Ahead | None:
    """What observes starts and reads ahead, each by a worker; None where the settings want none."""
    if wanted.start_profiles == "off" or wanted.drain:
        return None
    for_reading, for_looks = [
        await stack.enter_async_context(
            workers.Pool(_OF_STARTS, name=name, size=1, max_stuck=2, kept=0)
        )
        for name in ("reading ahead", "the observation of starts")
    ]
    book = profile_book.Book(store, node)
    aims = read_ahead.Settings(
        store=str(wanted.store),
        limit=wanted.read_ahead_bytes,
        requests=wanted.read_ahead_requests,
    )
    reading = read_ahead.ReadAhead(for_reading, node, aims)
    watch = start_watch.StartWatch(for_looks, node, str(wanted.store))
    expected = expected_starts.ExpectedStarts(book, reading, watch, sink, platform=node.platform)
    return Ahead(expected, reading)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """What serves images while the store is away.

    A node that keeps nothing of its own has no `records` and no `mirror`.
    """

    blobs: register.Blobs
    records: near_catalog.NearCatalog | None = None
    mirror: record_mirror.RecordMirror | None = None

    def noting(self, ledger: provide.Ledger) -> provide.Ledger:
        """A ledger that also notes what is made ready here, for its records to be mirrored."""
        return ledger if self.mirror is None else record_mirror.NotedImages(ledger, self.mirror)

    def services(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """For run_services."""
        return {} if self.mirror is None else {"mirror": self.mirror.run()}


def away(
    wanted: agent_settings.Agent,
    store: catalog.Catalog,
    node: node_root.Rooted,
    platform: images.Platform,
    trust: tuple[trusted_keys.Keys, catalog.Membership],
) -> Away:
    """The parts of one node."""
    if wanted.local == "off" or wanted.drain:
        return Away(blobs=store)
    records = near_catalog.NearCatalog(node, platform, *trust)
    return Away(
        blobs=near_catalog.Blobs(store, records),
        records=records,
        mirror=record_mirror.RecordMirror(store, node, platform, interval=wanted.retired_seconds),
    )


async def keeper(
    wanted: agent_settings.Agent,
    node: node_root.Rooted,
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
