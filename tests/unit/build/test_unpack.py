"""A layer's blob on its way into the pipe: what it takes is counted, whatever it stands for."""

import asyncio
import contextlib
import gzip
import os
import pathlib
import threading

import pytest

from agent.build import limits, unpack
from agent.build.bulk import spool
from agent.build.tar import corrections, detours, inheritance
from lab.samples import tars

SMALL = limits.Limits(blob=1 << 20, room=1 << 20)
END = bytes(2 * tars.BLOCK)
PART = bytes(1 << 20)
PAX = b"".join(b"11 k%05d=\n" % number for number in range(90_000))


async def unpacked(*parts: bytes) -> unpack.Unpacked:
    reading, writing = os.pipe()

    def drain() -> None:
        with open(reading, "rb") as pipe:
            while pipe.read(1 << 20):
                pass

    thread = threading.Thread(target=drain)
    thread.start()
    blob = gzip.compress(b"".join(parts), 1)

    async def chunks():
        yield blob

    layer = unpack.Layer(
        read=unpack.read_blob(compressed=True),
        position=inheritance.ANYWHERE,
        known=corrections.NONE,
        limits=SMALL,
    )
    try:
        with spool.Spool(pathlib.Path("none"), detours.Detours.none(), threads=1) as bulk:
            return await unpack.unpack(
                chunks(),
                writing,
                layer,
                bulk=bulk,
                on_bytes=lambda _: None,
                on_write=lambda _: None,
            )
    finally:
        thread.join()


@pytest.mark.parametrize(
    "parts",
    [
        [tars.member(tars.file("f")), END, *[PART] * 8],
        [
            tars.header(tars.folder("./"), 0),
            *[tars.header(tars.file("."), len(PART)) + PART] * 8,
            END,
        ],
        [tars.header(tars.Entry(name=b"g"), len(PAX), kind=b"g") + tars.padded(PAX)] * 8,
    ],
    ids=["after the end", "data of the root", "headers without an entry"],
)
async def test_bytes_of_a_tar_that_stand_for_nothing_are_counted(parts) -> None:
    """A blob of some megabytes decompresses to terabytes of them."""
    with pytest.raises(limits.NoRoom, match="unpacks to more than"):
        await unpacked(*parts)


async def test_a_reader_that_ends_early_ends_the_download() -> None:
    """Also where more has come than is in work, so that the download waits: nothing takes it."""
    reading, writing = os.pipe()
    asyncio.get_running_loop().call_later(0.5, os.close, reading)
    ended = asyncio.Event()

    async def chunks():
        try:
            while True:
                yield PART
                await asyncio.sleep(0)
        finally:
            ended.set()

    layer = unpack.Layer(
        read=lambda source: iter(lambda: source.read(-1), b""),
        position=inheritance.ANYWHERE,
        known=corrections.NONE,
        limits=limits.Limits(),
    )
    with spool.Spool(pathlib.Path("none"), detours.Detours.none(), threads=1) as bulk:
        served = chunks()
        async with contextlib.aclosing(served), asyncio.timeout(60):
            with pytest.raises(unpack.ReaderGone):
                await unpack.unpack(
                    tarred(served),
                    writing,
                    layer,
                    bulk=bulk,
                    on_bytes=lambda _: None,
                    on_write=lambda _: None,
                )
    assert ended.is_set()


async def tarred(data):
    """One file without end."""
    yield tars.header(tars.file("f"), 1 << 31)
    async for part in data:
        yield part


async def test_some_padding_at_the_end_is_nothing_wrong() -> None:
    result = await unpacked(tars.member(tars.file("f")), END, PART)

    assert result.fault is None
