"""Random histories of caches, builds, nodes and collectors over one store.

Everything but the nodes is the product's own code on a real folder. In the middle of a
collector's round, between any two of its changes, it may be killed, or a build or a
node may go a step on. What must hold after every step: no file is gone that a node
may read, and no Ready cache lacks one. In the end nothing is left but what caches want.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.control.gc import roster
from agent.kits import files, parallel
from agent.model import digests, images, records
from agent.store import decoding, layout
from agent.store.gc import collection, generations
from agent.store.lookup import direct_reader
from agent.store.publish import build_claims, writer
from tests.unit.store import making

STACKS = [("a",), ("a", "b"), ("b",), ("a", "c"), ("c", "b"), ("d", "a", "b")]
REFS = ["r.io/x:1", "r.io/y:1", "r.io/z:1"]
CACHES = ["imc-one", "imc-two", "imc-three"]
GRACE = 1000.0
SOAK = "UIMGACC_HISTORIES" in os.environ
"""Somebody asks for more: a soak is for finding, CI for keeping."""


@pytest.fixture(autouse=True)
def threads(monkeypatch) -> None:
    """One thread gives the same history each time."""
    monkeypatch.setattr(parallel, "WIDTH", 4 if SOAK else 1)


class Killed(BaseException):
    """The end of a collector, in the middle of something."""


@dataclasses.dataclass
class Node:
    """One node: chains that it serves, layers that it has mounted, what it acknowledged.

    `holds` are chains with the layer file and its inode, confirmed after the mount;
    `fresh` those that are mounted and not yet confirmed. `said` is what stands on its
    object, None where it has none.
    """

    name: str
    holds: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    fresh: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    looked_up: dict[str, str] = dataclasses.field(default_factory=dict)
    acknowledged: int = 0
    seen: int | None = None
    said: int | None = 0
    held: tuple[str, ...] = ()
    in_cluster: bool = True

    def look_up(self, place: layout.Layout, chain_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            data = place.chain_record(chain_id).read_bytes()
            self.looked_up[chain_id] = decoding.chain(data, chain_id).diff_id

    def mount(self, place: layout.Layout) -> None:
        for chain_id, diff_id in self.looked_up.items():
            with contextlib.suppress(FileNotFoundError):
                place.layer_record(diff_id).stat()
                self.fresh[chain_id] = diff_id, place.layer(diff_id).stat().st_ino
        self.looked_up.clear()

    def confirm(self, place: layout.Layout) -> None:
        for chain_id, mounted in self.fresh.items():
            if place.chain_record(chain_id).exists():
                self.holds[chain_id] = mounted
        self.fresh.clear()

    def read_generation(self, place: layout.Layout) -> None:
        self.seen = generations.newest(place)

    def look(self, place: layout.Layout) -> None:
        """As agent.node.images.retirement: prove what the generation that was read allows."""
        if self.seen is None:
            return
        here = {**self.holds, **self.fresh}
        mounted = {diff_id for diff_id, _ in here.values()}
        proven, left = self.acknowledged, list[str]()
        for number in range(proven + 1, self.seen + 1):
            record = generations.content(place, number)
            for layer in record.layers if record is not None else ():
                if layer.diff_id in mounted or any(chain in here for chain in layer.chains):
                    left.append(f"-/{layer.diff_id}: ns/pod")
            if not left:
                proven = number
        self.acknowledged, self.held, self.seen = proven, tuple(left), None

    def speak(self) -> None:
        self.said = self.acknowledged


class Histories(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=making.MEMORY))
        self.place = making.store(self.folder / "store")
        self.nodes = [Node(name) for name in ("n1", "n2", "n3")]
        self.builds: list[Iterator[None]] = []
        self.alive: set[build_claims.Claim] = set()
        self.known: dict[str, records.KnownNode] = {}
        self.announced: tuple[str, ...] = ()
        self.seen = ""
        self.now = 0.0
        for cache_id, ref, names in zip(CACHES, REFS, STACKS[1:], strict=False):
            for _ in self.build(cache_id, ref, names):
                pass
        self.let_dead_claims_expire()

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            self.settle_down()
        finally:
            for claim in self.alive:
                claim.__exit__()
            shutil.rmtree(self.folder)

    # Builds.

    def build(self, cache_id: str, ref: str, names: tuple[str, ...]) -> Iterator[None]:
        """A build, one change at a time."""
        place = self.place
        claim = build_claims.Claim(place, cache_id, heartbeat=1e9).__enter__()
        self.alive.add(claim)
        yield
        diff_ids = [making.digest(name) for name in names]
        chain = digests.chain_ids(diff_ids)
        blobs = [digests.sha256(data) for data in making.blobs(ref)]
        while claim.add([*diff_ids, *chain, *blobs], [ref]) is not None:
            yield
        made = []
        for name, diff_id in zip(names, diff_ids, strict=True):
            found = direct_reader.Reader(place).layer(diff_id)
            yield
            made.append(found or making.layer(place, name))
        for parent, chain_id, diff_id in zip([None, *chain], chain, diff_ids, strict=False):
            record = records.ChainRecord(diff_id=diff_id, parent=parent)
            writer.publish_chain(place, chain_id, record)
            yield
        for data in making.blobs(ref):
            writer.publish_blob(place, data)
            yield
        image = making.image_record(ref, made)
        writer.publish_image(place, image)
        yield
        claim.check()
        making.cache(place, cache_id, image)
        yield
        claim.finish()
        claim.__exit__()
        self.alive.discard(claim)

    @precondition(lambda self: len(self.builds) < 3)
    @rule(
        cache_id=st.sampled_from(CACHES), ref=st.sampled_from(REFS), names=st.sampled_from(STACKS)
    )
    def start_build(self, cache_id: str, ref: str, names: tuple[str, ...]) -> None:
        build = self.build(cache_id, ref, names)
        next(build)
        self.builds.append(build)

    @precondition(lambda self: self.builds)
    @rule(which=st.integers(0, 2), steps=st.integers(1, 20))
    def go_on_building(self, which: int, steps: int) -> None:
        build = self.builds[which % len(self.builds)]
        for _ in range(steps):
            if next(build, build) is build:
                self.builds.remove(build)
                return

    @precondition(lambda self: self.builds)
    @rule(which=st.integers(0, 2))
    def kill_build(self, which: int) -> None:
        build = self.builds.pop(which % len(self.builds))
        claim = build.gi_frame.f_locals.get("claim") if build.gi_frame else None
        build.close()
        if claim is not None:
            claim.__exit__()
            self.alive.discard(claim)

    @rule()
    def let_dead_claims_expire(self) -> None:
        """An hour passes. The controller has a round go through everything at least that often."""
        self.seen = ""
        living = {claim._path for claim in self.alive}
        for path in self.place.claims.glob("*.json"):
            if path not in living:
                os.utime(path, (0, 0))

    @rule(which=st.integers(0, 2), names=st.sampled_from(STACKS))
    def create_at_once(self, which: int, names: tuple[str, ...]) -> None:
        for _ in self.build(CACHES[which], REFS[which], names):
            if generations.outstanding(self.place).phases:
                self.round(0, lambda: None)  # It may have to wait for one.

    @rule(cache_ids=st.sets(st.sampled_from(CACHES), min_size=1), times=st.integers(0, 8))
    def delete_caches(self, cache_ids: set[str], times: int) -> None:
        """Delete some, and let the collector and the agents come some way with that."""
        for cache_id in sorted(cache_ids):
            with contextlib.suppress(writer.NoSuchCache):
                writer.delete_cache(self.place, cache_id)
        self.let_dead_claims_expire()
        for _ in range(times):
            self.time_passes(0, idle=True, times=1)

    # Nodes.

    @rule(which=st.integers(0, 2), names=st.sampled_from(STACKS), step=st.integers(1, 3))
    def use(self, which: int, names: tuple[str, ...], step: int) -> None:
        node = self.nodes[which]
        for chain_id in digests.chain_ids(making.digest(name) for name in names):
            node.look_up(self.place, chain_id)
        if step > 1:
            node.mount(self.place)
        if step > 2:
            node.confirm(self.place)

    @rule(which=st.integers(0, 2), number=st.integers(0, 2))
    def run_a_pod(self, which: int, number: int) -> None:
        """Hold the whole image of a cache that is Ready. Pods come to nodes of the cluster only."""
        if not self.nodes[which].in_cluster:
            return
        cache = direct_reader.Reader(self.place).cache(CACHES[number])
        for diff_ids in [image.layers for image in cache.images] if cache is not None else ():
            for chain_id in digests.chain_ids(diff_ids):
                self.nodes[which].look_up(self.place, chain_id)
        self.nodes[which].mount(self.place)
        self.nodes[which].confirm(self.place)

    @rule(which=st.integers(0, 2), step=st.sampled_from(["mount", "confirm", "read", "look"]))
    def go_on(self, which: int, step: str) -> None:
        self.node_step(self.nodes[which], step)

    def node_step(self, node: Node, step: str) -> None:
        steps: dict[str, Callable[[layout.Layout], None]] = {
            "mount": node.mount,
            "confirm": node.confirm,
            "read": node.read_generation,
            "look": node.look,
        }
        steps[step](self.place)

    @rule(which=st.integers(0, 2))
    def release(self, which: int) -> None:
        self.nodes[which].holds.clear()

    @rule(which=st.integers(0, 2))
    def acknowledge(self, which: int) -> None:
        node = self.nodes[which]
        node.read_generation(self.place)
        node.look(self.place)
        node.speak()

    @rule(which=st.integers(0, 2))
    def acknowledge_late(self, which: int) -> None:
        self.nodes[which].speak()

    @rule(which=st.integers(0, 2))
    def vanish_from_the_cluster(self, which: int) -> None:
        """The API server has lost the node; its pods run on. Or it is back.

        The collector looks far more often than nodes come and go: it has seen each once.
        """
        node = self.nodes[which]
        if node.name in self.known:
            node.in_cluster = not node.in_cluster

    @rule(which=st.integers(0, 2), forget=st.booleans())
    def die_and_return(self, which: int, forget: bool) -> None:
        """A reboot: mounts are gone, snapshots are not. Or a new machine of that name."""
        node = self.nodes[which]
        node.fresh.clear()
        node.looked_up.clear()
        node.seen = None
        if forget:
            node.holds.clear()
            node.acknowledged = 0
            node.speak()
        else:
            node.acknowledged = node.said or 0

    # Collectors.

    @rule(
        at=st.integers(1, 16),
        what=st.sampled_from(["nothing", "kill", "build", "new build", "node"]),
        names=st.sampled_from(STACKS),
        which=st.integers(0, 2),
        step=st.sampled_from(["mount", "confirm", "read", "look"]),
        count=st.integers(1, 20),
    )
    def collect(
        self, at: int, what: str, names: tuple[str, ...], which: int, step: str, count: int
    ) -> None:
        def interrupt() -> None:
            if what == "kill":
                raise Killed
            if what == "new build" and len(self.builds) < 3:
                self.start_build(CACHES[which], REFS[which], names)
                self.go_on_building(len(self.builds) - 1, count)
            if what == "build" and self.builds:
                self.go_on_building(which, count)
            if what == "node":
                self.node_step(self.nodes[which], step)

        with contextlib.suppress(Killed):
            self.round(at, interrupt)

    @rule(which=st.integers(0, 2), idle=st.booleans(), times=st.integers(1, 5))
    def time_passes(self, which: int, idle: bool, times: int) -> None:
        """Nothing happens but rounds; also so that histories come to their later steps."""
        for _ in range(times):
            for number in range(3):
                if idle or number != which:
                    self.acknowledge(number)
            self.round(0, lambda: None)

    def round(self, at: int, interrupt: Callable[[], None]) -> None:
        there = [
            roster.Node(node.name, node.said, node.held) for node in self.nodes if node.in_cluster
        ]
        self.now += 1.0
        self.known = roster.merge(self.known, there, now=self.now, grace=GRACE)
        orders = collection.Orders(
            settled=self.announced,
            floor=roster.floor(self.known.values(), generations.newest(self.place)),
            held=roster.held_layers(there),
            seen=self.seen,
        )
        self.announced, self.seen = (), ""
        with interrupted(at, interrupt):
            outcome = collection.collect(self.place, orders)
        self.announced, self.seen = outcome.announced, outcome.seen

    # What must hold.

    @invariant()
    def no_node_loses_a_file(self) -> None:
        for node in getattr(self, "nodes", ()):
            for diff_id, inode in node.holds.values():
                assert self.place.layer(diff_id).stat().st_ino == inode

    @invariant()
    def no_cache_lacks_anything(self) -> None:
        if hasattr(self, "place"):
            for cache in direct_reader.Reader(self.place, on_damage=pytest.fail).caches():
                assert_complete(self.place, cache)

    def settle_down(self) -> None:
        """Everybody comes to an end: what no cache wants is gone, and the rest is whole."""
        while self.builds:
            self.go_on_building(0, 100)
            self.round(0, lambda: None)
        self.let_dead_claims_expire()
        for node in self.nodes:
            node.in_cluster = True
            node.holds.clear()
            node.fresh.clear()
            node.looked_up.clear()
        for _ in range(12):
            self.round(0, lambda: None)
            for which in range(3):
                self.acknowledge(which)
        self.no_cache_lacks_anything()
        assert wanted(self.place) == stored(self.place)
        outstanding = generations.outstanding(self.place)
        assert (outstanding.pending, outstanding.phases) == ((), {})


@contextlib.contextmanager
def interrupted(at: int, interrupt: Callable[[], None]) -> Iterator[None]:
    """Before the change number `at` of the store, do something else."""
    left = at
    inside = dead = False
    lock = threading.RLock()

    def happen() -> None:
        nonlocal inside, dead
        inside = True
        try:
            interrupt()
        except Killed:
            dead = True
            raise
        finally:
            inside = False

    def around(function: Callable) -> Callable:
        def changed(*arguments, **keywords):
            nonlocal left
            with lock:
                if dead:
                    raise Killed  # All threads of a process are.
                if not inside:
                    left -= 1
                    if left == 0:
                        happen()
                return function(*arguments, **keywords)

        return changed

    with contextlib.ExitStack() as stack:
        for owner, name in (
            (generations, "remove"),
            (generations, "move"),
            (generations, "doom"),
            (files, "write"),
            (files, "sync_folder"),
        ):
            replacement = around(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def assert_complete(place: layout.Layout, cache: records.CacheRecord) -> None:
    reader = direct_reader.Reader(
        place, on_damage=lambda name, reason: pytest.fail(f"{name}: {reason}")
    )
    for cached in cache.images:
        record = reader.image(images.parse_reference(cached.ref))
        assert record is not None
        for one in record.platforms:
            assert None not in [reader.blob(one.manifest), reader.blob(one.config)]
            for item in one.layers:
                chain = reader.chain(item.chain_id)
                assert chain is not None
                assert reader.layer(chain.diff_id) is not None


def wanted(place: layout.Layout) -> set[str]:
    """The layers that caches want."""
    found: set[str] = set()
    for cache in direct_reader.Reader(place).caches():
        for cached in cache.images:
            found |= set(cached.layers)
            record = direct_reader.Reader(place).image(images.parse_reference(cached.ref))
            assert record is not None
            found |= {item.diff_id for one in record.platforms for item in one.layers}
    return found


def stored(place: layout.Layout) -> set[str]:
    """The layers of which there is a file or a record."""
    found = {f"sha256:{path.stem}" for path in place.layer_files.glob("*/*")}
    return found | {f"sha256:{path.stem}" for path in place.layer_records.glob("*/*")}


TestHistories = pytest.mark.timeout(600)(Histories.TestCase)
TestHistories.settings = settings(
    max_examples=int(os.environ.get("UIMGACC_HISTORIES", "30")),
    stateful_step_count=50,
    deadline=None,
    derandomize=not SOAK,
    suppress_health_check=list(HealthCheck),
)
