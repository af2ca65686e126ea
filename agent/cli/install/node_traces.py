"""Removes from the node objects what agents wrote there, once no agent runs any more."""

import contextlib

from agent.clients.kube import refusals, rest_client
from agent.model import keys


async def forget_all(client: rest_client.Client) -> None:
    """Remove the labels, annotations and condition of uimgacc from all nodes."""
    # All are read before the first is changed: a list that is read slowly ends on its way.
    written = [
        (str(node["metadata"]["name"]), *_traces(node))
        async for page in client.pages(rest_client.NODES)
        for node in page.items
    ]
    for name, metadata, condition in written:
        await _forget(client, name, metadata, condition)


async def forget(client: rest_client.Client, name: str) -> None:
    """Remove those of one node. It stays disabled."""
    node = await client.get(rest_client.NODES, name)
    await _forget(client, name, *_traces(node, keep=keys.ENABLED))


async def withdraw(client: rest_client.Client, name: str) -> None:
    """Remove the labels of one node by which it gets pods. It stays disabled."""
    node = await client.get(rest_client.NODES, name)
    metadata, condition = _traces(node, keep=keys.ENABLED)
    labels = {key: gone for key, gone in metadata.items() if key == "labels"}
    await _forget(client, name, labels, condition)


async def _forget(
    client: rest_client.Client, name: str, metadata: dict[str, dict[str, None]], condition: str
) -> None:
    with contextlib.suppress(refusals.NotFound):  # gone from the cluster meanwhile
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
    """What to patch of a node's metadata, and the condition to remove; empty where none is."""
    meta = node["metadata"]
    labels = [each for each in meta.get("labels") or () if _is_label(each) and each != keep]
    notes = [each for each in meta.get("annotations") or () if each.startswith(keys.PREFIX)]
    written = {"labels": dict.fromkeys(labels), "annotations": dict.fromkeys(notes)}
    conditions = (node.get("status") or {}).get("conditions") or ()
    has = any(each["type"] == keys.NODE_CONDITION for each in conditions)
    return {key: gone for key, gone in written.items() if gone}, keys.NODE_CONDITION if has else ""


def _is_label(name: str) -> bool:
    return name in keys.CAPABLE_LABELS or name.startswith((keys.PREFIX, keys.TWIN_LABEL))
