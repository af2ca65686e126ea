"""An API server for tests, and a proxy in front of it that can fail in every way."""

import pathlib
from collections.abc import AsyncIterator, Iterator

import pytest

from agent.clients.kube import connection, rest_client
from tests.kube import apis, faults, servers, threads


@pytest.fixture(scope="session")
def api_loop() -> Iterator[threads.Loop]:
    with threads.running() as loop:
        yield loop


@pytest.fixture(scope="session")
def api_access(
    api_loop: threads.Loop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[connection.Access]:
    with servers.running(tmp_path_factory.mktemp("api"), api_loop) as access:
        yield access


@pytest.fixture
def api(api_access: connection.Access, tmp_path: pathlib.Path) -> Iterator[apis.Api]:
    """The API server, with a namespace of this test's own."""
    made = apis.Api(api_access, tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def proxy(api_access: connection.Access, api_loop: threads.Loop) -> Iterator[faults.Proxy]:
    """A proxy to the API server. It is the administrator for whoever comes."""
    made = faults.Proxy(api_access, api_loop)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def api_certificate(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return faults.certificate(tmp_path_factory.mktemp("certificate") / "c")


@pytest.fixture
def tls_proxy(
    api_access: connection.Access, api_loop: threads.Loop, api_certificate: pathlib.Path
) -> Iterator[faults.Proxy]:
    """A proxy that pods reach as they do the API server of their cluster."""
    made = faults.Proxy(api_access, api_loop, certificate=api_certificate)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Fixed:
    """Credentials that are known."""

    seconds = 600.0

    def __init__(self, server: str) -> None:
        self._server = server

    async def read(self) -> connection.Access:
        return connection.Access(server=self._server, authorization="", tls=None)


@pytest.fixture
async def client(proxy: faults.Proxy) -> AsyncIterator[rest_client.Client]:
    """Our client, as the administrator, by way of the proxy."""
    async with rest_client.Client(Fixed(proxy.url), deadline=20) as made:
        yield made
