"""The ConfigMap of the account of pulls: what it holds, and what follows where it is damaged."""

import base64
import datetime
import random
import zlib
from typing import Any

import msgspec
import pytest

from agent.clients.kube import refusals, rest_client
from agent.control.pulls import pull_account, pull_book, pull_events, pull_table
from tests.fakes import api as fakes

NOW = datetime.datetime(2026, 3, 8, 12, 30, tzinfo=datetime.UTC)
NAME = "pulls.json.zlib"


def table(images: int) -> pull_table.PullTable:
    made = pull_table.PullTable(most=5000)
    dice = random.Random(7)
    for number in range(images):
        for hour in range(30):
            pull = pull_events.Pull(
                image=f"registry.example/{dice.randbytes(30).hex()}:{number}",
                seconds=dice.uniform(1, 600),
                size=dice.randrange(1 << 30),
                namespace=f"n{number % 50}",
                pod=dice.randbytes(20).hex(),
                node=dice.randbytes(20).hex(),
                when=NOW - datetime.timedelta(hours=hour),
            )
            made.add(pull, NOW)
    return made


class Api:
    """One ConfigMap."""

    def __init__(self, data: bytes | None = None, error: Exception | None = None) -> None:
        self.body: dict[str, Any] | None = None
        if data is not None:
            self.body = {"binaryData": {NAME: base64.b64encode(data).decode()}}
        self.error = error

    async def get(self, resource, name, *, namespace=""):
        if self.error:
            raise self.error
        if self.body is None:
            raise refusals.NotFound(fakes.refusal(404, name))
        return self.body

    async def patch(self, resource, name, body, *, namespace="", **more):
        if self.body is None:
            raise refusals.NotFound(fakes.refusal(404, name))
        self.body |= body

    async def create(self, resource, body, *, namespace=""):
        assert resource == rest_client.CONFIG_MAPS
        assert body["metadata"]["name"] == pull_book.CONFIG_MAP
        self.body = dict(body)


async def test_what_is_written_is_read() -> None:
    api = Api()
    book = pull_book.BookObject(api)
    before = table(3)
    for _ in range(2):
        await book.write(await pull_book.encode(before, seen=17, now=NOW))

    kept = await book.read()

    assert kept is not None
    assert (kept.seen, kept.written) == (17, NOW)
    week = NOW - datetime.timedelta(days=7)
    assert kept.table(most=500).costs(week, NOW) == before.costs(week, NOW)


async def test_a_large_table_fits_into_a_config_map_and_its_sums_are_whole() -> None:
    before = table(60)
    data = await pull_book.encode(before, seen=1, now=NOW)

    kept = pull_book.decode(data)

    assert len(kept.rows) == 500
    assert len(base64.b64encode(data)) < 900_000
    week = NOW - datetime.timedelta(days=7)
    assert kept.table(most=500).costs(week, NOW).pulls == before.costs(week, NOW).pulls == 1800


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        zlib.compress(b"{}"),
        zlib.compress(b'{"written": "x", "others": {"image": ""}}'),
        zlib.compress(
            b'{"written": "2026-03-08T12:30:00Z", "others": {"image": "", "nodes": "xyz"}}'
        ),
        zlib.compress(b'{"format": 2, "written": "2026-03-08T12:30:00Z", "others": {"image": ""}}'),
        zlib.compress(b" " * (20 << 20)),
        zlib.compress(msgspec.json.encode([1]))[:-3],
    ],
)
async def test_what_is_damaged_is_said_to_be(data: bytes) -> None:
    book = pull_book.BookObject(Api(data))

    with pytest.raises(pull_book.BookDamaged, match="Delete it"):
        await book.read()
    assert await pull_book.known_costs(book) is None


async def test_a_leader_begins_anew_where_the_table_is_damaged() -> None:
    api = Api(b"text")
    book = pull_book.BookObject(api)
    account = pull_account.PullAccount(api, book, most=10, observed=tuple, now=lambda: NOW)

    await account._load()

    assert (await account.costs(NOW)).pulls == 0
