"""Deciding by the caches that the index leads to: as by all caches."""

import asyncio
from collections.abc import Sequence

import hypothesis
import pytest

from agent import errors
from agent.matching import decisions
from agent.model import caches, images, keys, pods, records
from agent.node.pods import decide
from agent.store.index import cache_entries
from agent.store.lookup import catalog
from tests.unit.matching import making, test_properties

PLATFORM = images.parse_platform("linux/amd64")
NODE = decide.Node(platform=PLATFORM, every_runtime=True)


class Store:
    """Caches and images, with an index or without."""

    note = ""
    is_silent = False

    def __init__(
        self, views: Sequence[caches.Cache], stored: Sequence[records.ImageRecord], *, index: bool
    ) -> None:
        self.views, self.index = views, index
        self.images = {record.ref: record for record in stored}
        self.asked: list[cache_entries.Wanted] = []
        self.looked_up: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def caches_for(self, wanted: cache_entries.Wanted) -> catalog.CachesFound:
        self.asked.append(wanted)
        await self.gate.wait()
        every = {view.id: view.record for view in self.views}
        if not self.index:
            return catalog.CachesFound(list(every.values()), are_all=True)
        there: dict[str, set[str]] = {}
        for record in every.values():
            for subject, names in cache_entries.entries_of(record).items():
                there.setdefault(subject, set()).update(names)
        listings = {subject: there.get(subject, set()) for subject in wanted.folders}
        ids = cache_entries.choose(wanted, listings)
        return catalog.CachesFound([every[each] for each in sorted(ids) if each in every])

    async def image(self, reference: images.Reference) -> records.ImageRecord | None:
        self.looked_up.append(str(reference))
        return self.images.get(str(reference))


@hypothesis.given(test_properties.any_pod(), test_properties.cache_views())
def test_what_the_index_leads_to_decides_as_all_caches_do(
    pod: pods.Pod, views: list[caches.Cache]
) -> None:
    """Where it is a hit, caches that have only layers of it may be missing among the others."""
    one, other = (
        asyncio.run(
            decide.Decider(Store(views, test_properties.STORED, index=index), NODE).decide(pod)
        )
        for index in (True, False)
    )

    assert [image.outcome for image in one.images] == [image.outcome for image in other.images]
    if one.outcome is decisions.Outcome.HIT:
        assert [image.cache_id for image in one.images] == [each.cache_id for each in other.images]
        assert [image.is_private for image in one.images] == [
            each.is_private for each in other.images
        ]
    else:
        assert one == other


def asking(*wanted: str, **annotated: str) -> pods.Pod:
    return making.pod(*wanted, annotated={keys.CACHE: "auto", **annotated}, runtime_class="uimgacc")


async def test_an_image_under_another_name_is_found_by_its_bottom_layer() -> None:
    stored = [making.image("nginx:1", "ab")]
    store = Store([making.cache("imc-one", [("mirror:1", "abc")])], stored, index=True)

    decision = await decide.Decider(store, NODE).decide(asking("nginx:1"))

    assert decision.outcome is decisions.Outcome.PARTIAL
    assert decision.reported == "imc-one"
    assert [wanted.layers for wanted in store.asked] == [(), (making.digest("layer a"),)]


async def test_a_hit_asks_for_no_layer() -> None:
    stored = [making.image("nginx:1", "ab")]
    store = Store([making.cache("imc-one", [("nginx:1", "ab")])], stored, index=True)

    decision = await decide.Decider(store, NODE).decide(asking("nginx:1"))

    assert decision.outcome is decisions.Outcome.HIT
    assert len(store.asked) == 1


async def test_an_image_by_digest_is_looked_up_under_the_tag_that_a_cache_has() -> None:
    """All images of its repository are read for it otherwise."""
    stored = [making.image("nginx:1", "ab")]
    store = Store([making.cache("imc-one", [("nginx:1", "ab")])], stored, index=True)
    name = f"nginx@{making.target('nginx:1', 'ab')}"

    decision = await decide.Decider(store, NODE).decide(asking(name))

    assert decision.outcome is decisions.Outcome.HIT
    assert store.looked_up == ["docker.io/library/nginx:1"]


@pytest.mark.parametrize("index", [True, False])
async def test_pods_of_the_same_images_at_once_read_caches_once(index: bool) -> None:
    stored = [making.image("nginx:1", "ab")]
    store = Store([making.cache("imc-one", [("nginx:1", "ab")])], stored, index=index)
    decider = decide.Decider(store, NODE)
    store.gate.clear()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(decider.decide(asking("nginx:1"))) for _ in range(20)]
        await asyncio.sleep(0)
        store.gate.set()

    assert {task.result().outcome for task in tasks} == {decisions.Outcome.HIT}
    assert len(store.asked) == 1


async def test_without_an_index_one_reads_all_caches_for_pods_of_all_images() -> None:
    names = [f"app{number}:1" for number in range(20)]
    stored = [making.image(name, "ab") for name in names]
    store = Store([making.cache("imc-one", [(name, "ab") for name in names])], stored, index=False)
    decider = decide.Decider(store, NODE)

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(decider.decide(asking(name)))
    assert len(store.asked) == 1

    store.index = True
    later = decide.Decider(store, NODE)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(later.decide(asking(name))) for name in names]
    assert {task.result().outcome for task in tasks} == {decisions.Outcome.HIT}
    assert len(store.asked) == 21


async def test_an_index_that_is_completed_meanwhile_is_used_from_then_on() -> None:
    stored = [making.image("nginx:1", "ab"), making.image("redis:7", "d")]
    views = [
        making.cache("imc-aaa", [("nginx:1", "ab")]),
        making.cache("imc-bbb", [("redis:7", "d")]),
    ]
    store = Store(views, stored, index=False)
    known = decide.Caches(store, seconds=0)

    every = await known.get(cache_entries.Wanted())
    store.index = True
    some = await known.get(
        cache_entries.Wanted(references=(images.parse_reference("nginx:1"),)), not_before=1e18
    )

    assert ([view.id for view in every.views], every.are_all) == (["imc-aaa", "imc-bbb"], True)
    assert ([view.id for view in some.views], some.are_all) == (["imc-aaa"], False)


async def test_what_is_remembered_has_an_end() -> None:
    store = Store([], [], index=True)
    known = decide.Caches(store)

    for number in range(300):
        reference = images.parse_reference(f"app{number}:1")
        await known.get(cache_entries.Wanted(references=(reference,)))

    assert len(known._memories) <= 64


async def test_a_store_that_does_not_answer_is_said_to_be_away() -> None:
    store = Store([], [], index=True)

    async def away(wanted: cache_entries.Wanted) -> catalog.CachesFound:
        raise errors.TemporaryError("away")

    store.caches_for = away
    with pytest.raises(errors.TemporaryError, match="away"):
        await decide.Decider(store, NODE).decide(asking("nginx:1"))


NATIVE = decide.Node(platform=PLATFORM, mounts_volumes=False)


@pytest.mark.parametrize("said", [{}, {keys.CACHE: "auto"}, {keys.CACHE: "false"}])
async def test_a_pod_whose_image_volume_is_not_mounted_here_is_told_what_to_do(
    said: dict[str, str],
) -> None:
    """It names the class itself: whether it asks for a cache or not, it does not start."""
    store = Store([], [], index=True)
    named = making.pod("nginx:1", annotated=said, runtime_class="uimgacc", volume="llama:1")

    decision = await decide.Decider(store, NATIVE).decide(named)

    (event,) = decision.events
    assert (event.type, event.reason) == ("Warning", "ImageCacheMissed")
    assert "does not start on this node" in event.message
    assert 'node selector uimgacc.io/image-volumes: "true"' in event.message
    assert not decision.registrable
    assert decision.auto_create is None
    assert not store.asked


async def test_other_pods_are_served_where_image_volumes_are_not_mounted() -> None:
    store = Store(
        [making.cache("imc-one", [("nginx:1", "ab")])], [making.image("nginx:1", "ab")], index=True
    )

    assert (await decide.Decider(store, NATIVE).decide(asking("nginx:1"))).registrable


async def test_a_pod_with_an_image_volume_of_another_runtime_is_left_to_it() -> None:
    pod = making.pod("nginx:1", annotated={keys.CACHE: "auto"}, volume="llama:1")

    decision = await decide.Decider(Store([], [], index=True), NATIVE).decide(pod)

    assert decision.foreign
    assert "on this node it would not start" in decision.summary
