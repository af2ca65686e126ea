import asyncio
import dataclasses
from collections.abc import Iterable

import msgspec
import pytest

from agent import errors
from agent.matching import decisions
from agent.model import caches, pods, records
from agent.node.images import provide, register, registration_plan
from agent.node.pods import decide, prepare
from agent.store.lookup import catalog
from tests.unit.node import conftest


class Catalog:
    """A store with one image in one cache."""

    note = ""
    is_silent = False

    def __init__(self, image: conftest.Image) -> None:
        self.cache = records.CacheRecord(
            id="imc-one",
            name="one",
            images=[
                records.CachedImage(
                    ref=str(image.reference),
                    target=image.target,
                    size=8 << 20,
                    layers=[layer.diff_id for layer in image.record.platforms[0].layers],
                )
            ],
            size=1,
            capacity=1,
            created="2026-01-01T00:00:00Z",
        )
        self.images = {str(image.reference): image.record}
        self.listed = 0
        self.ready = True

    async def caches(self) -> list[records.CacheRecord]:
        self.listed += 1
        return [self.cache] if self.ready else []

    async def caches_for(self, wanted) -> catalog.CachesFound:
        return catalog.CachesFound(await self.caches(), are_all=True)

    async def image(self, reference) -> records.ImageRecord | None:
        return self.images.get(str(reference))


class Registrar:
    def __init__(self) -> None:
        self.registered: list[str] = []
        self.laid_out: list[str] = []
        self.withdrawn: list[str] = []
        self.ahead: list[str] = []
        self.failures: list[Exception] = []
        self.failing: dict[str, Exception] = {}
        self.volumes: list[str] = []

    async def register(self, wanted, *, each: bool) -> registration_plan.Registered:
        if each:
            self.volumes.append(wanted.tag)
        if wanted.tag in self.failing:
            # So that another image, which takes longer, would be cancelled.
            raise self.failing[wanted.tag]
        await asyncio.sleep(0)
        self.registered.append(wanted.tag)
        if self.failures:
            raise self.failures.pop(0)
        return registration_plan.Registered(new=tuple(wanted.layers))

    async def lay_out(self, wanted) -> None:
        self.laid_out.append(wanted.tag)

    async def withdraw(self, tag: str) -> None:
        self.withdrawn.append(tag)

    async def lay_out_ahead(self, wanted) -> registration_plan.Registered:
        self.ahead.append(wanted.tag)
        if self.failures:
            raise self.failures.pop(0)
        return registration_plan.Registered(new=tuple(wanted.layers))


class Others:
    """Repairer, ledger, creator and clearer: they note what they are asked."""

    def __init__(self) -> None:
        self.watched: list[str] = []
        self.repaired: list[tuple[str, ...]] = []
        self.counted: list[str] = []
        self.expected: list[str] = []
        self.wished: list[str] = []
        self.matches: list[tuple[str, str]] = []
        self.unusable: set[str] = set()

    def watch(self, top: str) -> None:
        self.watched.append(top)

    async def repair(self, chain) -> None:
        self.repaired.append(tuple(chain))

    async def registered(self, record, done, *, seconds: float) -> None:
        self.counted.append(record.ref)

    def laid_out(self, record, done, *, seconds: float) -> None:
        self.expected.append(record.ref)

    def create(self, pod, wanted: decisions.AutoCreate) -> None:
        self.wished.append(wanted.cache_id)

    async def clear(self, names) -> list[str]:
        return [name for name in names if name in self.unusable]

    def matched(self, group: str, name: str) -> None:
        self.matches.append((group, name))


class Setting:
    def __init__(
        self, image: conftest.Image, *, register_private: bool = False, **options: object
    ) -> None:
        self.usable: list[str] = []
        self.catalog, self.registrar, self.others = Catalog(image), Registrar(), Others()
        self.preparer = prepare.Preparer(
            decide.Decider(self.catalog, decide.Node(platform=conftest.PLATFORM, **options)),
            prepare.Supply(
                provider=provide.Provider(
                    self.registrar,
                    self.others,
                    self.others,
                    platform=conftest.PLATFORM,
                    snapshotter="uimgacc",
                ),
                volumes=self,
                register_private=register_private,
            ),
            self.others,
            self.others,
        )
        self.pod = pods.Pod(
            namespace="default",
            name="a",
            annotations={"uimgacc.io/image-cache": "auto"},
            containers=(pods.Container(name="c", image=str(image.reference)),),
            runtime_class="uimgacc",
        )

    async def make_usable(self, names) -> None:
        self.usable += names

    async def serve(self, **changes: object) -> prepare.Result:
        return await self.preparer.serve(dataclasses.replace(self.pod, **changes))


@pytest.fixture
def given(image) -> Setting:
    return Setting(image)


async def test_a_hit_is_registered_counted_and_looked_after(given, image) -> None:
    result = await given.serve()

    assert result.decision.outcome is decisions.Outcome.HIT
    assert result.registered == (str(image.reference),)
    assert given.others.watched == [image.chain[-1]]
    assert given.others.counted == [str(image.reference)]


@pytest.mark.parametrize(
    ("policy", "tag", "laid_out"),
    [
        ("", "1", False),
        ("IfNotPresent", "latest", False),
        ("Always", "1", True),
        ("", "latest", True),
    ],
)
async def test_what_is_pulled_all_the_same_is_laid_out(policy, tag, laid_out) -> None:
    image = conftest.Image(f"registry.example/app:{tag}")
    given = Setting(image)
    container = pods.Container(name="c", image=str(image.reference), pull_policy=policy)
    await given.serve(containers=(container,))

    assert given.registrar.laid_out == ([str(image.reference)] if laid_out else [])


def keep_private(given: Setting, *namespaces: str) -> None:
    """Have the cache serve these namespaces only."""
    given.catalog.cache = msgspec.structs.replace(given.catalog.cache, namespaces=list(namespaces))


async def test_a_private_image_is_laid_out_and_left_to_the_kubelets_pull(given, image) -> None:
    """What is registered, any pod of the node can start, from whatever namespace."""
    keep_private(given, "default")
    result = await given.serve()

    assert result.decision.outcome is decisions.Outcome.HIT
    assert (result.registered, result.laid_out) == ((), (str(image.reference),))
    assert given.registrar.registered == []
    assert given.registrar.ahead == [str(image.reference)]
    assert (given.others.expected, given.others.counted) == ([str(image.reference)], [])
    assert "the registry" in result.sentence
    assert [event.reason for event in result.decision.events] == ["ImageCacheHit"]


async def test_a_private_image_that_another_cache_has_for_all_is_registered(given, image) -> None:
    keep_private(given, "default")
    public = msgspec.structs.replace(given.catalog.cache, id="imc-two", namespaces=None)
    both = [given.catalog.cache, public]

    async def caches() -> list[records.CacheRecord]:
        return both

    given.catalog.caches = caches
    await given.serve()

    assert given.registrar.registered == [str(image.reference)]


async def test_private_images_are_registered_where_that_is_set(image) -> None:
    given = Setting(image, register_private=True)
    keep_private(given, "default")
    result = await given.serve()

    assert result.registered == (str(image.reference),)
    assert given.registrar.ahead == []


async def test_a_private_image_that_the_kubelet_may_not_pull_is_named(given, image) -> None:
    keep_private(given, "default")
    container = pods.Container(name="c", image=str(image.reference), pull_policy="Never")
    result = await given.serve(containers=(container,))

    assert "UIMGACC_REGISTER_PRIVATE" in result.sentence


async def test_a_private_image_whose_chain_is_lost_is_repaired_and_made_again(given, image) -> None:
    keep_private(given, "default")
    given.registrar.failures = [register.BrokenError(image.chain)]
    await given.serve()

    assert given.others.repaired == [tuple(image.chain)]
    assert len(given.registrar.ahead) == 2


async def test_what_cannot_be_laid_out_is_registered(given, image) -> None:
    container = pods.Container(name="c", image=str(image.reference), pull_policy="Always")
    given.registrar.lay_out = refuse
    result = await given.serve(containers=(container,))

    assert result.registered == (str(image.reference),)


async def refuse(wanted) -> None:
    raise errors.TemporaryError("the snapshotter is away")


@pytest.mark.parametrize("runtime", ["", "nvidia", "uimgacc-"])
async def test_a_pod_of_another_runtime_gets_an_event_that_it_is_pulled(given, runtime) -> None:
    """Though a cache has all of it: its kubelet pulls."""
    result = await given.serve(runtime_class=runtime)

    assert result.decision.outcome is decisions.Outcome.MISS
    assert [(event.type, event.reason) for event in result.decision.events] == [
        ("Warning", "ImageCacheMissed")
    ]
    assert given.registrar.registered == []
    assert given.catalog.listed == 0


@pytest.mark.parametrize("ready", [True, False])
async def test_a_pod_of_another_runtime_neither_makes_a_cache_nor_keeps_one(given, ready) -> None:
    given.catalog.ready = ready
    given.catalog.cache = records.msgspec.structs.replace(given.catalog.cache, name="auto-one")
    await given.serve(runtime_class="nvidia")

    assert given.others.wished == given.others.matches == []


async def test_a_pod_of_another_runtime_that_asks_for_nothing_gets_no_event(given) -> None:
    result = await given.serve(runtime_class="nvidia", annotations={})

    assert result.decision.outcome is decisions.Outcome.NOT_ASKED
    assert result.decision.events == ()


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("runtime", ["uimgacc", "nvidia"])
async def test_a_pod_that_runs_already_gets_no_event(given, image, ready, runtime) -> None:
    """As after an upgrade of the agent: it has its images since weeks, from wherever."""
    given.catalog.ready = ready
    given.catalog.cache = records.msgspec.structs.replace(given.catalog.cache, name="auto-one")
    pod = dataclasses.replace(given.pod, runtime_class=runtime)
    result = await given.preparer.serve(pod, running=True)

    assert result.decision.events == ()
    assert given.others.wished == given.others.matches == []
    # Its next container finds the image all the same.
    served = ready and runtime == "uimgacc"
    assert given.registrar.registered == ([str(image.reference)] if served else [])


@pytest.mark.parametrize("annotations", [{}, {"uimgacc.io/image-cache": "auto"}])
async def test_an_image_that_a_pod_of_another_runtime_cannot_start_from_is_removed(
    given, image, annotations
) -> None:
    given.others.unusable.add(str(image.reference))
    with pytest.raises(errors.TemporaryError, match="so that the pod can pull it") as caught:
        await given.serve(runtime_class="", annotations=annotations)
    given.others.unusable.clear()

    assert caught.value.delay == 10
    assert (await given.serve(runtime_class="")).registered == ()


async def test_as_default_snapshotter_it_serves_every_runtime(image) -> None:
    given = Setting(image, every_runtime=True)
    await given.serve(runtime_class="")

    assert given.registrar.registered == [str(image.reference)]


async def test_as_default_snapshotter_it_does_not_serve_the_handler_without_it(image) -> None:
    given = Setting(image, every_runtime=True)
    result = await given.serve(runtime_class="without-uimgacc")

    assert given.registrar.registered == []
    assert "a runtimeClassName that does, such as uimgacc," in result.sentence


async def test_a_cache_of_another_namespace_is_not_registered(given) -> None:
    given.catalog.cache = records.msgspec.structs.replace(given.catalog.cache, namespaces=["other"])
    result = await given.serve()

    assert result.decision.outcome is decisions.Outcome.FORBIDDEN
    assert given.registrar.registered == []


async def test_a_pod_that_asks_for_nothing_does_not_touch_the_store(given) -> None:
    await given.serve(annotations={}, runtime_class="")

    assert given.catalog.listed == 0


async def test_caches_are_read_once_for_many_hits(given) -> None:
    for _ in range(20):
        await given.serve()

    assert given.catalog.listed == 1


async def test_a_cache_that_has_just_become_ready_is_seen(given) -> None:
    given.catalog.ready = False
    before = await given.serve()
    given.catalog.ready = True
    after = await given.serve()

    assert before.decision.outcome is decisions.Outcome.MISS
    assert after.decision.outcome is decisions.Outcome.HIT


async def test_a_cache_is_asked_for_where_none_has_the_image(given) -> None:
    given.catalog.ready = False
    await given.serve()

    assert len(given.others.wished) == 1


@pytest.mark.parametrize(
    ("id_", "group"),
    [
        (caches.id_of_name("one"), "uimgacc.io"),
        (caches.id_of_name("one", dialect=caches.Dialect.ALIBABA), "eci.alibabacloud.com"),
        (caches.id_of_name("one", dialect=caches.Dialect.TENCENT), "eks.cloud.tencent.com"),
        ("imc-made-on-demand", "uimgacc.io"),
    ],
)
async def test_the_use_of_a_cache_is_noted_on_its_object(given, id_, group) -> None:
    given.catalog.cache = msgspec.structs.replace(given.catalog.cache, id=id_, name="one")
    await given.serve()

    assert given.others.matches == [(group, "one")]


async def test_a_miss_uses_no_cache(given) -> None:
    image = pods.Container(name="c", image="registry.example/elsewhere:1")
    await given.serve(containers=(image,))

    assert given.others.matches == []


async def test_a_lost_chain_is_repaired_and_made_again(given, image) -> None:
    given.registrar.failures = [register.BrokenError(image.chain)]
    result = await given.serve()

    assert given.others.repaired == [tuple(image.chain)]
    assert result.registered == (str(image.reference),)


async def test_what_fails_goes_up_and_counts_nothing(given, image) -> None:
    given.registrar.failures = [register.NotServedError(image.chain[0])]
    with pytest.raises(errors.TemporaryError):
        await given.serve()

    assert given.others.counted == []


HERE = decide.Node(platform=conftest.PLATFORM)


class Cleared:
    """Notes for which images a pod of another runtime was made able to start."""

    def __init__(self, removes: bool) -> None:
        self.removes = removes
        self.names: list[str] = []

    async def clear(self, names: Iterable[str]) -> list[str]:
        self.names += names
        return self.names if self.removes else []


def left_alone(runtime: str = "") -> pods.Pod:
    return pods.parse_pod(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "annotations": {"uimgacc.io/image-cache": "auto"}},
            "spec": {
                "containers": [{"name": "c", "image": "registry.example/app:1"}],
                **({"runtimeClassName": runtime} if runtime else {}),
            },
        }
    )


async def test_pods_are_left_to_the_kubelet() -> None:
    clearer = Cleared(removes=True)

    result = await prepare.SwitchedOff(HERE, clearer).serve(left_alone("uimgacc"))

    assert (result.registered, clearer.names) == ((), [])
    assert result.decision.outcome.value == "not_asked"
    assert "uimgacc enable" in result.sentence


async def test_an_ordinary_pod_that_takes_the_place_of_an_accelerated_one_can_pull() -> None:
    with pytest.raises(errors.TemporaryError, match="so that the pod can pull it"):
        await prepare.SwitchedOff(HERE, Cleared(removes=True)).serve(left_alone())

    result = await prepare.SwitchedOff(HERE, Cleared(removes=False)).serve(left_alone())

    assert "uimgacc enable" in result.sentence


class TwoImages:
    """A pod with two images in one cache, of which the second cannot be registered."""

    def __init__(self, error: Exception) -> None:
        self.images = [conftest.Image(f"registry.example/{name}:1") for name in ("good", "bad")]
        self.good, self.bad = (str(image.reference) for image in self.images)
        self.given = Setting(self.images[0])
        catalog = self.given.catalog
        other = Catalog(self.images[1])
        catalog.images |= other.images
        cached = [*catalog.cache.images, *other.cache.images]
        catalog.cache = msgspec.structs.replace(catalog.cache, images=cached)
        self.given.registrar.failing[self.bad] = error

    async def make_usable(self, names) -> None:
        self.usable += names

    async def serve(self, **changes: object) -> prepare.Result:
        containers = tuple(pods.Container(name=n, image=n) for n in (self.good, self.bad))
        return await self.given.serve(containers=containers, **changes)


@pytest.mark.parametrize(
    "error", [errors.TemporaryError("containerd is away"), register.BlobMissingError("sha256:0")]
)
async def test_an_image_that_fails_leaves_the_others_registered(error) -> None:
    pod = TwoImages(error)
    result = await pod.serve()

    assert pod.given.registrar.registered == [pod.good]
    assert result.registered == (pod.good,)
    assert result.failed == {pod.bad: error}
    assert result.retry is (error if isinstance(error, errors.TemporaryError) else None)


async def test_the_event_says_which_images_are_registered_and_which_are_not() -> None:
    result = await TwoImages(errors.TemporaryError("containerd is away")).serve()
    (event,) = result.decision.events

    assert (event.type, event.reason) == ("Warning", "ImageCachePartial")
    assert event.message == (
        "Present from image cache imc-one: registry.example/good:1. Not registered, pulled as "
        "usual unless a retry succeeds: registry.example/bad:1 (containerd is away)."
    )


async def test_a_clouds_own_event_for_a_hit_stays_beside_it() -> None:
    pod = TwoImages(errors.TemporaryError("containerd is away"))
    result = await pod.serve(annotations={"k8s.aliyun.com/eci-image-cache": "true"})

    assert [event.reason for event in result.decision.events] == [
        "SuccessfulHitImageCache",
        "ImageCachePartial",
    ]


async def test_a_retry_registers_the_image_that_failed_and_emits_the_hit() -> None:
    pod = TwoImages(errors.TemporaryError("containerd is away"))
    await pod.serve()
    pod.given.registrar.failing.clear()
    result = await pod.serve()

    assert result.registered == (pod.good, pod.bad)
    assert result.failed == {}
    assert [event.reason for event in result.decision.events] == ["ImageCacheHit"]


async def test_a_pod_that_runs_already_gets_no_event_for_a_failure_either() -> None:
    pod = TwoImages(errors.TemporaryError("containerd is away"))
    containers = tuple(pods.Container(name=n, image=n) for n in (pod.good, pod.bad))
    running = dataclasses.replace(pod.given.pod, containers=containers)
    result = await pod.given.preparer.serve(running, running=True)

    assert result.decision.events == ()


async def test_where_no_image_can_be_registered_a_failure_worth_a_retry_is_raised() -> None:
    pod = TwoImages(errors.TemporaryError("containerd is away"))
    pod.given.registrar.failing[pod.good] = register.BlobMissingError("sha256:0")
    with pytest.raises(errors.TemporaryError, match="containerd is away"):
        await pod.serve()


def volume(image: conftest.Image) -> pods.Container:
    return pods.Container(name="v", image=str(image.reference), kind=pods.ContainerKind.VOLUME)


async def test_the_image_of_a_volume_is_registered_as_one(given, image) -> None:
    containers = (pods.Container(name="c", image="busybox"), volume(image))
    result = await given.serve(containers=containers)

    assert result.registered == (str(image.reference),)
    assert given.registrar.volumes == [str(image.reference)]
    assert given.usable == [str(image.reference)]


async def test_an_image_of_a_container_alone_is_no_volume(given) -> None:
    await given.serve()

    assert (given.registrar.volumes, given.usable) == ([], [])


async def test_a_volume_of_a_pod_that_asks_for_no_cache_is_looked_after(given, image) -> None:
    """Its image may be present, for other pods."""
    containers = (*given.pod.containers, volume(image))
    annotations = {"uimgacc.io/image-cache": "false"}
    await given.serve(containers=containers, annotations=annotations)

    assert given.usable == [str(image.reference)]


async def test_a_volume_of_a_pod_of_another_runtime_is_not(given, image) -> None:
    containers = (*given.pod.containers, volume(image))
    await given.serve(containers=containers, runtime_class="")

    assert given.usable == []


def withheld(image: conftest.Image) -> records.MovedTag:
    return records.MovedTag(
        ref=str(image.reference),
        target=image.target,
        noticed="2026-07-01T12:00:00Z",
        policy="never",
        withheld=True,
    )


async def test_a_tag_that_is_withheld_is_taken_back_and_not_registered(image) -> None:
    """A kubelet would run what was registered for a pod before."""
    given = Setting(image)
    await given.preparer.serve(given.pod)
    given.catalog.cache = msgspec.structs.replace(given.catalog.cache, moved=[withheld(image)])
    await asyncio.sleep(6)
    result = await given.preparer.serve(given.pod)

    assert given.registrar.registered == [str(image.reference)]
    assert given.registrar.withdrawn == [str(image.reference)]
    assert result.decision.outcome is decisions.Outcome.PARTIAL
    assert result.ready == ()


async def test_a_pod_that_runs_keeps_the_image_that_it_was_started_with(image) -> None:
    given = Setting(image)
    given.catalog.cache = msgspec.structs.replace(given.catalog.cache, moved=[withheld(image)])
    await given.preparer.serve(given.pod, running=True)

    assert (given.registrar.registered, given.registrar.withdrawn) == ([], [])
