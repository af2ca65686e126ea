"""Tags are looked up once for all caches, at a bounded rate, and no registry is pressed."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Mapping

import pytest

from agent.clients.registry import distribution, failures
from agent.control.caches import cache_object
from agent.control.tags import tag_hints, tag_questions, tag_rounds
from agent.model import images

pytestmark = pytest.mark.looptime

START = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC)
HOST = "registry.example.com"
OLD, NEW = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def cache(
    name: str, *tags: str, secret: str = "", confirmed: float | None = 0, **status: object
) -> cache_object.CacheObject:
    """A Ready cache of images that were confirmed so many seconds after the start."""
    refs = [tag if tag.startswith("hangs") else f"{HOST}/{tag}" for tag in tags]
    moment = None if confirmed is None else START + datetime.timedelta(seconds=confirmed)
    body = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
        "spec": {"images": refs, "imagePullSecrets": [f"team/{secret}"] if secret else []},
        "status": {
            "phase": "Ready",
            "images": [{"image": ref, "digest": OLD} for ref in refs],
            "tags": {"confirmedTime": moment.isoformat()} if moment else {},
            **status,
        },
    }
    return cache_object.parse(body)


class Setting:
    """A registry, the caches of a cluster, and what has steps done for them."""

    def __init__(self, *known: cache_object.CacheObject, **settings: object) -> None:
        self.caches = {each.key: each for each in known}
        self.queued: list[str] = []
        self.heads: list[tuple[float, str]] = []
        self.gets: list[str] = []
        self.digests: dict[str, str] = {}
        self.failing: dict[str, Exception] = {}
        self.contents: dict[str, str] = {}
        """The content of each Secret, where it is not that of none."""
        self.hints = tag_hints.Hints() if settings.pop("hinted", False) else None
        self.rounds = tag_rounds.Rounds(
            self, self, tag_rounds.Settings(**settings), hints=self.hints, clock=self.now
        )

    def now(self) -> datetime.datetime:
        return START + datetime.timedelta(seconds=asyncio.get_running_loop().time())

    def queue(self, key: cache_object.Key) -> None:
        self.queued.append(key.name)

    @contextlib.asynccontextmanager
    async def client(self, access: tag_questions.Access) -> AsyncIterator[tuple["Setting", str]]:
        yield self, "".join(self.contents.get(each.name, each.name) for each in access.secrets)

    async def digest(self, reference: images.Reference) -> str:
        name = f"{reference.repository}:{reference.tag}"
        self.heads.append((asyncio.get_running_loop().time(), name))
        if reference.registry.startswith("hangs"):
            await asyncio.Event().wait()
        for cause in (reference.registry, name):
            if cause in self.failing:
                raise self.failing[cause]
        return self.digests.get(name, OLD)

    async def manifest(
        self, reference: images.Reference, digest: str = ""
    ) -> distribution.Manifest:
        name = f"{reference.repository}:{reference.tag}"
        self.gets.append(name)
        return distribution.Manifest(self.digests.get(name, OLD), "", b"")

    def push(self, name: str, digest: str = "") -> None:
        """A tag is said to have been pushed, and stands for another digest where one is given."""
        if digest:
            self.digests[name] = digest
        repository, _, tag = name.partition(":")
        assert self.hints is not None
        assert self.hints.add([tag_hints.Hint(repository, tag)])

    async def run(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.rounds.run()

    def rate_of(self, repository: str) -> float:
        """Questions a second, from the first one."""
        at = [at for at, name in self.heads if name.startswith(f"{repository}:")]
        return len(at) / (at[-1] - at[0])

    def asked(self) -> list[str]:
        return [name for _, name in self.heads]

    def told(self, name: str) -> Mapping[str, str]:
        key = cache_object.Key("uimgacc.io", name)
        answers = self.rounds.answers(self.caches[key])
        return {ref.removeprefix(f"{HOST}/"): each.digest for ref, each in answers.items()}


async def test_each_tag_is_asked_for_once_in_an_interval_for_all_caches() -> None:
    given = Setting(cache("a", "app:1", "lib:2"), cache("b", "app:1"), interval=600)
    await given.run(700)

    assert sorted(given.asked()) == ["app:1", "lib:2"]
    assert given.gets == []
    assert given.told("b") == {"app:1": OLD}


async def test_a_digest_and_a_cache_that_does_not_serve_are_not_asked_for() -> None:
    given = Setting(cache("a", f"app@{OLD}"), cache("b", "app:1", phase="Creating"), interval=60)
    await given.run(600)

    assert given.heads == []


async def test_nothing_is_asked_where_that_is_switched_off() -> None:
    given = Setting(cache("a", "app:1"), interval=0)
    await given.run(6000)

    assert given.heads == []


async def test_secrets_of_one_content_are_the_same_credentials_others_are_not() -> None:
    """Each namespace has a copy of the Secret."""
    given = Setting(
        cache("a", "app:1", secret="copy-a"),
        cache("b", "app:1", secret="copy-b"),
        cache("c", "app:1", secret="other"),
        cache("d", "app:1"),
        interval=600,
    )
    given.contents = {"copy-a": "same", "copy-b": "same"}
    await given.run(700)

    assert len(given.heads) == 3
    assert given.told("a") == given.told("b") == {"app:1": OLD}


async def test_a_tag_that_has_moved_is_verified_once_and_is_news_for_its_caches() -> None:
    given = Setting(cache("a", "app:1"), cache("b", "app:1"), cache("c", "lib:1"), interval=600)
    given.digests["app:1"] = NEW
    await given.run(700)

    assert given.gets == ["app:1"]
    assert {"a", "b"} <= set(given.queued)
    assert given.told("a") == {"app:1": NEW}

    await given.run(1400)

    assert given.gets == ["app:1"]


async def test_the_rate_holds_for_ten_thousand_caches() -> None:
    """All are overdue, as after a night in which no controller ran."""
    known = [cache(f"c-{number}", f"app:{number}", confirmed=-50_000) for number in range(10_000)]
    given = Setting(*known, interval=600, rate=20)
    await given.run(300)

    times = [at for at, _ in given.heads]
    assert 4000 < len(times) <= 6001
    assert all(later - at >= 0.99 for at, later in zip(times, times[20:], strict=False))


async def test_a_low_rate_is_no_failure_of_the_registry() -> None:
    known = [cache(f"c-{number}", f"app:{number}", confirmed=-5000) for number in range(20)]
    given = Setting(*known, interval=600, rate=0.1)
    await given.run(400)

    assert len(given.heads) == 20


async def test_they_are_spread_over_the_interval() -> None:
    known = [cache(f"c-{number}", f"app:{number}", confirmed=None) for number in range(200)]
    given = Setting(*known, interval=600)
    await given.run(600)

    early = [at for at, _ in given.heads if at < 300]
    assert 50 < len(early) < 150


async def test_a_registry_that_asks_for_a_pause_has_it() -> None:
    known = [cache(f"c-{number}", f"app:{number}", confirmed=-5000) for number in range(100)]
    given = Setting(*known, interval=60)
    given.failing[HOST] = failures.RegistryUnreachable("url", "status 429", delay=500.0)
    await given.run(480)

    assert 1 <= len(given.heads) <= 8
    assert given.queued == []
    assert given.told("c-1") == {}

    given.failing.clear()
    await given.run(200)

    assert len(given.heads) > 100


async def test_a_registry_that_is_down_is_asked_ever_more_rarely_and_others_go_on() -> None:
    down = [cache(f"c-{number}", f"app:{number}", confirmed=-5000) for number in range(50)]
    given = Setting(*down, interval=60)
    given.failing[HOST] = failures.RegistryUnreachable("url", "refused")
    other = cache("other", "app:1", confirmed=-5000)
    body = {**other.status, "images": [{"image": "other.example.com/app:1", "digest": OLD}]}
    made = cache_object.parse(
        {
            "apiVersion": "uimgacc.io/v1",
            "kind": "ImageCache",
            "metadata": {"name": "other", "uid": "o", "resourceVersion": "1"},
            "spec": {"images": ["other.example.com/app:1"]},
            "status": body,
        }
    )
    given.caches[made.key] = made
    await given.run(3600)

    answers = given.rounds.answers(made)
    assert answers["other.example.com/app:1"].digest == OLD
    refused = [at for at, name in given.heads if name != "app:1"]
    assert len(refused) <= 8 * 12


async def test_an_account_that_is_limited_stops_no_questions_of_others() -> None:
    given = Setting(
        cache("limited", "limited:1", secret="limited", confirmed=-5000),
        cache("other", "app:1", secret="other", confirmed=-5000),
        interval=60,
    )
    given.failing["limited:1"] = failures.RegistryUnreachable("url", "status 429", delay=3600.0)
    await given.run(1300)

    assert given.asked().count("limited:1") == 1
    assert given.asked().count("app:1") > 15


async def test_registries_that_hang_do_not_hold_up_questions_of_others() -> None:
    """Who has a domain has as many of them as he likes."""
    hung = [
        cache(f"hung-{number}", f"hangs-{number}.test/app:1", confirmed=-5000)
        for number in range(100)
    ]
    others = [cache(f"c-{number}", f"lib:{number}", confirmed=-5000) for number in range(1000)]
    given = Setting(*hung, *others, interval=60)
    await given.run(60)
    given.heads.clear()
    await given.run(240)

    assert given.rate_of("lib") > 12


async def test_first_questions_of_registries_that_hang_take_no_slot_of_those_that_answer() -> None:
    given = Setting(*(cache(f"c-{n}", f"lib:{n}", confirmed=-5000) for n in range(10)), interval=20)
    await given.run(30)
    for number in range(40):
        hung = cache(f"hung-{number}", f"hangs-{number}.test/app:1", confirmed=-5000)
        given.caches[hung.key] = hung
    given.heads.clear()
    await given.run(28)

    answered = [name for _, name in given.heads if name.startswith("lib:")]
    assert len(answered) >= 10
    assert len([name for _, name in given.heads if name == "app:1"]) >= 4


async def test_a_refusal_is_said_and_asked_again_at_the_usual_time() -> None:
    given = Setting(cache("a", "app:1"), interval=600)
    given.failing[HOST] = failures.AccessDenied(f"{HOST}/app:1", 403, [])
    await given.run(1300)

    assert len(given.heads) <= 2
    assert "a" in given.queued
    (answer,) = given.rounds.answers(given.caches[cache_object.Key("uimgacc.io", "a")]).values()
    assert "refuses" in answer.problem


async def test_a_cache_that_is_gone_is_forgotten() -> None:
    given = Setting(cache("a", "app:1"), interval=600)
    await given.run(650)
    gone = given.caches.pop(cache_object.Key("uimgacc.io", "a"))
    await given.run(2000)

    assert len(given.heads) == 1
    assert given.rounds.answers(gone) == {}


async def test_the_store_says_when_all_tags_of_a_cache_were_last_confirmed() -> None:
    known = [cache("a", "app:1", "lib:1"), cache("b", "new:1", confirmed=-500)]
    given = Setting(*known, interval=60)
    given.digests["new:1"] = NEW
    written: list[Mapping[str, str]] = []

    async def publish(confirmed: Mapping[str, str]) -> None:
        written.append(confirmed)

    settings = tag_rounds.Settings(interval=60)
    given.rounds = tag_rounds.Rounds(given, given, settings, publish=publish, clock=given.now)
    await given.run(200)
    a, b = (each.cache_id for each in known)

    assert 3 <= len(written) <= 4
    assert "2026-07-01T12:01:00Z" <= written[-1][a] <= "2026-07-01T12:03:10Z"
    assert written[-1][b] == "2026-07-01T11:51:40Z"


async def test_a_push_has_its_tag_asked_for_at_once_for_all_its_caches() -> None:
    """Also where Secrets of other names open the same, and an answer is shared."""
    given = Setting(
        cache("a", "app:1", "lib:1", secret="one"),
        cache("b", "app:1", secret="two"),
        interval=600,
        hinted=True,
    )
    given.contents = {"one": "same", "two": "same"}
    await given.run(1300)
    before = len(given.heads)
    given.push("app:1", NEW)
    await given.run(3)

    assert given.asked()[before:] == ["app:1"]
    assert given.gets == ["app:1"]
    assert {"a", "b"} <= set(given.queued)
    assert given.told("b") == {"app:1": NEW}


async def test_a_push_is_believed_in_nothing() -> None:
    given = Setting(cache("a", "app:1"), interval=600, hinted=True)
    await given.run(700)
    given.push("app:1")
    given.push("unknown:1")
    await given.run(3)

    assert given.told("a") == {"app:1": OLD}
    assert given.gets == []
    assert set(given.asked()) == {"app:1"}


async def test_pushes_of_one_tag_in_a_row_are_few_questions_and_the_last_one_counts() -> None:
    given = Setting(cache("a", "app:1"), interval=600, hinted=True)

    async def push() -> None:
        for number in range(100):
            given.push("app:1", f"sha256:{number:064x}")
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        group.create_task(push())
        await given.run(30)

    assert 3 <= len(given.heads) <= 5
    assert given.told("a") == {"app:1": f"sha256:{99:064x}"}


async def test_a_push_is_asked_for_before_the_tags_of_the_round() -> None:
    known = [cache(f"c-{number}", f"app:{number}", confirmed=-50_000) for number in range(5000)]
    given = Setting(*known, interval=600, rate=20, hinted=True)
    await given.run(100)
    begun = asyncio.get_running_loop().time()
    name = next(f"app:{number}" for number in range(5000) if f"app:{number}" not in given.asked())
    given.push(name, NEW)
    await given.run(30)

    (at,) = [at for at, each in given.heads if each == name]
    assert at - begun < 15


async def test_a_push_does_not_press_a_registry_that_is_left_alone() -> None:
    given = Setting(cache("a", "app:1"), interval=600, hinted=True)
    given.failing[HOST] = failures.RegistryUnreachable(HOST, "busy", delay=400.0)
    await given.run(620)
    asked = len(given.heads)
    assert asked
    for _ in range(10):
        given.push("app:1", NEW)
        await given.run(5)
    assert len(given.heads) == asked

    given.failing.clear()
    await given.run(600)
    assert given.told("a") == {"app:1": NEW}


async def test_without_an_interval_only_pushes_cause_questions() -> None:
    given = Setting(cache("a", "app:1", confirmed=None), interval=0, hinted=True)
    await given.run(6000)
    assert given.heads == []

    given.push("app:1", NEW)
    await given.run(6000)
    assert given.asked() == ["app:1"]
    assert given.told("a") == {"app:1": NEW}
