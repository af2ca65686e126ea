"""`uimgacc create` on a cluster: whom a cache serves, credentials, and its bar on a terminal."""

import base64
import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator

import pytest
import typer.testing

from agent.cli import commands
from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from lab import places
from tests.control import builders, conftest

pytestmark = pytest.mark.timeout(300)

RUNNER = typer.testing.CliRunner()


@pytest.fixture
def made(plane: conftest.Plane) -> Iterator[None]:
    """What the commands make is gone at the end."""
    yield
    for each in plane.api.list(rest_client.IMAGE_CACHES):
        plane.made.append((rest_client.IMAGE_CACHES, each["metadata"]["name"]))


def environment(plane: conftest.Plane) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("UIMGACC_")}
    mine = {"KUBECONFIG": str(plane.kubeconfig), "UIMGACC_NAMESPACE": plane.api.namespace}
    return {**kept, **mine, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(places.CHECKOUT)}


@pytest.mark.usefixtures("made")
def test_a_cache_serves_whom_the_command_line_names(plane, monkeypatch) -> None:
    monkeypatch.delenv("UIMGACC_STORE", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    plane.controller()
    host = plane.server.address
    config = {"auths": {host: {"auth": base64.b64encode(b"u:p").decode()}}}
    data = {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()}
    body = {"metadata": {"name": "regcred"}, "type": "kubernetes.io/dockerconfigjson"}
    plane.api.create(rest_client.SECRETS, {**body, "data": data}, namespace=plane.api.namespace)
    image = ("--image", f"{host}/lab/gzip:1", "--plain-http", host)

    secret = ("--pull-secret", f"{plane.api.namespace}/regcred")
    keys = []
    for name, flags in {
        "team": ["--namespace=team", *secret],
        "all": ["--namespace=*", *secret],
    }.items():
        done = RUNNER.invoke(commands.app, ["create", name, *image, *flags, "--no-wait"])
        assert done.exit_code == 0, done.output
        keys.append(cache_object.Key("uimgacc.io", name))

    for key, namespaces in zip(keys, (["team"], None), strict=True):
        record = plane.reader.cache(plane.wait(key, "Ready")["imageCacheId"])
        assert record is not None
        assert record.namespaces == namespaces


class Terminal:
    """A command on a terminal of its own, and what it has shown so far."""

    def __init__(self, plane: conftest.Plane, *arguments: str) -> None:
        self.shown = ""
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            [*builders.COMMAND, *arguments],
            env=environment(plane),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def wait_for(self, text: str, *, seconds: float = 90) -> None:
        """Read until a text is shown."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self._ours], [], [], 1.0)
            assert time.monotonic() < deadline, self.shown[-500:]
            if ready:
                self.shown += os.read(self._ours, 1 << 16).decode("utf-8", "replace")

    def close(self) -> None:
        os.close(self._ours)
        self.process.kill()
        self.process.wait(60)


@pytest.mark.usefixtures("made")
def test_on_a_terminal_a_bar_follows_the_build(plane) -> None:
    """A sentence, a bar, percents and the time, drawn anew in place; gone when it is Ready."""
    plane.controller()
    host = plane.server.address
    plane.builders.held.set()
    arguments = ("--image", f"{host}/lab/gzip:1", "--plain-http", host)
    with contextlib.closing(Terminal(plane, "create", "tools", *arguments)) as terminal:
        terminal.wait_for("0%")
        terminal.wait_for("0:00:0")
        assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in terminal.shown
        terminal.wait_for("It is being built: ")
        plane.builders.held.clear()
        terminal.wait_for("tools is Ready as imc-")
        assert terminal.process.wait(60) == 0

    # The line of the bar is taken away before the result is printed.
    assert "\x1b[2K" in terminal.shown.partition("tools is Ready")[0][-200:]
