"""A selection of objects that is followed, in fake time."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator

import pytest

from agent import errors
from agent.clients.kube import reflector, refusals, selection

pytestmark = pytest.mark.looptime

Part = selection.Part[str]
Change = selection.Change[str]


class Scripted:
    """Answers lists and watches with what a test has prepared; then the watch stays open."""

    def __init__(self, *answers: list[Part] | list[Change] | errors.AgentError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, float]] = []

    def _next(self, verb: str, version: str) -> list:
        self.asked.append((verb, version, asyncio.get_running_loop().time()))
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, errors.AgentError):
            raise answer
        return answer

    async def list(self, *, not_older_than: str) -> AsyncGenerator[Part]:
        for part in self._next("list", not_older_than):
            yield part

    async def watch(self, version: str) -> AsyncGenerator[Change]:
        for change in self._next("watch", version):
            yield change
        if not self.answers:
            await asyncio.Event().wait()
        await asyncio.sleep(60)


def part(version: str, **objects: str) -> Part:
    entries = {key: selection.Entry(uid=uid, item=f"{key} {uid}") for key, uid in objects.items()}
    return selection.Part(version=version, entries=entries)


def change(version: str, key: str, uid: str, *, gone: bool = False) -> Change:
    entry = None if gone else selection.Entry(uid=uid, item=f"{key} {uid}")
    return selection.Change(version=version, key=key, entry=entry, gone=gone)


def refused(status: int, reason: str = "") -> errors.AgentError:
    body = f'{{"reason": "{reason}"}}'.encode()
    return refusals.error_of("GET", status, body, {})


async def followed(
    source: Scripted, *, seconds: float = 600, optional: bool = False
) -> tuple[list[str], reflector.Reflector[str]]:
    """The updates of so many seconds, a deletion with a minus."""
    one = reflector.Reflector(source, subject="things", optional=optional)
    updates = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), contextlib.aclosing(one.changes()) as changes:
            async for update in changes:
                text = update.item or f"-{update.key} {update.uid}"
                updates.append(text)
    return updates, one


async def test_a_list_of_several_parts_is_followed_by_its_changes() -> None:
    source = Scripted(
        [part("5", a="1"), part("5", b="2")],
        [change("6", "c", "3"), change("7", "a", "1"), change("8", "b", "2", gone=True)],
        [change("9", "d", "4")],
    )
    updates, one = await followed(source)

    assert updates == ["a 1", "b 2", "c 3", "a 1", "-b 2", "d 4"]
    assert [each[:2] for each in source.asked] == [("list", "0"), ("watch", "5"), ("watch", "8")]
    assert one.synced
    assert one.problem == ""


async def test_what_has_gone_while_no_watch_saw_it_is_gone_after_the_next_list() -> None:
    source = Scripted(
        [part("5", a="1", b="2", c="3")],
        refused(410, "Expired"),
        [part("9", b="2", c="4")],
    )
    updates, _ = await followed(source)

    assert updates[3:] == ["b 2", "-c 3", "c 4", "-a 1"]
    assert [each[:2] for each in source.asked] == [
        ("list", "0"),
        ("watch", "5"),
        ("list", "5"),
        ("watch", "9"),
    ]


async def test_a_list_that_breaks_off_takes_nothing_away() -> None:
    class Broken(Scripted):
        async def list(self, *, not_older_than: str) -> AsyncGenerator[Part]:
            async for each in super().list(not_older_than=not_older_than):
                yield each
                if each.version == "9":
                    raise refused(503)

    source = Broken(
        [part("5", a="1", b="2")],
        refused(410, "Expired"),
        [part("9", a="1")],
        [part("10", a="1", b="2")],
    )
    updates, _ = await followed(source)

    assert not [update for update in updates if update.startswith("-")]
    assert [each[0] for each in source.asked] == ["list", "watch", "list", "list", "watch"]


async def test_a_kind_that_is_not_installed_is_found_when_it_is() -> None:
    source = Scripted(refused(404), refused(404), refused(404), [part("5", a="1")])
    updates, one = await followed(source, optional=True)

    assert updates == ["a 1"]
    assert one.problem == ""
    times = [at for verb, _, at in source.asked if verb == "list"]
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 10


async def test_a_kind_that_is_removed_leaves_what_is_known_until_it_is_back() -> None:
    source = Scripted(
        [part("5", a="1", b="2")],
        [change("6", "b", "2", gone=True)],
        refused(404),
        refused(404),
        [part("3", c="3")],
    )
    updates, _ = await followed(source, optional=True)

    assert updates == ["a 1", "b 2", "-b 2", "c 3", "-a 1"]
    assert [each[:2] for each in source.asked][-2:] == [("list", "0"), ("watch", "3")]


async def test_a_404_for_a_kind_that_is_always_there_is_a_problem() -> None:
    source = Scripted([part("5", a="1")], *[refused(404)] * 100)
    updates, one = await followed(source, seconds=100)

    assert updates == ["a 1"]
    assert "404" in one.problem
    assert "1 things stay known" in one.problem


async def test_an_object_that_cannot_be_read_stays_as_it_was() -> None:
    unreadable = selection.Change(version="6", key="a", entry=selection.Entry(uid="1"))
    source = Scripted([part("5", a="1")], [unreadable, change("7", "a", "1", gone=True)])
    updates, _ = await followed(source)

    assert updates == ["a 1", "-a 1"]
