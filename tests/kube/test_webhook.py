"""The webhook of several controllers in a cluster: one Secret, one bundle that is trusted."""

import asyncio
import base64
import copy
import datetime
import json
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from agent.clients.kube import rest_client
from agent.control.admission import certificate_rounds, certificates, webhook_server
from agent.kits.aio import tasks
from agent.kits.web import listener, tls
from agent.model import keys, times
from tests.kube import apis, servers, test_manifests
from tests.manifests import calling, cases, rendering

HOOKS = rest_client.WEBHOOK_CONFIGURATIONS


def documents() -> tuple[rendering.Document, ...]:
    return tuple(rendering.together("runtimeclass", "nvidia", "controller", "webhook"))


@pytest.fixture
def configuration(api: apis.Api) -> Iterator[None]:
    """The MutatingWebhookConfiguration of the manifests; it selects the test's namespace only."""
    body: Any = copy.deepcopy(
        rendering.only(documents(), "MutatingWebhookConfiguration", keys.WEBHOOK_CONFIGURATION)
    )
    for webhook in body["webhooks"]:
        webhook["namespaceSelector"]["matchExpressions"].append(
            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [api.namespace]}
        )
    api.create(HOOKS, body)
    yield
    api.delete(HOOKS, keys.WEBHOOK_CONFIGURATION)


class Replica:
    """A controller's part; `days` later than it is."""

    def __init__(self, client: rest_client.Client, namespace: str) -> None:
        self.days = 0.0
        self.used: list[certificates.Certificates] = []
        self.rounds = certificate_rounds.CertificateRounds(
            client, namespace=namespace, use=self.used.append, clock=self.clock
        )

    def clock(self) -> datetime.datetime:
        return times.now() + datetime.timedelta(days=self.days)

    @property
    def serial(self) -> int:
        return self.used[-1].server.serial_number


@pytest.fixture
def replicas(client: rest_client.Client, api: apis.Api) -> tuple[Replica, Replica]:
    return Replica(client, api.namespace), Replica(client, api.namespace)


def bundles(api: apis.Api) -> set[bytes]:
    webhooks = api.get(HOOKS, keys.WEBHOOK_CONFIGURATION)["webhooks"]
    return {base64.b64decode(each["clientConfig"].get("caBundle", "")) for each in webhooks}


@pytest.mark.usefixtures("configuration")
async def test_two_that_begin_at_once_share_one_certificate(
    api: apis.Api, replicas: tuple[Replica, Replica]
) -> None:
    await tasks.together(*(each.rounds.round() for each in replicas))

    first, second = replicas
    assert first.serial == second.serial
    assert bundles(api) == {first.used[-1].bundle}
    webhooks = api.get(HOOKS, keys.WEBHOOK_CONFIGURATION)["webhooks"]
    assert [each["clientConfig"]["service"]["path"] for each in webhooks] == [
        "/pods",
        "/labelled-pods",
    ]


@pytest.mark.usefixtures("configuration")
async def test_a_certificate_is_replaced_once_and_all_use_the_new_one(
    api: apis.Api, replicas: tuple[Replica, Replica]
) -> None:
    first, second = replicas
    await first.rounds.round()
    await second.rounds.round()
    before = first.serial
    for each in replicas:
        each.days = certificates.SERVER_DAYS - 1

    await tasks.together(*(each.rounds.round() for each in replicas))
    await tasks.together(*(each.rounds.round() for each in replicas))

    assert first.serial == second.serial != before
    assert first.used[-1].bundle == first.used[0].bundle


@pytest.mark.usefixtures("configuration")
async def test_authorities_follow_one_another_and_the_cluster_trusts_both(
    api: apis.Api, replicas: tuple[Replica, Replica]
) -> None:
    first, second = replicas
    await first.rounds.round()
    first.days = second.days = certificates.AUTHORITY_DAYS * 0.7
    await first.rounds.round()
    await second.rounds.round()

    assert len(second.used[-1].authorities) == 2
    assert bundles(api) == {second.used[-1].bundle}

    second.days += 1
    await second.rounds.round()
    await first.rounds.round()

    assert first.serial == second.serial
    assert first.used[-1].server.issuer == first.used[-1].authorities[0].subject


@pytest.mark.usefixtures("configuration")
async def test_a_wrong_bundle_is_put_right(
    api: apis.Api, replicas: tuple[Replica, Replica]
) -> None:
    first, _ = replicas
    await first.rounds.round()
    other = certificates.created(calling.NAMES, times.now()).bundle
    body = api.get(HOOKS, keys.WEBHOOK_CONFIGURATION)["webhooks"]
    body[0]["clientConfig"]["caBundle"] = base64.b64encode(other).decode()
    api.patch(HOOKS, keys.WEBHOOK_CONFIGURATION, {"webhooks": body})
    assert other in bundles(api)

    await first.rounds.round()

    assert bundles(api) == {first.used[-1].bundle}


@pytest.mark.usefixtures("configuration")
@pytest.mark.parametrize("part", [certificates.BUNDLE, certificates.SERVER_KEY])
async def test_a_damaged_secret_is_made_again(
    api: apis.Api, replicas: tuple[Replica, Replica], part: str
) -> None:
    first, second = replicas
    await first.rounds.round()
    damage = {"data": {part: base64.b64encode(b"nonsense").decode()}}
    api.patch(rest_client.SECRETS, keys.WEBHOOK, damage, namespace=api.namespace)

    await second.rounds.round()
    await first.rounds.round()

    assert first.serial == second.serial
    assert len({each.server.serial_number for each in first.used}) == 2
    assert bundles(api) == {first.used[-1].bundle}


async def test_without_the_configuration_the_certificate_is_used_all_the_same(
    replicas: tuple[Replica, Replica], caplog: pytest.LogCaptureFixture
) -> None:
    await replicas[0].rounds.prepare()

    assert replicas[0].used
    assert "not published" in caplog.text


@pytest.fixture(scope="module")
def caller() -> Iterator[calling.WebhookCaller]:
    with calling.running(documents()) as made:
        yield made


def body_of(pod: Any, **more: Any) -> bytes:
    return json.dumps(calling.review_of(pod, **more)).encode()


def test_a_pod_without_a_name_yet_is_moved(caller: calling.WebhookCaller) -> None:
    pod: Any = cases.pod(cases.AUTO)
    pod["metadata"] = {"generateName": "web-", "annotations": cases.AUTO}

    found = caller.admitted(pod)

    assert found["spec"]["runtimeClassName"] == "uimgacc"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe",
        json.dumps({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}).encode(),
        body_of(cases.pod(cases.AUTO), operation="UPDATE"),
        body_of(cases.pod(cases.AUTO), subResource="ephemeralcontainers"),
        body_of({}, kind={"group": "apps", "version": "v1", "kind": "Deployment"}),
        body_of(None),
    ],
    ids=range(11),
)
def test_what_is_no_new_pod_is_refused(caller: calling.WebhookCaller, body: bytes) -> None:
    status, _ = caller.post(webhook_server.PODS, body)

    assert status == 400


@pytest.mark.parametrize(
    "pod",
    [
        {},
        {"metadata": {"annotations": cases.AUTO}, "spec": {"containers": []}},
        {"metadata": {"annotations": cases.AUTO}, "spec": []},
        {"metadata": {"annotations": {keys.CACHE: True}}, "spec": {"containers": [{}]}},
        {"metadata": [], "spec": None},
    ],
    ids=range(5),
)
def test_a_pod_that_cannot_be_read_stays_as_it_is(caller: calling.WebhookCaller, pod: Any) -> None:
    for path in (webhook_server.PODS, webhook_server.LABELLED_PODS):
        status, answer = caller.post(path, body_of(pod))

        assert status == 200
        assert "patch" not in json.loads(answer)["response"]


def test_a_request_beyond_the_limit_is_refused(caller: calling.WebhookCaller) -> None:
    pod = cases.pod({**cases.AUTO, "x": "y" * webhook_server.LIMIT})

    status, _ = caller.post(webhook_server.PODS, body_of(pod))

    assert status == 413
    caller.close()
    assert caller.admitted(cases.pod(cases.AUTO))["spec"]["runtimeClassName"] == "uimgacc"


def test_the_largest_pod_that_an_api_server_stores_is_moved(
    caller: calling.WebhookCaller,
) -> None:
    pod: Any = cases.pod(cases.AUTO)
    variable = {"name": "X", "value": "y" * 1_400_000}
    pod["spec"]["containers"][0]["env"] = [variable]

    assert caller.admitted(pod)["spec"]["runtimeClassName"] == "uimgacc"


def test_an_api_server_with_another_authority_does_not_reach_it(
    caller: calling.WebhookCaller,
) -> None:
    other = certificates.created(calling.NAMES, times.now())
    context = ssl.create_default_context(cadata=other.bundle.decode())

    with pytest.raises(ssl.SSLCertVerificationError):
        calling.connection(caller.port, context)


async def test_the_server_goes_on_with_a_new_certificate() -> None:
    """Of a new authority: who trusts only the former one is refused from then on."""
    certificate = tls.MemoryCertificate()
    first, second = (certificates.created(calling.NAMES, times.now()) for _ in range(2))
    webhook = webhook_server.Webhook(lambda: calling.twins_of(documents()))
    async with listener.serving(
        webhook.application(), "127.0.0.1:0", tls=certificate.context
    ) as address:
        for current, former in ((first, second), (second, first)):
            certificate.use(current.server_pem, current.server_key_pem)

            await connect(address, current.bundle)
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(address, former.bundle)


async def connect(address: str, bundle: bytes) -> None:
    context = ssl.create_default_context(cadata=bundle.decode())
    host, port = address.split(":")
    _, writer = await asyncio.open_connection(
        host, int(port), ssl=context, server_hostname=calling.NAMES[0]
    )
    writer.close()
    await writer.wait_closed()


@pytest.mark.skipif(
    not servers.is_own(), reason="needs a kube-apiserver that reaches this machine's loopback"
)
def test_a_real_api_server_moves_pods_by_the_webhook(api: apis.Api) -> None:
    """By URL, because nothing routes a Service's address here; all else is as in the manifests."""
    body: Any = copy.deepcopy(
        rendering.only(documents(), "MutatingWebhookConfiguration", keys.WEBHOOK_CONFIGURATION)
    )
    made = certificates.created(("localhost",), times.now())
    certificate = tls.MemoryCertificate()
    certificate.use(made.server_pem, made.server_key_pem)
    classes = [each for each in documents() if each["kind"] == "RuntimeClass"]
    with calling.running(documents(), certificate=certificate) as caller:
        for webhook in body["webhooks"]:
            path = webhook["clientConfig"].pop("service")["path"]
            webhook["clientConfig"] |= {
                "url": f"https://localhost:{caller.port}{path}",
                "caBundle": base64.b64encode(made.bundle).decode(),
            }
        try:
            for each in classes:
                api.create(rest_client.RUNTIME_CLASSES, dict(each))
            api.create(HOOKS, body)
            probe = cases.pod(cases.AUTO)
            apis.wait_until(
                lambda: test_manifests.handler_of(test_manifests.create(api, probe)) == "uimgacc",
                seconds=60,
            )

            for asking in cases.ASKING.values():
                found = test_manifests.create(api, asking)
                assert found["spec"]["runtimeClassName"] == "uimgacc"
                assert found["spec"]["nodeSelector"]["uimgacc.io/handler"] == "true"
            plain = test_manifests.create(api, cases.pod())
            assert "runtimeClassName" not in plain["spec"]
            label = {"metadata": {"labels": {keys.CACHE: "auto"}}}
            api.patch(rest_client.NAMESPACES, api.namespace, label)
            apis.wait_until(
                lambda: (
                    test_manifests.handler_of(test_manifests.create(api, cases.pod())) == "uimgacc"
                ),
                seconds=60,
            )
            refusing = cases.pod({keys.CACHE: "false"})
            assert test_manifests.handler_of(test_manifests.create(api, refusing)) is None
        finally:
            api.delete(HOOKS, keys.WEBHOOK_CONFIGURATION)
            for each in classes:
                api.delete(rest_client.RUNTIME_CLASSES, each["metadata"]["name"])
