"""`uimgacc bugreport`: what is in it, and that no planted secret is."""

import asyncio
import base64
import itertools
import json
import os
import pathlib
import re
import tarfile
from typing import Any

import pytest
import typer.testing

from agent.cli import commands
from agent.cli.bugreport import cluster_material
from agent.clients.kube import rest_client
from agent.model import keys
from lab import places
from tests.control import test_status
from tests.kube import apis, emulating, servers

RUNNER = typer.testing.CliRunner()
PLANTED = "Pl4nted-S3cret-"
"""What each of the secrets begins with."""
LABELS = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "node"}

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(servers.is_cluster(), reason="makes an installation"),
]


_numbers = itertools.count(10)


def secret() -> str:
    """Another one for each place: one that is found in one place is taken out of all others."""
    return f"{PLANTED}{next(_numbers)}"


def login() -> str:
    return base64.b64encode(f"robot:{secret()}".encode()).decode()


def docker() -> str:
    return json.dumps({"auths": {"registry.example.com": {"auth": login()}}})


def content(path: pathlib.Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {
            member.name.partition("/")[2]: tar.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in tar
        }


def hidden_in(text: str, depth: int = 3) -> bool:
    """Whether the secret is in a text, in the clear or in base64, also of base64."""
    if PLANTED in text:
        return True
    tokens = set(re.findall(r"[A-Za-z0-9+/_-]{8,}", text)) if depth else ()
    return any(hidden_in(decoded, depth - 1) for token in tokens for decoded in readings(token))


def readings(token: str) -> list[str]:
    found = []
    for start in range(4):
        part = token[start:].replace("-", "+").replace("_", "/")
        part = part[: len(part) // 4 * 4]
        if len(part) >= 8:
            found.append(base64.b64decode(part).decode("latin-1"))
    return found


def plant(api: apis.Api) -> None:
    """A secret in every place that a report looks at."""
    shared = secret()
    node = api.node(labels={}, annotations={"inventory": f"https://robot:{secret()}@example.com/"})
    condition = {
        "type": keys.NODE_CONDITION,
        "status": "False",
        "reason": "StoreUnavailable",
        "message": f"mount: options rw,username=u,password={secret()}",
    }
    api.patch(
        rest_client.NODES,
        node,
        {"status": {"conditions": [condition]}},
        subresource="status",
        how=rest_client.Patch.STRATEGIC,
    )
    lines = [
        json.dumps({"level": "error", "text": "pull", "authorization": f"Basic {login()}"}),
        f"GET https://registry.example.com/v2/?token={secret()}",
        f"connected with {shared}",
        json.dumps({"msg": docker()}),
    ]
    status = {"node": {"reason": f"Authorization: Bearer {secret()}"}, "pods": []}
    annotations = {
        f"{emulating.LOG}agent": "\n".join(lines),
        f"{emulating.PREVIOUS_LOG}agent": f"password: {secret()}",
        emulating.ANSWER: json.dumps(status),
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"password": secret()}),
    }
    env = [
        {"name": "REGISTRY_PASSWORD", "value": shared},
        {"name": "HTTPS_PROXY", "value": f"http://u:{secret()}@proxy:3128"},
    ]
    container = {
        "name": "agent",
        "image": "registry/uimgacc:1",
        "env": env,
        "args": ["agent", "--token", secret()],
    }
    api.pod(
        "agent-0", node, labels=LABELS, annotations=annotations, spec={"containers": [container]}
    )
    restarted = {"name": "agent", "restartCount": 3, "ready": False, "image": "i", "imageID": "i"}
    api.pod_status("agent-0", {"phase": "Running", "containerStatuses": [restarted]})
    api.create(
        rest_client.SECRETS,
        {
            "metadata": {"name": "registry"},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(docker().encode()).decode()},
        },
        namespace=api.namespace,
    )
    hosts = f'server = "https://m"\n[host."https://m".header]\n  x-key = ["{secret()}"]\n'
    data = {
        "UIMGACC_NFS": "10.0.0.5:/uimgacc",
        "hosts.toml": hosts,
        "config.json": docker(),
        "encoded": base64.b64encode(docker().encode()).decode(),
        "password": secret(),
    }
    api.create(
        rest_client.CONFIG_MAPS,
        {"metadata": {"name": "uimgacc"}, "data": data},
        namespace=api.namespace,
    )
    event = {
        "metadata": {"name": "e1"},
        "reason": "Failed",
        "type": "Warning",
        "message": f"pull of x: Get https://u:{secret()}@registry.example.com/v2/",
        "involvedObject": {"kind": "Pod", "name": "agent-0", "namespace": api.namespace},
    }
    api.create(rest_client.EVENTS, event, namespace=api.namespace)


def plant_cache(api: apis.Api) -> str:
    name = f"bug-{api.namespace}"
    body = {
        "apiVersion": keys.API_VERSION,
        "kind": "ImageCache",
        "metadata": {"name": name, "annotations": {"note": f"token={secret()}"}},
        "spec": {"images": ["registry.example.com/app:1"]},
    }
    api.create(rest_client.IMAGE_CACHES, body)
    message = f"The build failed: https://u:{secret()}@registry.example.com/v2/: 401"
    api.patch(
        rest_client.IMAGE_CACHES,
        name,
        {"status": {"phase": "Failed", "message": message}},
        subresource="status",
    )
    return name


@pytest.fixture
def written(
    api: apis.Api, kinds: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The files of a report about a cluster with secrets everywhere."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    monkeypatch.setenv("UIMGACC_NAMESPACE", api.namespace)
    for resource, name, container in (
        (rest_client.DAEMON_SETS, keys.AGENTS, "agent"),
        (rest_client.DEPLOYMENTS, "uimgacc-controller", "controller"),
    ):
        made = test_status.workload(name, container)
        made["spec"]["template"]["spec"]["containers"][0]["env"] = [
            {"name": "SIGNING_KEY", "value": secret()}
        ]
        api.create(resource, made, namespace=api.namespace)
    plant(api)
    cache = plant_cache(api)
    path = tmp_path / "report.tar.gz"
    try:
        result = RUNNER.invoke(commands.app, ["bugreport", "-o", str(path), "--json"])
    finally:
        api.delete(rest_client.IMAGE_CACHES, cache)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["file"] == str(path)
    assert not hidden_in(result.output)
    return content(path)


def test_no_planted_secret_is_in_the_archive_in_any_form(written) -> None:
    assert {name for name, text in written.items() if hidden_in(text)} == set()
    # The planted places were read.
    for name in (
        "objects/nodes.json",
        "objects/pods.json",
        "objects/configmaps.json",
        "objects/events.json",
        "objects/daemonsets.json",
        f"objects/imagecaches.{keys.GROUP}.json",
    ):
        assert "REDACTED" in written[name], name


def test_a_maintainer_finds_what_he_needs(written) -> None:
    manifest = json.loads(written["manifest.json"])
    nodes: list[dict[str, Any]] = json.loads(written["objects/nodes.json"])
    maps = json.loads(written["objects/configmaps.json"])

    assert manifest["uimgacc"]
    assert "StoreUnavailable" in json.dumps(nodes)
    assert "10.0.0.5:/uimgacc" in json.dumps(maps)
    assert json.loads(written["status.json"])["problems"]
    assert "DOES IT WORK" in written["status.txt"]
    assert "secrets" not in " ".join(written)
    assert [each for each in manifest["files"] if each["name"] == "version.json"]


@pytest.mark.skipif(servers.is_real(), reason="no kubelet has logs, and no agent answers")
def test_logs_and_what_agents_say_are_in_it(written) -> None:
    log = written["logs/agent-0/agent.log"]
    (answer,) = (
        text
        for name, text in written.items()
        if name.endswith("/status.json") and "agents/" in name
    )

    assert "connected with REDACTED" in log
    assert "registry.example.com/v2/?token=REDACTED" in log
    assert written["logs/agent-0/agent.previous.log"] == "password: REDACTED"
    assert json.loads(answer)["pods"] == []


def test_what_could_not_be_read_is_listed_with_its_reason(
    api, kinds, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    monkeypatch.setenv("UIMGACC_NAMESPACE", api.namespace)
    node = api.node()
    api.pod("agent-0", node, labels=LABELS)
    path = tmp_path / "r.tar.gz"

    result = RUNNER.invoke(commands.app, ["bugreport", "-o", str(path)])

    missing = json.loads(content(path)["manifest.json"])["missing"]
    assert {f"agents/{node}/status.json", "logs/agent-0/c.log"} <= missing.keys()
    assert "not in it: logs/agent-0/c.log: " in result.output
    assert "look through it before you send it" in result.output


def test_a_report_that_takes_too_long_is_written_with_what_is_there(
    api, kinds, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    path = tmp_path / "r.tar.gz"

    async def hang(_self: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(cluster_material.Material, "_status", hang)

    result = RUNNER.invoke(commands.app, ["bugreport", "-o", str(path), "--seconds", "1"])

    assert result.exit_code == 0, result.output
    manifest = json.loads(content(path)["manifest.json"])
    assert [each["name"] for each in manifest["files"]] == ["version.json"]
    assert "--seconds" in " ".join(manifest["missing"].values())


@pytest.mark.skipif(os.geteuid() != 0, reason="the doctor tries mounts")
def test_one_machine_without_a_cluster(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "config.toml"
    table = 'plugins."io.containerd.grpc.v1.cri".registry.configs."registry.example.com".auth'
    config.write_text(f'version = 2\n[{table}]\nusername = "robot"\npassword = "{secret()}"\n')
    binary = places.CONTAINERDS["1.7"] / "containerd"
    path = tmp_path / "r.tar.gz"

    result = RUNNER.invoke(
        commands.app,
        [
            "bugreport",
            "--node",
            "-o",
            str(path),
            f"--config={config}",
            f"--containerd-binary={binary}",
        ],
    )

    assert result.exit_code == 0, result.output
    files = content(path)
    assert {name for name, text in files.items() if hidden_in(text)} == set()
    assert "registry.example.com" in files["machine/containerd-config.toml"]
    assert " / " in files["machine/proc/self/mountinfo"]
    assert {each["check"] for each in json.loads(files["machine/doctor.json"])} >= {"erofs"}
    missing = json.loads(files["manifest.json"])["missing"]
    assert "no agent answers" in missing["machine/agent-status"]
