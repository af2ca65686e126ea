"""Images that are present before any pod: registered as for pods, after pods, and no longer than
they are wanted."""

import asyncio
import contextlib

import msgspec
import pytest

from agent import errors
from agent.model import records
from agent.node.images import registration_plan
from agent.node.near import warm_images
from tests.unit.node import conftest
from tests.unit.node.pods import test_prepare

NAME = "registry.example.com/team/app:1"


class Store(test_prepare.Catalog):
    """One cache, which is warm on nodes with the label pool=gpu."""

    def __init__(self, image: conftest.Image) -> None:
        super().__init__(image)
        self.change(keep_warm=True, node_selector={"pool": "gpu"})
        self.looks = 0

    def change(self, **fields) -> None:
        self.cache = msgspec.structs.replace(self.cache, **fields)
        self.time = getattr(self, "time", 0) + 1

    async def warm_caches(self) -> list[records.CacheRecord]:
        return [self.cache] if self.ready and self.cache.keep_warm else []

    async def caches_time(self) -> int:
        self.looks += 1
        return self.time


class Provider:
    def __init__(self, image: conftest.Image) -> None:
        self.image = image
        self.registered: list[str] = []
        self.laid_out: list[str] = []
        self.withdrawn: list[str] = []
        self.failures: list[Exception] = []
        self.fits = True

    def _made(self) -> registration_plan.Registration | None:
        if self.failures:
            raise self.failures.pop(0)
        plan = registration_plan.registration_of(
            self.image.reference, self.image.record, conftest.PLATFORM, snapshotter="uimgacc"
        )
        return plan if self.fits else None

    async def provide(self, reference, record, *, each) -> registration_plan.Registration | None:
        # It may be wanted as a volume.
        assert each
        self.registered.append(str(reference))
        return self._made()

    async def withdraw(self, reference) -> None:
        self.withdrawn.append(str(reference))

    async def provide_layers(self, reference, record) -> registration_plan.Registration | None:
        self.laid_out.append(str(reference))
        return self._made()


class Node:
    def __init__(self) -> None:
        self.labels = {"pool": "gpu"}
        self.serves = True
        self.is_busy = False
        self.foreign: set[str] = set()
        self.known = asyncio.Event()
        self.known.set()

    def foreign_images(self) -> set[str]:
        return self.foreign

    async def wait_known(self) -> None:
        await self.known.wait()


class World:
    def __init__(self, **settings) -> None:
        image = conftest.Image(NAME)
        self.store, self.provider, self.node = Store(image), Provider(image), Node()
        wanted = warm_images.Settings(**{"spread": 0.0, **settings})
        self.warm = warm_images.WarmImages(self.store, self.provider, self.node, wanted)

    @property
    def shown(self) -> list[tuple[str, str]]:
        return [(image.state, image.reason) for image in self.warm.state.images]


async def test_an_image_of_a_warm_cache_is_registered_and_offered_for_copying() -> None:
    world = World()

    assert await world.warm.look() == "1 of 1 images are warm."

    assert world.provider.registered == [NAME]
    layers = [layer.diff_id for layer in world.provider.image.record.platforms[0].layers]
    assert world.warm.layers() == dict.fromkeys(layers, "before-start")
    (image,) = world.warm.state.images
    assert (image.image, image.cache, image.state) == (NAME, "imc-one", "registered")


@pytest.mark.parametrize("label", ["cpu", None])
async def test_a_node_without_the_labels_has_none(label: str | None) -> None:
    world = World()
    world.node.labels = {"pool": label} if label else {}

    assert await world.warm.look() == "No image is to be kept warm."
    assert (world.provider.registered, world.warm.layers()) == ([], {})


async def test_it_follows_what_the_cache_says() -> None:
    world = World()
    await world.warm.look()
    world.store.change(local="after-start")
    await world.warm.look()
    assert set(world.warm.layers().values()) == {"after-start"}

    world.store.change(keep_warm=False)
    await world.warm.look()

    assert (world.shown, world.warm.layers()) == ([], {})


async def test_unchanged_caches_are_not_read_again_and_a_ready_image_is_left_alone() -> None:
    world = World()

    for _ in range(3):
        await world.warm.look()

    assert (world.store.looks, world.store.listed) == (3, 1)
    assert world.provider.registered == [NAME]


async def test_an_image_that_the_kubelet_may_have_removed_is_made_ready_again() -> None:
    world = World(ensure=0.0)

    await world.warm.look()
    await world.warm.look()

    assert world.provider.registered == [NAME, NAME]


@pytest.mark.parametrize("register_private", [False, True])
async def test_an_image_that_not_all_may_use_is_laid_out_only(register_private: bool) -> None:
    world = World(register_private=register_private)
    world.store.change(namespaces=["team"])

    await world.warm.look()

    made = (world.provider.laid_out, world.provider.registered)
    assert made == (([], [NAME]) if register_private else ([NAME], []))
    assert world.warm.state.images[0].state == ("registered" if register_private else "laid_out")


async def test_an_image_that_the_setting_names_needs_a_cache() -> None:
    world = World(named=[NAME, "other.example/none:1", "no image"])
    world.store.change(keep_warm=False)

    sentence = await world.warm.look()

    assert [state for state, _ in world.shown] == ["registered", "missing", "missing"]
    assert world.shown[1][1] == "no cache of the store has it"
    assert sentence.startswith("1 of 3 images are warm; other.example/none:1: no cache")


async def test_a_tag_that_was_built_again_elsewhere_is_not_taken_from_no_cache() -> None:
    world = World()
    other = conftest.Image(NAME, layers=3)
    world.store.images[NAME] = other.record

    await world.warm.look()

    assert world.shown == [("missing", "no cache of the store has it")]


async def test_what_fails_for_now_is_tried_at_each_look_and_the_rest_later() -> None:
    world = World()
    world.provider.failures = [errors.TemporaryError("away"), errors.PermanentError("damaged")]

    sentences = [await world.warm.look() for _ in range(3)]

    assert sentences[0] == f"0 of 1 images are warm; {NAME}: away."
    assert world.shown == [("missing", "damaged")]
    assert len(world.provider.registered) == 2


async def test_an_image_for_other_platforms_says_so() -> None:
    world = World()
    world.provider.fits = False

    await world.warm.look()

    assert world.shown == [("missing", "the store has it for other platforms only")]


async def test_an_image_that_a_pod_of_another_runtime_has_is_left_alone() -> None:
    """Registered, it would be present for that pod, which cannot start from it."""
    world = World()
    world.node.foreign = {NAME}

    await world.warm.look()

    assert world.provider.registered == []
    assert "does not use uimgacc" in world.shown[0][1]


async def test_pods_come_first() -> None:
    world = World()
    world.node.is_busy = True

    looking = asyncio.ensure_future(world.warm.look())
    await asyncio.sleep(0.3)
    assert world.provider.registered == []
    world.node.is_busy = False
    await looking

    assert world.provider.registered == [NAME]
    world.node.is_busy = True
    assert world.warm.layers() == {}


async def test_nothing_happens_before_the_node_serves_and_is_known() -> None:
    world = World(look=0.01)
    world.node.known.clear()
    world.node.serves = False

    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.warm.run())
        for change in (world.node.known.set, lambda: setattr(world.node, "serves", True)):
            await asyncio.sleep(0.05)
            assert world.store.looks == 0
            change()
        async with asyncio.timeout(30):
            while not world.provider.registered:
                await asyncio.sleep(0.01)
        task.cancel()


async def test_a_store_that_is_away_changes_nothing() -> None:
    world = World(look=0.01)
    await world.warm.look()
    before = world.warm.layers()

    async def away() -> int:
        raise errors.TemporaryError("the store does not answer")

    world.store.caches_time = away
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await world.warm.run()

    assert (world.warm.layers(), world.shown) == (before, [("registered", "")])
    assert "the store does not answer" in world.warm.state.sentence


async def test_copying_begins_at_a_random_time() -> None:
    """A thousand nodes that start at once do not read from the store at once."""
    world = World(spread=1e6)

    await world.warm.look()

    assert world.shown == [("registered", "")]
    assert world.warm.layers() == {}


async def test_a_tag_that_is_withheld_is_taken_back_at_once_and_is_not_registered() -> None:
    world = World()
    await world.warm.look()
    moved = records.MovedTag(
        ref=NAME, target="sha256:new", noticed="2026-07-01T12:00:00Z", withheld=True
    )
    world.store.change(moved=[moved])
    await world.warm.look()

    assert (world.provider.registered, world.provider.withdrawn) == ([NAME], [NAME])
    ((state, reason),) = world.shown
    assert state == "missing"
    assert "the registry has moved its tag" in reason
