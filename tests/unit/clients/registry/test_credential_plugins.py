"""Credential plug-ins as the kubelet runs them: real programs, asked and killed."""

import asyncio
import json
import os
import pathlib
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clients.registry import credential_config, credential_plugins
from agent.model import images

VERSION = "credentialprovider.kubelet.k8s.io/v1"
# Of the kubelet's own documentation.
DOCUMENTED = """
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr-credential-provider
    matchImages:
      - "*.dkr.ecr.*.amazonaws.com"
      - "*.dkr.ecr.*.amazonaws.com.cn"
      - "*.dkr.ecr-fips.*.amazonaws.com"
      - "*.dkr.ecr.us-iso-east-1.c2s.ic.gov"
      - "registry.io:8080/path"
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args:
      - --v=4
    env:
      - name: AWS_PROFILE
        value: example_profile
"""


def answer(user: str = "alice", *, key: str = "r.io", kind: str = "Image", **more) -> str:
    auth = {key: {"username": user, "password": "p"}}
    body = {"kind": "CredentialProviderResponse", "apiVersion": VERSION, "cacheKeyType": kind}
    return json.dumps({**body, "auth": auth, **more})


class Folder:
    """A folder of plug-ins: shell programs that note each request."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def plugin(
        self, script: str, *, name: str = "plugin", seconds: float = 0, **more
    ) -> credential_config.Plugin:
        program = self.path / name
        program.write_text(f"#!/bin/sh\n{textwrap.dedent(script)}")
        program.chmod(0o755)
        return credential_config.Plugin(
            name=name,
            api_version=VERSION,
            patterns=more.pop("patterns", ("r.io",)),
            seconds=seconds,
            **more,
        )

    def saying(self, text: str, **more) -> credential_config.Plugin:
        """A plug-in with this answer to everything."""
        (self.path / f"answer-{more.get('name', 'plugin')}").write_text(text)
        return self.plugin(
            'cat >>"$0.asked"; echo >>"$0.asked"; cat "${0%/*}/answer-${0##*/}"', **more
        )

    def asked(self, name: str = "plugin") -> list[str]:
        """The images that a plug-in was asked about."""
        noted = self.path / f"{name}.asked"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [json.loads(line)["image"] for line in lines]

    async def users(self, plugin, *names: str, deadline: float = 30) -> list[str]:
        plugins = credential_plugins.Plugins([plugin], self.path, deadline=deadline)
        found = [await plugins.credentials(images.parse_reference(name)) for name in names]
        return [credential.username for each in found for credential in each]


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


async def test_it_is_asked_for_the_repository_in_the_words_of_its_version(folder) -> None:
    plugin = folder.saying(answer())

    assert await folder.users(plugin, "r.io/team/app:1@sha256:" + "0" * 64) == ["alice"]

    noted = json.loads((folder.path / "plugin.asked").read_text())
    assert noted == {
        "kind": "CredentialProviderRequest",
        "apiVersion": VERSION,
        "image": "r.io/team/app",
    }


async def test_it_is_not_asked_about_images_of_others(folder) -> None:
    plugin = folder.saying(answer(), patterns=("r.io/team", "*.r.io:5000"))

    assert await folder.users(plugin, "r.io/other/app", "a.r.io/app") == []
    assert folder.asked() == []
    assert await folder.users(plugin, "r.io/team/app") == ["alice"]


async def test_what_it_answers_for_other_images_is_not_used(folder) -> None:
    plugin = folder.saying(answer(key="other.io"))

    assert await folder.users(plugin, "r.io/app") == []


async def test_it_gets_its_arguments_and_environment_besides_ours(folder, monkeypatch) -> None:
    monkeypatch.setenv("OURS", "1")
    said = answer("$1-$THEIRS-$OURS").replace('"', '\\"')
    plugin = folder.plugin(f'echo "{said}"', arguments=("--x",), environment={"THEIRS": "2"})

    assert await folder.users(plugin, "r.io/app") == ["--x-2-1"]


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("Image", ["r.io/a", "r.io/b", "s.io/c"]),
        ("Registry", ["r.io/a", "s.io/c"]),
        ("Global", ["r.io/a"]),
    ],
)
async def test_an_answer_holds_for_what_it_says(folder, kind, asked) -> None:
    plugin = folder.saying(
        answer(key="*.io", kind=kind, cacheDuration="1h"), patterns=("r.io", "s.io")
    )

    await folder.users(plugin, "r.io/a:1", "r.io/a:2", "r.io/b", "s.io/c")

    assert folder.asked() == asked


@pytest.mark.parametrize(
    ("said", "default", "times"),
    [("0s", 3600, 2), (None, 3600, 1), (None, 0, 2), ("1h", 0, 1), ("1ns", 3600, 2)],
)
async def test_an_answer_holds_for_as_long_as_it_says(folder, said, default, times) -> None:
    plugin = folder.saying(answer(cacheDuration=said), seconds=default)

    await folder.users(plugin, "r.io/a", "r.io/a")

    assert len(folder.asked()) == times


async def test_many_images_at_once_are_one_question(folder) -> None:
    plugin = folder.saying(answer(kind="Registry", cacheDuration="1h"))
    plugins = credential_plugins.Plugins([plugin], folder.path)

    await asyncio.gather(
        *(plugins.credentials(images.parse_reference(f"r.io/app-{number}")) for number in range(9))
    )

    assert len(folder.asked()) == 1


@pytest.mark.parametrize(
    "script",
    [
        "echo no account >&2; exit 3",
        "echo '{}'",
        "echo not JSON",
        "printf '\\377\\376'",
        "kill -9 $$",
        "echo '" + answer().replace(VERSION, "credentialprovider.kubelet.k8s.io/v1beta1") + "'",
        "echo '" + answer(kind="Everything") + "'",
        "echo '" + answer(cacheDuration="-1h") + "'",
        "yes | head -c 3000000",
    ],
)
async def test_one_that_fails_is_as_one_that_knows_nothing(folder, script, caplog) -> None:
    bad, good = folder.plugin(script, name="bad"), folder.saying(answer(), name="good")
    plugins = credential_plugins.Plugins([bad, good], folder.path)

    found = await plugins.credentials(images.parse_reference("r.io/app"))

    assert [credential.source for credential in found] == ["credential plug-in good"]
    (record,) = caplog.records
    assert "credential plug-in bad" in record.reason


async def test_one_that_is_not_there_is_named_with_its_folder(folder, caplog) -> None:
    plugin = folder.saying(answer())
    (folder.path / "plugin").unlink()

    assert await folder.users(plugin, "r.io/app") == []
    assert f"{folder.path}/plugin: No such file" in caplog.records[0].reason


async def test_one_that_hangs_is_killed_with_all_that_it_has_started(folder, caplog) -> None:
    plugin = folder.plugin('echo $$ >"$0.pids"; sleep 600 & echo $! >>"$0.pids"; wait')

    assert await folder.users(plugin, "r.io/app", deadline=2) == []

    assert "no answer within 2 s" in caplog.records[0].reason
    for number in (folder.path / "plugin.pids").read_text().split():
        wait_for_end(int(number))


async def test_a_helper_that_outlives_it_and_holds_its_output_is_killed_too(folder) -> None:
    plugin = folder.plugin('sleep 600 & echo $! >"$0.pids"; exit 0')

    assert await folder.users(plugin, "r.io/app", deadline=2) == []

    wait_for_end(int((folder.path / "plugin.pids").read_text()))


def wait_for_end(number: int) -> None:
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{number}"):
        state = pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            return
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.01)


async def test_no_secret_is_shown(folder, caplog) -> None:
    caplog.set_level(0)
    plugin = folder.saying(
        answer(cacheKeyType=["hunter2"]).replace('"p"', '"hunter2"'),
        environment={"TOKEN": "hunter2"},
    )

    await folder.users(plugin, "r.io/app")

    shown = [repr(plugin), *(str(vars(record)) for record in caplog.records)]
    assert len(shown) > 1
    assert not any("hunter2" in text for text in shown)


def test_the_documented_file_is_read(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(DOCUMENTED)

    (plugin,) = credential_config.read(path)

    assert (plugin.name, plugin.seconds) == ("ecr-credential-provider", 12 * 3600)
    assert (plugin.arguments, plugin.environment) == (
        ("--v=4",),
        {"AWS_PROFILE": "example_profile"},
    )
    known = {
        "1.dkr.ecr.eu-west-1.amazonaws.com/app": True,
        "1.dkr.ecr.cn-north-1.amazonaws.com.cn/app": True,
        "dkr.ecr.eu-west-1.amazonaws.com/app": False,
        "registry.io:8080/path/app": True,
        "registry.io:8080/app": False,
        "registry.io/path/app": False,
    }
    found = {name: plugin.knows(images.parse_reference(name)) for name in known}
    assert found == known


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v2", "apiVersion"),
        ("kind: CredentialProviderConfig", "kind: Config", "kind"),
        ("name: ecr-credential-provider", "name: ../ecr", "name"),
        ("name: ecr-credential-provider", 'name: "a b"', "name"),
        ("name: ecr-credential-provider", "names: a", "names"),
        ("credentialprovider.kubelet.k8s.io/v1", "v1", "apiVersion"),
        ('"12h"', "12", "defaultCacheDuration"),
        ('"12h"', '"-1h"', "-1h"),
        ('"registry.io:8080/path"', "https://registry.io", "matchImages"),
        ("    args:", "    tokenAttributes: {}\n    args:", "tokenAttributes"),
        ("providers:", "providers: []\nothers:", "others"),
        ("apiVersion", "\t", "token"),
    ],
)
def test_what_the_kubelet_would_refuse_is_refused(tmp_path, old, new, named) -> None:
    path = tmp_path / "config.yaml"
    assert old in DOCUMENTED
    path.write_text(DOCUMENTED.replace(old, new, 1))

    with pytest.raises(credential_config.PluginConfigError, match=named) as caught:
        credential_config.read(path)

    assert str(path) in str(caught.value)
    assert "example_profile" not in str(caught.value)


def test_two_plugins_of_one_name_are_refused(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    provider = DOCUMENTED.partition("providers:")[2]
    path.write_text(DOCUMENTED + provider)

    with pytest.raises(credential_config.PluginConfigError, match="twice"):
        credential_config.read(path)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_is_read_or_refused(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("any") / "config"
    path.write_bytes(data)

    with pytest.raises(credential_config.PluginConfigError):
        credential_config.read(path)
