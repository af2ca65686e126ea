"""What a cluster must have before anything is applied to it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from agent.cli import supporting
from agent.clients import kube, kube_errors
from tests.kube import conftest as servers
from tests.kube import threads


class Server:
    """An API server that says of itself what a test has it say; a cluster without us."""

    def __init__(self, version: dict[str, str], *, setup: bool = False) -> None:
        self._version = version
        self._setup = setup

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/version":
            return web.json_response(self._version)
        if self._setup and request.path.endswith(
            "/namespaces/uimgacc-system/daemonsets/uimgacc-setup"
        ):
            return web.json_response({"kind": "DaemonSet"})
        return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound"}, status=404)

    def asked(self, question: Callable[[kube.Client], Awaitable[Any]]) -> Any:
        async def ask() -> Any:
            async with threads.listening(web.Server(self)) as port:
                credentials = servers.Fixed(f"http://127.0.0.1:{port}")
                async with kube.Client(credentials, deadline=10.0) as client:
                    return await question(client)

        return asyncio.run(ask())


@pytest.mark.parametrize("minor", ["30", "30+", "36"])
def test_a_release_that_has_all_is_taken(minor: str) -> None:
    Server({"major": "1", "minor": minor}).asked(supporting.require)


def test_an_older_one_is_refused_with_both_numbers() -> None:
    with pytest.raises(supporting.TooOld, match=r"is Kubernetes 1\.29; 1\.30 or newer is needed"):
        Server({"major": "1", "minor": "29"}).asked(supporting.require)


def test_a_server_that_does_not_say_its_release_is_no_traceback() -> None:
    with pytest.raises(kube_errors.Unavailable, match="/version"):
        Server({"gitVersion": "x"}).asked(supporting.require)


def test_a_cluster_with_everything_through_us_is_left_alone() -> None:
    version = {"major": "1", "minor": "36"}

    Server(version).asked(supporting.refuse_if_default)
    with pytest.raises(supporting.StillDefault, match="go back from it first"):
        Server(version, setup=True).asked(supporting.refuse_if_default)
