"""Removes from Node objects what agents have written there, after the agents have stopped."""

import contextlib

from agent.clients.kube import refusals, rest_client
from agent.model import keys


async def forget_all(client: rest_client.Client) -> None:
    """Remove the labels, annotations and condition of uimgacc from all nodes."""
    # All nodes are listed before the first is changed: the API server ends a list whose pages are
    # read slowly.
    written = [
        (str(node["metadata"]["name"]), *_traces(node))
        async for page in client.pages(rest_client.NODES)
        for node in page.items
    ]
    for name, metadata, condition in written:
        await _forget(client, name, metadata, condition)


async def forget(client: rest_client.Client, name: str) -> None:
    """Remove them from one node. It stays disabled."""
    node = await client.get(rest_client.NODES, name)
    await _forget(client, name, *_traces(node, keep=keys.ENABLED))


async def withdraw(client: rest_client.Client, name: str) -> None:
    """Remove the labels by which pods are scheduled to one node. It stays disabled."""
    node = await client.get(rest_client.NODES, name)
    metadata, condition = _traces(node, keep=keys.ENABLED)
    labels = {key: names for key, names in metadata.items() if key == "labels"}
    await _forget(client, name, labels, condition)


async def _forget(
    client: rest_client.Client, name: str, metadata: dict[str, dict[str, None]], condition: str
) -> None:
    with contextlib.suppress(refusals.NotFound):  # the node has left the cluster meanwhile
        if metadata:
            await client.patch(rest_client.NODES, name, {"metadata": metadata})
        if condition:
            body = {"status": {"conditions": [{"type": condition, "$patch": "delete"}]}}
            await client.patch(
                rest_client.NODES,
                name,
                body,
                subresource="status",
                how=rest_client.Patch.STRATEGIC,
            )


def _traces(node: rest_client.Object, *, keep: str = "") -> tuple[dict[str, dict[str, None]], str]:
    """The patch of a node's metadata, and the condition to remove; each empty where there is none.

    The label `keep` stays.
    """
    metadata = node["metadata"]
    labels = [each for each in metadata.get("labels") or () if _is_label(each) and each != keep]
    annotations = [
        each for each in metadata.get("annotations") or () if each.startswith(keys.PREFIX)
    ]
    written = {"labels": dict.fromkeys(labels), "annotations": dict.fromkeys(annotations)}
    conditions = (node.get("status") or {}).get("conditions") or ()
    has_condition = any(each["type"] == keys.NODE_CONDITION for each in conditions)
    return (
        {key: names for key, names in written.items() if names},
        keys.NODE_CONDITION if has_condition else "",
    )


def _is_label(name: str) -> bool:
    return name in keys.CAPABLE_LABELS or name.startswith((keys.PREFIX, keys.TWIN_LABEL))
