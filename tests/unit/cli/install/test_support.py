"""What a cluster must have before anything is applied to it."""

import asyncio
import contextlib
import json
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import typer.testing
from aiohttp import web

from agent.cli import commands
from agent.cli.install import support
from agent.clients.kube import refusals, rest_client
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

    def asked(self, question: Callable[[rest_client.Client], Awaitable[Any]]) -> Any:
        async def ask() -> Any:
            async with threads.listening(web.Server(self)) as port:
                credentials = servers.Fixed(f"http://127.0.0.1:{port}")
                async with rest_client.Client(credentials, deadline=10.0) as client:
                    return await question(client)

        return asyncio.run(ask())


@pytest.mark.parametrize("minor", ["30", "30+", "36"])
def test_a_release_that_has_all_is_taken(minor: str) -> None:
    Server({"major": "1", "minor": minor}).asked(support.require)


def test_an_older_one_is_refused_with_both_numbers() -> None:
    with pytest.raises(support.TooOld, match=r"is Kubernetes 1\.29; 1\.30 or newer is needed"):
        Server({"major": "1", "minor": "29"}).asked(support.require)


def test_a_server_that_does_not_say_its_release_is_no_traceback() -> None:
    with pytest.raises(refusals.Unavailable, match="/version"):
        Server({"gitVersion": "x"}).asked(support.require)


def test_a_cluster_with_everything_through_us_is_left_alone() -> None:
    version = {"major": "1", "minor": "36"}

    Server(version).asked(support.refuse_if_default)
    with pytest.raises(support.StillDefault, match="go back from it first"):
        Server(version, setup=True).asked(support.refuse_if_default)


@pytest.mark.parametrize(("minor", "level"), [("29", "fail"), ("36", "ok")])
def test_the_doctor_says_it_where_it_finds_a_kubeconfig(
    minor: str, level: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with threads.running() as loop, contextlib.ExitStack() as stack:
        server = Server({"major": "1", "minor": minor})

        async def opened() -> int:
            return await serving.enter_async_context(threads.listening(web.Server(server)))

        serving = contextlib.AsyncExitStack()
        port = loop.run(opened())
        stack.callback(lambda: loop.run(serving.aclose()))
        config = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))

        result = typer.testing.CliRunner().invoke(commands.app, ["doctor", "--json"])

    (found,) = [
        each for each in json.loads(result.stdout)["findings"] if each["check"] == "kubernetes"
    ]
    assert found["level"] == level
    assert f"1.{minor}" in found["what"]


@pytest.mark.parametrize("minor", ["30", "33", "35"])
def test_a_server_without_such_policies_needs_the_webhook(
    minor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Server({"major": "1", "minor": minor}).asked(support.needs_webhook)

    said = capsys.readouterr().err
    assert said.startswith(f"Kubernetes 1.{minor} does not serve MutatingAdmissionPolicy")
    assert "the component webhook is installed instead" in " ".join(said.split())


def test_what_an_older_server_does_not_have_is_left_out() -> None:
    objects = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "uimgacc"}},
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": "uimgacc-pods"},
        },
    ]

    kept = Server({"major": "1", "minor": "33"}).asked(
        lambda client: support.as_served(client, objects)
    )

    assert kept == objects[:1]
