"""AdmissionReview v1: a request of the API server, read, and the answer to it; no I/O.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/ has the
protocol. The answer always allows the pod: the webhook changes pods, and refuses none.
"""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from agent import errors
from agent.matching import pod_moves

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"


class ReviewInvalid(errors.PermanentError):
    """What was sent is no AdmissionReview v1 of a pod that is created. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no AdmissionReview of a new pod: {reason}")
        self.reason = reason


class _Kind(msgspec.Struct):
    kind: str
    group: str = ""
    version: str = ""


class Request(msgspec.Struct, rename="camel"):
    """The part of a request that is used; `object` is the pod, which may have no name yet."""

    uid: str
    kind: _Kind
    operation: str
    object: dict[str, Any]
    namespace: str = ""
    sub_resource: str = ""


class _Review(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    request: Request


def read(body: bytes) -> Request:
    """The request of a review; raise ReviewInvalid."""
    try:
        review = msgspec.json.decode(body, type=_Review)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReviewInvalid(str(error)) from error
    request = review.request
    if (review.api_version, review.kind) != (API_VERSION, KIND):
        raise ReviewInvalid(f"{review.api_version} {review.kind}")
    if (request.kind.group, request.kind.version, request.kind.kind) != ("", "v1", "Pod"):
        raise ReviewInvalid(f"of {request.kind.group}/{request.kind.version} {request.kind.kind}")
    if request.operation != "CREATE" or request.sub_resource:
        raise ReviewInvalid(f"{request.operation} {request.sub_resource}".strip())
    return request


def answer(request: Request, move: pod_moves.Move) -> bytes:
    """The review that answers a request: allowed, with a patch where something changes."""
    response: dict[str, object] = {"uid": request.uid, "allowed": True}
    if patch := list(_patch(request.object, move)):
        encoded = base64.b64encode(msgspec.json.encode(patch)).decode()
        response |= {"patchType": "JSONPatch", "patch": encoded}
    return msgspec.json.encode(
        {"apiVersion": API_VERSION, "kind": KIND, "response": response},
    )


def _patch(pod: Mapping[str, Any], move: pod_moves.Move) -> Iterator[Mapping[str, object]]:
    """RFC 6902: `add` of a member that is there replaces it."""
    if not move.annotations:
        return
    if not pod.get("metadata"):
        yield {"op": "add", "path": "/metadata", "value": {}}
    if not (pod.get("metadata") or {}).get("annotations"):
        yield {"op": "add", "path": "/metadata/annotations", "value": {}}
    for key, value in move.annotations.items():
        step = key.replace("~", "~0").replace("/", "~1")
        yield {"op": "add", "path": f"/metadata/annotations/{step}", "value": value}
    if move.node_selector and not pod["spec"].get("nodeSelector"):
        yield {"op": "add", "path": "/spec/nodeSelector", "value": {}}
    for key, value in move.node_selector.items():
        step = key.replace("~", "~0").replace("/", "~1")
        yield {"op": "add", "path": f"/spec/nodeSelector/{step}", "value": value}
    if move.runtime_class:
        yield {"op": "add", "path": "/spec/runtimeClassName", "value": move.runtime_class}
