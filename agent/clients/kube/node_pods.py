"""The pods of one node, as the API server tells them, in our own type.

A pod arrives with its history (managedFields) and the annotations of every tool of
the cluster, tens of kilobytes; what remains of it here is about one. A pod that
cannot be read is told as such: it concerns nobody else.
"""

import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, Collection, Mapping

from agent.clients.kube import rest_client
from agent.model import manifests, pods

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All pods of the node at a version, by `namespace/name`; None: not to be read."""

    version: str
    pods: Mapping[str, pods.Pod | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a watch tells: all is known up to `version`, and this of the pod under `key`.

    `key` is "" where no pod has changed, `gone` says that there is none any more.
    A pod that cannot be read is None, and not gone.
    """

    version: str
    key: str = ""
    gone: bool = False
    pod: pods.Pod | None = None


class NodePods:
    """The pods bound to a node; of their annotations only `annotations` are kept.

    Raises what agent.clients.kube.rest_client raises.
    """

    def __init__(
        self, client: rest_client.Client, node: str, *, annotations: Collection[str]
    ) -> None:
        self._client = client
        self._fields = f"spec.nodeName={node}"
        self._annotations = annotations

    async def list(self, *, not_older_than: str) -> Listing:
        """All pods; for `not_older_than` see kube.Client.pages."""
        found: dict[str, pods.Pod | None] = {}
        version = ""
        pages = self._client.pages(
            rest_client.PODS, fields=self._fields, not_older_than=not_older_than
        )
        async with contextlib.aclosing(pages):
            async for page in pages:
                version = page.version
                found |= {_key(item): self._pod(item) for item in page.items}
        found.pop("", None)
        return Listing(version=version, pods=found)

    async def watch(self, version: str) -> AsyncGenerator[Told, None]:
        """The changes since a version, until the server ends it. Close the iterator."""
        events = self._client.watch(rest_client.PODS, version=version, fields=self._fields)
        async with contextlib.aclosing(events):
            async for event in events:
                if event.kind is rest_client.Kind.BOOKMARK:
                    yield Told(version=event.version)
                    continue
                gone = event.kind is rest_client.Kind.DELETED
                pod = None if gone else self._pod(event.object)
                yield Told(version=event.version, key=_key(event.object), gone=gone, pod=pod)

    def _pod(self, manifest: rest_client.Object) -> pods.Pod | None:
        try:
            pod = pods.parse_pod(manifest)
        except manifests.ManifestError as error:
            logger.warning(
                "a pod cannot be read", extra={"pod": _key(manifest), "reason": str(error)}
            )
            return None
        kept = {key: pod.annotations[key] for key in self._annotations if key in pod.annotations}
        return dataclasses.replace(pod, annotations=kept)


def _key(manifest: rest_client.Object) -> str:
    """`namespace/name`; "" for what is no object at all, as only a broken proxy sends it."""
    meta = manifests.Field(manifest).get("metadata")
    try:
        return f"{meta.get('namespace').text()}/{meta.get('name').text()}"
    except manifests.ManifestError:
        return ""
