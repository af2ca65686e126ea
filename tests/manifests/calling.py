"""Calls our webhook as an API server does: by its configuration, over TLS."""

import base64
import contextlib
import http.client
import json
import ssl
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jsonpatch

from agent.control.admission import admission_review, certificates, webhook_server
from agent.kits.web import listener, tls
from agent.matching import annotations, pod_moves
from agent.model import keys, times
from tests.kube import threads
from tests.manifests import admission, rendering

Object = Mapping[str, Any]

NAMES = certificates.names_of(keys.WEBHOOK, keys.NAMESPACE)


def twins_of(documents: Sequence[Object]) -> tuple[pod_moves.Twin, ...]:
    """The twins among some documents."""
    return tuple(pod_moves.read_twin(each) for each in _classes(documents))


def _classes(documents: Sequence[Object]) -> list[Object]:
    return [
        each
        for each in rendering.of_kind(documents, "RuntimeClass")
        if keys.TWIN_OF in each["metadata"].get("labels", {})
    ]


def called(documents: Sequence[Object], pod: Object, namespace: str, label: str) -> Iterator[str]:
    """The paths of the webhooks that the API server calls for a pod, in their order."""
    (configuration,) = rendering.of_kind(documents, "MutatingWebhookConfiguration")
    for webhook in configuration["webhooks"]:
        if not admission.selects_namespace(webhook["namespaceSelector"], namespace, label):
            continue
        # All of them: an error in any must come out.
        held = [
            admission.evaluated(each["expression"], {"object": pod})
            for each in webhook["matchConditions"]
        ]
        if all(held):
            yield webhook["clientConfig"]["service"]["path"]


def review_of(pod: Object, namespace: str = "default", **more: Any) -> dict[str, Any]:
    """The AdmissionReview that an API server of 1.34 sends for a pod."""
    request = {
        "uid": str(uuid.uuid4()),
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": namespace,
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **more,
    }
    return {
        "kind": admission_review.KIND,
        "apiVersion": admission_review.API_VERSION,
        "request": request,
    }


def patched(pod: Object, answer: Object) -> Any:
    """The pod after the patch of an answer, as the API server applies it."""
    response = answer["response"]
    assert response["allowed"] is True
    if "patch" not in response:
        return pod
    assert response["patchType"] == "JSONPatch"
    return jsonpatch.apply_patch(pod, json.loads(base64.b64decode(response["patch"])))


def decided(documents: Sequence[Object], pod: Any, *, label: str = "") -> Any:
    """What the webhook makes of a pod, without a server between."""
    twins = twins_of(documents)

    def ask(path: str, body: bytes) -> bytes:
        request = admission_review.read(body)
        value = annotations.NAMESPACE_VALUE if path == webhook_server.LABELLED_PODS else ""
        move = pod_moves.move_of(request.object, twins, namespace_label=value)
        return admission_review.answer(request, move)

    return _admitted(documents, pod, "default", label, ask)


def _admitted(
    documents: Sequence[Object],
    pod: Any,
    namespace: str,
    label: str,
    ask: Callable[[str, bytes], bytes],
) -> Any:
    for _ in range(3):
        before = pod
        for path in called(documents, pod, namespace, label):
            review = review_of(pod, namespace)
            answer = json.loads(ask(path, json.dumps(review).encode()))
            assert answer["response"]["uid"] == review["request"]["uid"]
            pod = patched(pod, answer)
        if pod == before:
            return pod
    raise AssertionError("the webhook does not come to an end")


class WebhookCaller:
    """An API server's part in front of a running webhook."""

    def __init__(self, documents: Sequence[Object], port: int, authority: bytes) -> None:
        self.documents = documents
        self.params = _classes(documents)
        self.port = port
        self.context = ssl.create_default_context(cadata=authority.decode())
        self._connection: http.client.HTTPSConnection | None = None

    def matches(self, pod: Object, params: Object, name: str) -> bool:
        """Whether one of the conditions holds."""
        return pod_moves.holds(name, pod, pod_moves.read_twin(params))

    def admitted(self, pod: Any, *, namespace: str = "default", label: str = "") -> Any:
        """The pod as it is stored; `label` is that of its namespace by which pods may ask."""
        return _admitted(self.documents, pod, namespace, label, self._ask)

    def _ask(self, path: str, body: bytes) -> bytes:
        status, answer = self.post(path, body)
        assert status == 200, answer
        return answer

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Send something to it; the answer's status and body."""
        if self._connection is None:
            self._connection = connection(self.port, self.context)
        sent = {"Content-Type": "application/json", **headers}
        self._connection.request("POST", path, body, sent)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, content

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connection(
    port: int, context: ssl.SSLContext, *, name: str = NAMES[0]
) -> http.client.HTTPSConnection:
    """A connection to loopback that verifies the Service's name, as the API server does."""
    made = http.client.HTTPSConnection("127.0.0.1", port, timeout=30)
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    plain.connect()
    assert plain.sock is not None
    made.sock = context.wrap_socket(plain.sock, server_hostname=name)
    return made


@contextlib.contextmanager
def running(
    documents: Sequence[Object], certificate: tls.MemoryCertificate | None = None
) -> Iterator[WebhookCaller]:
    """The webhook's server with the twins of some documents, and who calls it."""
    made = certificates.created(NAMES, times.now())
    if certificate is None:
        certificate = tls.MemoryCertificate()
        certificate.use(made.server_pem, made.server_key_pem)
    webhook = webhook_server.Webhook(lambda: twins_of(documents))

    async def opened() -> tuple[contextlib.AsyncExitStack, str]:
        stack = contextlib.AsyncExitStack()
        serving = listener.serving(webhook.application(), "127.0.0.1:0", tls=certificate.context)
        return stack, await stack.enter_async_context(serving)

    with threads.running() as loop:
        stack, address = loop.run(opened())
        caller = WebhookCaller(documents, int(address.rpartition(":")[2]), made.bundle)
        try:
            yield caller
        finally:
            caller.close()
            loop.run(stack.aclose())
