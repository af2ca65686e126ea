"""Connections on which nothing comes, and more of them than there may be."""

import asyncio
import ssl

import aiohttp
import pytest
from aiohttp import web

from agent.kits.web import connection_bounds, listener
from tests.kube import faults

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def application() -> tuple[web.Application, asyncio.Event, asyncio.Event]:
    """/ answers at once; /slow when the second event is set, after it has set the first one."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def slow(_request: web.Request) -> web.Response:
        begun.set()
        await go.wait()
        return web.Response(text="slow")

    app = web.Application()
    app.router.add_get("/", answer)
    app.router.add_get("/slow", slow)
    return app, begun, go


async def opened(address: str) -> Pair:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def is_closed(pair: Pair) -> None:
    """Wait until the other side has closed it."""
    try:
        async with asyncio.timeout(20):
            while await pair[0].read(1000):
                pass
    except ConnectionError:
        pass
    pair[1].close()


async def asked(pair: Pair, path: str = "/") -> bytes:
    pair[1].write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    status, *headers = (await pair[0].readuntil(b"\r\n\r\n")).split(b"\r\n")
    (length,) = (each for each in headers if each.lower().startswith(b"content-length:"))
    await pair[0].readexactly(int(length.partition(b":")[2]))
    return status


async def test_a_connection_without_a_request_is_closed() -> None:
    app, _, _ = application()
    bounds = connection_bounds.Bounds(first_request=0.2)
    async with listener.serving(app, "127.0.0.1:0", bounds=bounds) as address:
        silent = await opened(address)
        half = await opened(address)
        half[1].write(b"GET / HTTP/1.1\r\nHost: ")

        await is_closed(silent)
        await is_closed(half)


async def test_one_that_has_asked_once_may_wait_for_longer() -> None:
    app, begun, go = application()
    bounds = connection_bounds.Bounds(first_request=0.2)
    async with listener.serving(app, "127.0.0.1:0", bounds=bounds) as address:
        used = await opened(address)
        silent = await opened(address)
        first = await asked(used)
        await is_closed(silent)

        asking = asyncio.get_running_loop().create_task(asked(used, "/slow"))
        await begun.wait()
        await is_closed(await opened(address))
        go.set()
        second = await asking
        used[1].close()

    assert (first, second) == (b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK")


async def test_one_too_many_closes_the_one_that_is_idle_for_longest() -> None:
    app, begun, go = application()
    bounds = connection_bounds.Bounds(connections=3)
    async with listener.serving(app, "127.0.0.1:0", bounds=bounds) as address:
        busy = await opened(address)
        asking = asyncio.get_running_loop().create_task(asked(busy, "/slow"))
        await begun.wait()
        idle = [await opened(address) for _ in range(2)]

        newest = await opened(address)
        await is_closed(idle[0])
        assert await asked(newest) == b"HTTP/1.1 200 OK"
        go.set()

        assert await asking == b"HTTP/1.1 200 OK"
        for pair in (busy, idle[1], newest):
            pair[1].close()


async def test_hundreds_of_idle_connections_keep_no_client_out() -> None:
    app, _, _ = application()
    bounds = connection_bounds.Bounds(connections=10)
    async with listener.serving(app, "127.0.0.1:0", bounds=bounds) as address:
        many = [await opened(address) for _ in range(100)]
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/") as answer:
            assert answer.status == 200
        await is_closed(many[0])
        for pair in many[1:]:
            pair[1].close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = faults.certificate(tmp_path_factory.mktemp("tls") / "own")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def test_a_handshake_that_does_not_begin_is_ended(tls: ssl.SSLContext) -> None:
    app, _, _ = application()
    bounds = connection_bounds.Bounds(handshake=0.2)
    async with listener.serving(app, "127.0.0.1:0", tls=tls, bounds=bounds) as address:
        await is_closed(await opened(address))


async def test_of_too_many_handshakes_the_oldest_ends_and_no_client_is_kept_out(
    tls: ssl.SSLContext,
) -> None:
    app, _, _ = application()
    bounds = connection_bounds.Bounds(handshakes=3, handshake=60.0)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with listener.serving(app, "127.0.0.1:0", tls=tls, bounds=bounds) as address:
        host, _, port = address.rpartition(":")
        used = await asyncio.open_connection(host, int(port), ssl=trusting)
        assert await asked(used) == b"HTTP/1.1 200 OK"
        many = [await opened(address) for _ in range(6)]

        for pair in many[:3]:
            await is_closed(pair)
        newest = await asyncio.open_connection(host, int(port), ssl=trusting)
        assert await asked(newest) == b"HTTP/1.1 200 OK"
        assert await asked(used) == b"HTTP/1.1 200 OK"
        many[-1][1].write(b"no TLS")
        await is_closed(many[-1])
        for pair in (*many[3:5], used, newest):
            pair[1].close()


async def test_handshakes_that_have_ended_do_not_count(tls: ssl.SSLContext) -> None:
    app, _, _ = application()
    bounds = connection_bounds.Bounds(handshakes=1, handshake=60.0)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with listener.serving(app, "127.0.0.1:0", tls=tls, bounds=bounds) as address:
        host, _, port = address.rpartition(":")
        pairs = [await asyncio.open_connection(host, int(port), ssl=trusting) for _ in range(3)]

        assert [await asked(pair) for pair in pairs] == [b"HTTP/1.1 200 OK"] * 3
        for pair in pairs:
            pair[1].close()
