"""UCloud's API end to end: the official SDK asks a controller that really builds and pushes."""

import base64
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ucloud import client as official
from ucloud.core import exc

from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.matching import decisions
from agent.model import caches, images, pods
from agent.ucloud import accelerated_images
from lab import services
from lab.samples import pushing, tars
from tests.control import conftest, rights
from tests.kube import apis, servers
from tests.manifests import rendering
from tests.unit.matching import making

pytestmark = pytest.mark.timeout(300)

KEYS = {"the-public-key": "the-private-key-of-a-test"}
NFS = "10.9.8.7:/uimgacc"
PASSWORD = "of-uhub-4711"
CONFIG_MAPS = rest_client.Resource(plural="configmaps")
SCRIPT = os.environ.get("UIMGACC_UCLOUD_SCRIPT", "")


class Caller:
    """Who uses UCloud's SDK, as their script does: it asks and waits for the end."""

    def __init__(self, url: str, *, private: str = KEYS["the-public-key"]) -> None:
        self.url = url
        self.client = official.Client(
            {
                "region": "cn-wlcb",
                "project_id": "org-1",
                "public_key": "the-public-key",
                "private_key": private,
                "base_url": url,
            }
        )

    def ask(self, action: str, **parameters: str) -> dict[str, Any]:
        arguments = {"ClusterId": "uk8s-1", **parameters}
        return dict(self.client.invoke(f"{action}UK8SImageAccelerate", arguments))

    def enable(self, **parameters: str) -> None:
        known = {"UHubUsername": "alice", "UHubPassword": PASSWORD}
        self.ask("Enable", NfsAddr="10.9.8.7", SubnetId="subnet-1", **{**known, **parameters})
        apis.wait_until(lambda: self.ask("Get")["AgentReady"], seconds=60)

    def wait(self, *, seconds: float = 90) -> dict[str, Any]:
        """How it is when nothing is under way."""
        deadline = time.monotonic() + seconds
        while (found := self.ask("Get"))["Status"] in ("Creating", "Deleting"):
            assert found["Images"] == []
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return found


class Pusher(pushing.Pusher):
    """The lab's, with a password."""

    def request(self, method, path, body, headers, expected) -> None:
        said = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
        super().request(method, path, body, {**headers, "Authorization": f"Basic {said}"}, expected)


class UHub:
    """A registry that asks for a password to pull and to push."""

    def __init__(self, server: services.Registry) -> None:
        self.server = server

    def name(self, rest: str) -> str:
        return f"{self.server.address}/{rest}"

    def push(self, repository: str, content: bytes) -> pushing.Pushed:
        layers = [
            pushing.layer([tars.file("file", content)]),
            pushing.layer([tars.file("other", content * 2)]),
        ]
        with contextlib.closing(Pusher(self.server.address)) as to:
            return to.image(repository, "1", layers)

    def digest(self, repository: str, tag: str) -> str:
        accept = "application/vnd.oci.image.manifest.v1+json"
        return pushing.sha256(self.server.get(f"{repository}/manifests/{tag}", accept=accept))


@pytest.fixture
def uhub(tmp_path: pathlib.Path) -> Iterator[UHub]:
    with services.Registry(
        tmp_path / "uhub", storage=tmp_path / "storage", users={"alice": PASSWORD}
    ) as running:
        yield UHub(running)


@pytest.fixture
def caller(plane: conftest.Plane, uhub: UHub, folder: pathlib.Path) -> Iterator[Caller]:
    """A controller with the API, in a cluster where the agents are installed."""
    yield started(plane, uhub, folder)
    clear(plane)


def started(plane: conftest.Plane, uhub: UHub, folder: pathlib.Path) -> Caller:
    keys = folder / "keys.json"
    keys.write_text(json.dumps(KEYS))
    keys.chmod(0o644)
    labels = {"app": "uimgacc-node"}
    container = {"name": "agent", "image": "i", "env": [{"name": "OTHER", "value": "1"}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    plane.api.create(
        rest_client.DAEMON_SETS,
        {
            "metadata": {"name": "uimgacc-node"},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        namespace=plane.api.namespace,
    )
    return replica(plane, uhub, folder, conftest.POD)


def replica(plane: conftest.Plane, uhub: UHub, folder: pathlib.Path, name: str) -> Caller:
    """One of the controllers, and who asks it."""
    controller = plane.controller(
        "--api-listen=127.0.0.1:0",
        f"--api-keys={folder / 'keys.json'}",
        "--cluster-id=uk8s-1",
        f"--nfs={NFS}",
        f"--uhub={uhub.server.address}",
        f"--plain-http={uhub.server.address}",
        "--retry-seconds=3600",
        name=name,
    )

    def where() -> str:
        told = [line for line in controller.lines() if "the API is listening" in str(line)]
        return told[0]["address"] if told else ""

    apis.wait_until(where, seconds=60)
    return Caller(f"http://{where()}/ucloud")


def clear(plane: conftest.Plane) -> None:
    """What the API has made goes with the test."""
    for each in plane.api.list(rest_client.IMAGE_CACHES):
        name = each["metadata"]["name"]
        if name.startswith("ucloud-"):
            plane.made.append((rest_client.IMAGE_CACHES, name))


def refusal(caller: Caller, action: str, **parameters: str) -> str:
    """Why the API refuses; the test fails if it does not."""
    with pytest.raises(exc.RetCodeException) as caught:
        caller.ask(action, **parameters)
    return f"{caught.value.code}: {caught.value.message}"


def drains(plane: conftest.Plane) -> list[str]:
    """The environment of the agents."""
    found = plane.api.get(rest_client.DAEMON_SETS, "uimgacc-node", namespace=plane.api.namespace)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return sorted(f"{each['name']}={each['value']}" for each in container["env"])


def test_an_image_is_made_used_and_deleted(plane, caller, uhub) -> None:
    original, target = uhub.name("team/big:1"), uhub.name("team/big:1-acc")
    pushed = uhub.push("team/big", b"big")
    caller.enable()

    caller.ask("Create", OriginalImage=original, TargetImage=target)
    found = caller.wait()

    (image,) = found.pop("Images")
    assert found == {
        "Action": "GetUK8SImageAccelerateResponse",
        "RetCode": 0,
        "Enable": True,
        "NfsReady": True,
        "AgentReady": True,
        "Status": "Ready",
        "Error": "",
        "SubnetId": "subnet-1",
        "NfsAddr": "10.9.8.7",
    }
    assert image.pop("Size") > 0
    assert image == {"OriginalImage": original, "TargetImage": target, "Layers": 2}
    assert uhub.digest("team/big", "1-acc") == pushed.digest
    # The cache holds both names of the one image.
    key = accelerated_images.name_of(images.parse_reference(original))
    apis.wait_until(lambda: held(plane, key) == {original, target}, seconds=60)
    # UCloud's sample pod, which is in `default`, finds the target ahead of its pull.
    found_it = decided(plane, target, "default")
    assert found_it.outcome is decisions.Outcome.HIT
    assert [each.image for each in found_it.registrable] == [target]
    # What the user of UHub has opened is not for everybody: others' pulls ask the registry first.
    others = decided(plane, target, "another-team")
    assert others.outcome is decisions.Outcome.FORBIDDEN
    assert (others.registrable, len(others.layers)) == ((), 2)
    assert [event.reason for event in others.events] == ["ImageCacheRestricted"]

    caller.ask("Delete", Image=original)
    assert caller.wait()["Images"] == []
    assert list(plane.reader.caches()) == []
    text = [plane.said(), json.dumps(plane.api.list(rest_client.IMAGE_CACHES))]
    text += [path.read_text() for path in plane.store.root.rglob("*.json")]
    assert not [each for each in text if PASSWORD in each]


def decided(plane: conftest.Plane, target: str, namespace: str) -> decisions.Decision:
    """What an agent decides for UCloud's sample pod by the store as it is."""
    example = rendering.MANIFESTS / "examples" / "ucloud-pod.yaml"
    pod = yaml.safe_load(example.read_text())
    pod["metadata"]["namespace"] = namespace
    pod["spec"]["containers"][0]["image"] = target
    views = [caches.cache_of(record) for record in plane.reader.caches()]
    return making.decide(pods.parse_pod(pod), views, plane.reader.images())


def held(plane: conftest.Plane, name: str) -> set[str]:
    """The images of a Ready cache, by the store."""
    found = [cache for cache in plane.reader.caches() if cache.name == name]
    return {image.ref for cache in found for image in cache.images}


def test_errors_are_told_and_end_with_the_next_operation(plane, caller, uhub) -> None:
    uhub.push("team/good", b"good")
    caller.enable()
    missing = uhub.name("team/missing:1")
    caller.ask("Create", OriginalImage=missing, TargetImage=f"{missing}-acc")
    found = caller.wait()
    assert found["Status"] == "CreateError"
    assert "team/missing" in found["Error"]

    good = uhub.name("team/good:1")
    caller.ask("Create", OriginalImage=good, TargetImage=uhub.name("team/good:acc"))
    found = caller.wait()

    assert (found["Status"], found["Error"]) == ("Ready", "")
    assert [image["OriginalImage"] for image in found["Images"]] == [good]
    assert "1003: " in refusal(
        caller, "Create", OriginalImage=good, TargetImage=uhub.name("team/good:other")
    )
    assert "1002: " in refusal(caller, "Delete", Image=missing)
    # Again, as it is: nothing to do.
    caller.ask("Create", OriginalImage=good, TargetImage=uhub.name("team/good:acc"))
    assert caller.ask("Get")["Status"] == "Ready"


def test_one_operation_at_a_time_and_a_failed_one_may_be_repeated(
    plane, caller, uhub, folder
) -> None:
    uhub.push("team/one", b"one")
    caller.enable()
    plane.pod("controller-1")
    of_other = replica(plane, uhub, folder, "controller-1")
    apis.wait_until(lambda: of_other.ask("Get")["AgentReady"], seconds=60)
    one = {"OriginalImage": uhub.name("team/one:1"), "TargetImage": uhub.name("team/one:acc")}
    plane.builders.held.set()
    caller.ask("Create", **one)

    other = {"OriginalImage": uhub.name("team/two:1"), "TargetImage": uhub.name("team/two:acc")}
    assert refusal(caller, "Create", **other).startswith("2001: ")
    # The controller that does not lead knows it as well.
    assert refusal(of_other, "Disable").startswith("2001: ")
    assert of_other.ask("Get")["Status"] == "Creating"
    plane.builders.held.clear()
    assert caller.wait()["Status"] == "Ready"

    caller.ask("Create", **other)
    assert caller.wait()["Status"] == "CreateError"
    uhub.push("team/two", b"two")
    of_other.ask("Create", **other)
    found = of_other.wait()
    assert (found["Status"], len(found["Images"])) == ("Ready", 2)


def page_of(caller: Caller, form: str = "", **fields: str) -> str:
    """The page for people, on the same port; after a form has been sent, where one is named."""
    pair = f"the-public-key:{KEYS['the-public-key']}"
    request = urllib.request.Request(
        f"{caller.url.removesuffix('ucloud')}{form}",
        data=urllib.parse.urlencode(fields).encode() if form else None,
        headers={"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


def hidden(text: str, name: str) -> str:
    """The value of a hidden field of the page, the last of this name."""
    return re.findall(f'name="{name}" value="([^"]+)"', text)[-1]


def use_forms(plane: conftest.Plane, caller: Caller, image: str) -> None:
    """A person makes a cache of an image on the page, with UHub's password, and deletes it."""
    name, secret = "made-on-the-page", f"{plane.api.namespace}/uimgacc-uhub"
    key = cache_object.Key("uimgacc.io", name)
    plane.made.append((rest_client.IMAGE_CACHES, name))
    token = hidden(page_of(caller), "token")
    fields = {"images": image, "secrets": secret, "namespaces": "team", "size": "25", "days": "7"}

    said = page_of(caller, "create-cache", token=token, name=name, **fields)

    assert f"The cache {name} is being created." in said
    assert plane.get(key)["spec"] == {
        "images": [image],
        "imagePullSecrets": [secret],
        "namespaces": ["team"],
        "imageCacheSize": 25,
        "retentionDays": 7,
    }
    plane.wait(key, "Ready")
    assert held(plane, name) == {image}
    uid = plane.get(key)["metadata"]["uid"]
    fields = {"group": key.group, "name": name, "uid": uid}
    assert "is being deleted" in page_of(caller, "delete-cache", token=token, **fields)
    apis.wait_until(lambda: plane.gone(key), seconds=60)
    assert held(plane, name) == set()


def test_it_is_switched_on_and_off(plane, caller) -> None:
    plane.apply("shown-on-the-page", "lab/gzip:1")
    plane.api.node(labels={"uimgacc": "true"}, annotations={"uimgacc.io/saved": '{"seconds": 90}'})
    shown = page_of(caller)
    assert "shown-on-the-page" in shown
    assert "1 min" in shown
    stranger = Caller(caller.url, private="another-private-key")
    assert refusal(stranger, "Disable") == "171: Signature VerifyAC Error"
    assert caller.ask("Get")["Enable"] is False
    assert refusal(caller, "Create", OriginalImage="a:1", TargetImage="a:2").startswith("1001: ")

    caller.enable()
    assert caller.ask("Get")["Enable"] is True
    assert drains(plane) == ["OTHER=1"]
    assert "uimgacc-uhub" in plane.builders.secrets()

    caller.ask("Disable")
    assert caller.ask("Get")["Enable"] is False
    assert drains(plane) == ["OTHER=1", "UIMGACC_DRAIN=true"]
    assert "uimgacc-uhub" not in plane.builders.secrets()

    caller.enable(UHubUsername="", UHubPassword="")
    assert drains(plane) == ["OTHER=1"]
    assert "uimgacc-uhub" not in plane.builders.secrets()


def test_the_forms_of_the_page_make_and_delete_a_cache(plane, caller, uhub) -> None:
    uhub.push("team/form", b"form")
    caller.enable()

    use_forms(plane, caller, uhub.name("team/form:1"))


@servers.needs_own
def test_it_lives_within_the_rights_of_the_manifests(plane, uhub, folder) -> None:
    """Everything that the API does, by the controller's own account."""
    uhub.push("team/app", b"app")
    original = uhub.name("team/app:1")
    with rights.applied(plane, "controller", "api"):
        caller = started(plane, uhub, folder)
        caller.enable()
        caller.ask("Create", OriginalImage=original, TargetImage=uhub.name("team/app:acc"))
        assert caller.wait()["Status"] == "Ready"
        assert "team/app" in page_of(caller)
        use_forms(plane, caller, original)
        caller.ask("Delete", Image=original)
        assert caller.wait()["Status"] == "Ready"
        caller.ask("Disable")
        caller.enable()
        # Before its roles go.
        rights.none_missing(plane.controllers[0])
    clear(plane)


@pytest.mark.skipif(not SCRIPT, reason="UIMGACC_UCLOUD_SCRIPT names no uimgacc.py")
def test_the_script_of_ucloud_works(caller, uhub, tmp_path) -> None:
    """Its configuration filled in as its README says, its endpoint ours; all else is theirs."""
    original, target = uhub.name("team/script:1"), uhub.name("team/script:1-acc")
    uhub.push("team/script", b"script")
    text = pathlib.Path(SCRIPT).read_text()
    config = {
        "public_key": "the-public-key",
        "private_key": KEYS["the-public-key"],
        "cluster_id": "uk8s-1",
        "nfs_addr": "10.9.8.7",
        "uhub_username": "alice",
        "uhub_password": PASSWORD,
    }
    for name, value in config.items():
        text = text.replace(f'"{name}": ""', f'"{name}": "{value}"')
    text, count = re.subn(r"Client\(\{", f'Client({{"base_url": "{caller.url}",', text)
    assert count == 1
    path = tmp_path / "uimgacc.py"
    path.write_text(text)

    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, path, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )

    for arguments in (["enable"], ["create", original, target], ["get"]):
        done = script(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        # Its README: false for a while after enabling.
        apis.wait_until(lambda: caller.ask("Get")["AgentReady"], seconds=60)
    shown = json.loads(done.stdout[done.stdout.index("{") :])
    assert [image["TargetImage"] for image in shown["Images"]] == [target]
    failed = script("create", uhub.name("team/none:1"), uhub.name("team/none:acc"))
    assert failed.returncode == 1
    assert "team/none" in failed.stdout
    for arguments in (["delete", original], ["disable"]):
        done = script(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    assert uhub.digest("team/script", "1-acc") == uhub.digest("team/script", "1")
