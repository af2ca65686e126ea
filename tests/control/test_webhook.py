"""The admission webhook of two controllers as processes, in front of the lab's API server."""

import base64
import contextlib
import copy
import json
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from agent.clients.kube import rest_client
from agent.control.admission import certificates, webhook_server
from agent.model import keys
from tests.control import conftest, rights
from tests.kube import apis, servers
from tests.manifests import calling, cases, rendering

pytestmark = pytest.mark.timeout(300)

HOOKS = rest_client.WEBHOOK_CONFIGURATIONS
SPARE = "controller-1"


@pytest.fixture
def configured(plane: conftest.Plane) -> Iterator[None]:
    """The objects of the component, without a namespace in the real server's way."""
    documents = rendering.together("runtimeclass", "nvidia", "controller", "webhook")
    hook: Any = copy.deepcopy(
        rendering.only(documents, "MutatingWebhookConfiguration", keys.WEBHOOK_CONFIGURATION)
    )
    for webhook in hook["webhooks"]:
        webhook["objectSelector"] = {"matchLabels": {keys.NO_POD: "no-pod-has-this"}}
    made = [(HOOKS, hook)]
    made += [
        (rest_client.RUNTIME_CLASSES, each) for each in rendering.of_kind(documents, "RuntimeClass")
    ]
    for resource, body in made:
        with contextlib.suppress(apis.RefusedError):
            plane.api.create(resource, dict(body))
    # A node that can take the pods.
    plane.api.node(labels={keys.HANDLER_LABEL: "true"})
    yield
    for resource, body in made:
        plane.api.delete(resource, body["metadata"]["name"])


def listening(controller: conftest.Controller) -> int:
    """The port of a controller's webhook, once it listens."""
    found: list[int] = []

    def listens() -> bool:
        found.extend(
            int(line["address"].rpartition(":")[2])
            for line in controller.lines()
            if line["message"] == "the webhook is listening"
        )
        return bool(found)

    apis.wait_until(listens)
    return found[0]


def bundle(plane: conftest.Plane) -> bytes:
    webhooks = plane.api.get(HOOKS, keys.WEBHOOK_CONFIGURATION)["webhooks"]
    (text,) = {each["clientConfig"].get("caBundle", "") for each in webhooks}
    return base64.b64decode(text)


def asked(plane: conftest.Plane, port: int, pod: Any) -> Any:
    """What the webhook at a port makes of a pod, for who trusts what the cluster does."""
    context = ssl.create_default_context(cadata=bundle(plane).decode())
    name = f"{keys.WEBHOOK}.{plane.api.namespace}.svc"
    with contextlib.closing(calling.connection(port, context, name=name)) as connection:
        body = json.dumps(calling.review_of(pod))
        connection.request("POST", webhook_server.PODS, body, {"Content-Type": "application/json"})
        return calling.patched(pod, json.loads(connection.getresponse().read()))


def two(plane: conftest.Plane) -> list[conftest.Controller]:
    plane.pod(SPARE)
    return [
        plane.controller("--webhook-listen=127.0.0.1:0", name=name)
        for name in (conftest.POD, SPARE)
    ]


@pytest.mark.usefixtures("configured")
def test_each_of_two_controllers_moves_pods(plane: conftest.Plane) -> None:
    controllers = two(plane)
    ports = [listening(each) for each in controllers]

    def moved(port: int) -> bool:
        found = asked(plane, port, cases.pod(cases.AUTO))
        return bool(found["spec"].get("runtimeClassName") == "uimgacc")

    for port in ports:
        apis.wait_until(lambda port=port: moved(port))
    # One that begins again shows the certificate that the other has.
    controllers[0].stop()
    again = plane.controller("--webhook-listen=127.0.0.1:0", name="controller-2", start=False)
    plane.pod("controller-2")
    again.start()
    before = bundle(plane)
    port = listening(again)
    apis.wait_until(lambda: moved(port))
    assert moved(ports[1])
    assert bundle(plane) == before


@pytest.mark.usefixtures("configured")
def test_the_key_is_in_no_file_of_a_controller_and_in_one_secret(plane: conftest.Plane) -> None:
    controllers = two(plane)
    for each in controllers:
        listening(each)

    secret = plane.api.get(rest_client.SECRETS, keys.WEBHOOK, namespace=plane.api.namespace)

    parts = {name: base64.b64decode(text) for name, text in secret["data"].items()}
    assert certificates.decode(parts).bundle == bundle(plane)
    assert not list(plane.folder.rglob("*.key"))
    for each in controllers:
        assert "PRIVATE KEY" not in each.log.read_text()


@servers.needs_own
@pytest.mark.usefixtures("configured")
def test_the_webhook_lives_within_the_rights_of_the_manifests(plane: conftest.Plane) -> None:
    with rights.applied(plane, "controller", "webhook"):
        controller = plane.controller("--webhook-listen=127.0.0.1:0")
        port = listening(controller)

        apis.wait_until(
            lambda: (
                asked(plane, port, cases.pod(cases.AUTO))["spec"].get("runtimeClassName")
                == "uimgacc"
            )
        )
        # No node can run the twin of nvidia, which the controller writes.
        apis.wait_until(
            lambda: (
                keys.NO_NODE
                in plane.api.get(rest_client.RUNTIME_CLASSES, "uimgacc-nvidia")["metadata"][
                    "labels"
                ]
            )
        )
        rights.none_missing(controller)


def test_a_pod_that_no_node_takes_gets_an_event(plane: conftest.Plane, configured: None) -> None:
    plane.controller("--waiting-seconds=0.1")
    body = apis.pod("waits", "")
    del body["spec"]["nodeName"]
    body["spec"]["runtimeClassName"] = "uimgacc-nvidia"
    plane.api.create(rest_client.PODS, body, namespace=plane.api.namespace)
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1",
    }
    plane.api.pod_status("waits", {"phase": "Pending", "conditions": [condition]})

    def reasons() -> list[str]:
        events = plane.api.list(rest_client.EVENTS, namespace=plane.api.namespace)
        return [each["reason"] for each in events if each["involvedObject"]["name"] == "waits"]

    apis.wait_until(lambda: "ImageCacheNoNode" in reasons(), seconds=120)
    assert reasons() == ["ImageCacheNoNode"]
