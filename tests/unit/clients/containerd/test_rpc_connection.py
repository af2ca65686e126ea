"""How long the client waits for containerd's first word, and what it does without one."""

import asyncio
import functools
import pathlib
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest

from agent.clients.containerd import rpc
from tests.fakes import containerd as fakes

BUSY_SECONDS = 0.5


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="c") as path:
        yield pathlib.Path(path)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        target.write(data)
    target.write_eof()


async def _pass_on(
    folder: pathlib.Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await asyncio.sleep(BUSY_SECONDS)
    inner, outer = await asyncio.open_unix_connection(folder / "containerd")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, outer))
            group.create_task(_copy(inner, writer))
    finally:
        for each in (outer, writer):
            each.close()
            await each.wait_closed()


@pytest.fixture
async def busy(folder: pathlib.Path) -> AsyncIterator[pathlib.Path]:
    """A socket where a connection is served only after a while, as on a busy machine."""
    serve = functools.partial(_pass_on, folder)
    async with (
        fakes.running(folder / "containerd"),
        await asyncio.start_unix_server(serve, folder / "busy"),
    ):
        yield folder / "busy"


async def test_a_containerd_that_is_slow_to_accept_is_waited_for(busy: pathlib.Path) -> None:
    async with rpc.Client(str(busy)) as client:
        assert await client.version() == "fake"


async def test_without_a_containerd_a_call_fails_at_once(folder: pathlib.Path) -> None:
    async with rpc.Client(str(folder / "none")) as client:
        async with asyncio.timeout(5):
            with pytest.raises(rpc.UnavailableError, match="cannot ask its version"):
                await client.version()


async def test_a_containerd_that_has_come_is_found_within_the_second(folder: pathlib.Path) -> None:
    """A connection that was refused is tried again after 50 ms, and never after more than 1 s."""
    async with rpc.Client(str(folder / "s")) as client:
        with pytest.raises(rpc.UnavailableError):
            await client.version()
        async with fakes.running(folder / "s"):
            async with asyncio.timeout(5):
                while True:
                    try:
                        answer = await client.version()
                    except rpc.UnavailableError:
                        await asyncio.sleep(0.05)
                    else:
                        break

    assert answer == "fake"
