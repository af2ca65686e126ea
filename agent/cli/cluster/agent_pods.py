"""The agents' pods of a cluster, and what each answers about its node.

An agent answers on its node's own address 127.0.0.1 only, so it is asked by a command in its
container, which needs the right to `create` (before Kubernetes 1.35: `get`) `pods/exec`.
"""

from collections.abc import Mapping

from agent.clients.kube import refusals, rest_client
from agent.clients.kube.streams import pod_streams

LABELS = "app.kubernetes.io/name=uimgacc,app.kubernetes.io/component=node"
"""Of the agents' pods."""

CONTAINER = "agent"
PORT = 9465
"""Where an agent listens, unless it is set otherwise (UIMGACC_LISTEN)."""

_LIMIT = 8 << 20
# The image has no curl. Bare Python is what its probes run, too.
_ASK = (
    "import sys, urllib.request as u;"
    "sys.stdout.buffer.write(u.urlopen(sys.argv[1], timeout=10).read())"
)


async def pod_on(client: rest_client.Client, *, system: str, node: str) -> str:
    """The name of the agent's pod on a node; raise NotFound."""
    pages = client.pages(
        rest_client.PODS, namespace=system, labels=LABELS, fields=f"spec.nodeName={node}"
    )
    async for page in pages:
        for body in page.items:
            if not body["metadata"].get("deletionTimestamp"):
                return str(body["metadata"]["name"])
    raise refusals.NotFound(
        refusals.Refusal(
            request="GET pods", status=404, reason="NotFound", text=f"node {node} has no agent"
        )
    )


async def status_of(client: rest_client.Client, *, system: str, node: str) -> bytes:
    """The JSON of an agent's /status."""
    pod = await pod_on(client, system=system, node=node)
    return await ask(client, system=system, pod=pod, path="status")


async def ask(client: rest_client.Client, *, system: str, pod: str, path: str) -> bytes:
    """What the agent in a pod answers under a path."""
    container = pod_streams.Container(namespace=system, pod=pod, name=CONTAINER)
    url = f"http://127.0.0.1:{PORT}/{path}"
    return await pod_streams.output_of(
        client, container, ["python3.13", "-IS", "-c", _ASK, url], limit=_LIMIT
    )


def is_ready(body: Mapping[str, object]) -> bool:
    """Whether a pod's object says that it is ready."""
    status = body.get("status")
    conditions = status.get("conditions") if isinstance(status, Mapping) else None
    return any(
        each.get("type") == "Ready" and each.get("status") == "True" for each in conditions or ()
    )
