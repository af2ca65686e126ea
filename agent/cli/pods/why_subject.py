"""What `uimgacc why` is asked about, as kubectl names it: pod, workload, image cache, image."""

import contextlib
import dataclasses
import enum

from agent.cli import output
from agent.clients.kube import refusals, rest_client
from agent.model import manifests

_REPLICA_SETS = rest_client.Resource(group="apps", plural="replicasets")
_STATEFUL_SETS = rest_client.Resource(group="apps", plural="statefulsets")

_WORKLOADS = {
    rest_client.DEPLOYMENTS: ("deployments", "deployment", "deploy"),
    _REPLICA_SETS: ("replicasets", "replicaset", "rs"),
    _STATEFUL_SETS: ("statefulsets", "statefulset", "sts"),
    rest_client.DAEMON_SETS: ("daemonsets", "daemonset", "ds"),
    rest_client.JOBS: ("jobs", "job"),
}
_BY_TYPE = {name: resource for resource, names in _WORKLOADS.items() for name in names}
_PODS = ("pods", "pod", "po")
_CACHES = ("imagecaches", "imagecache", "imc")


class Kind(enum.Enum):
    """What it is."""

    POD = "pod"
    WORKLOAD = "workload"
    CACHE = "image cache"
    IMAGE = "image"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A thing by its name; `namespace` is that of a pod or a workload, `resource` its kind."""

    kind: Kind
    name: str
    namespace: str = ""
    resource: rest_client.Resource | None = None


def parse(text: str, namespace: str) -> Subject:
    """POD, NAMESPACE/POD, TYPE/NAME as kubectl has it, or an image's name with a tag or a host.

    A namespace that is called as a type is named by -n. No name of a pod or namespace has a colon
    or an @, and no namespace a dot.
    """
    before, slash, name = text.partition("/")
    named = before.lower()
    plural, _, group = named.partition(".")
    if slash and named in _PODS:
        return Subject(kind=Kind.POD, name=name, namespace=namespace)
    if slash and plural in _CACHES:
        return Subject(kind=Kind.CACHE, name=name)
    if slash and plural in _BY_TYPE and group in ("", _BY_TYPE[plural].group):
        resource = _BY_TYPE[plural]
        return Subject(kind=Kind.WORKLOAD, name=name, namespace=namespace, resource=resource)
    if set(":@") & set(text) or (slash and "." in before) or "/" in name:
        return Subject(kind=Kind.IMAGE, name=text)
    return Subject(
        kind=Kind.POD, name=name if slash else text, namespace=before if slash else namespace
    )


async def pod_of(client: rest_client.Client, subject: Subject) -> str:
    """The name of the pod, of a workload's the newest one; raise NotFound, ManifestError."""
    if subject.resource is None:
        return subject.name
    said = f"{subject.resource.plural}/{subject.name}"
    try:
        body = await client.get(subject.resource, subject.name, namespace=subject.namespace)
    except refusals.NotFound as error:
        reason = f"no {said} in namespace {subject.namespace}"
        raise output.NotFound(reason, name=subject.name) from error
    selector = manifests.Field(body).get("spec", "selector").label_selector()
    newest: tuple[bool, str, str] | None = None
    pages = client.pages(rest_client.PODS, namespace=subject.namespace, labels=selector)
    async with contextlib.aclosing(pages):
        async for page in pages:
            for pod in page.items:
                meta = pod["metadata"]
                there = not meta.get("deletionTimestamp")
                each = (there, str(meta.get("creationTimestamp") or ""), str(meta["name"]))
                newest = max(newest or each, each)
    if newest is None or not selector:
        raise output.NotFound(f"{said} has no pod now: why {said}?", name=subject.name)
    return newest[2]
