"""The pods of one node, as values of agent.model.pods.

A pod that cannot be read is logged and left out: the others are not affected.
"""

import dataclasses
import logging
from collections.abc import Collection

from agent.clients.kube import rest_client, selection
from agent.model import manifests, pods

logger = logging.getLogger(__name__)


def select(
    client: rest_client.Client, node: str, *, annotations: Collection[str]
) -> selection.Selection[pods.Pod]:
    """The pods bound to a node; of their annotations only `annotations` are kept."""

    def parse(manifest: rest_client.Object) -> pods.Pod | None:
        try:
            pod = pods.parse_pod(manifest)
        except manifests.ManifestError as error:
            meta = manifest["metadata"]
            name = f"{meta.get('namespace')}/{meta.get('name')}"
            logger.warning("a pod cannot be read", extra={"pod": name, "reason": str(error)})
            return None
        kept = {key: pod.annotations[key] for key in annotations if key in pod.annotations}
        return dataclasses.replace(pod, annotations=kept)

    selectors = selection.Selectors(fields=f"spec.nodeName={node}")
    return selection.Selection(client, rest_client.PODS, selectors, parse=parse)
