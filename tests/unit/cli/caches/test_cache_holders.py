"""The pods that hold a deleted cache, named for a person who may see them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from agent.cli.caches import cache_holders
from agent.clients.kube import refusals, rest_client
from agent.model import keys, reports

DENIED = refusals.Refusal(request="list", status=403, reason="Forbidden", text="")


class Client:
    """Lists two nodes, of which one holds something, and its pods."""

    def __init__(self, *, may_list_pods: bool = True) -> None:
        self.may_list_pods = may_list_pods
        self.asked: list[str] = []

    async def pages(
        self, resource: rest_client.Resource, *, fields: str = "", metadata_only: bool = False
    ) -> AsyncIterator[rest_client.Page]:
        assert metadata_only
        if resource is rest_client.NODES:
            held = [
                reports.encode_held(reports.Held(cache=cache, layer="3f", holder=holder))
                for cache, holder in (
                    ("imc-a", reports.pod_tag("uid-1")),
                    ("imc-b", reports.pod_tag("uid-2")),
                    ("imc-a", "a mount"),
                )
            ]
            annotations = {keys.GENERATION: "1", keys.HELD: json.dumps(held)}
            yield page({"name": "idle"}, {"name": "busy", "annotations": annotations})
        else:
            self.asked.append(fields)
            if not self.may_list_pods:
                raise refusals.Denied(DENIED)
            yield page(*({"namespace": "ns", "name": f"p{n}", "uid": f"uid-{n}"} for n in (1, 2)))


def page(*metas: dict[str, Any]) -> rest_client.Page:
    raw = [msgspec.Raw(msgspec.json.encode({"metadata": meta})) for meta in metas]
    return rest_client.Page(raw=raw, version="1")


async def test_pods_are_found_by_their_tags_on_the_nodes_that_hold_something() -> None:
    client = Client()

    assert await cache_holders.named(client, "imc-a") == ["ns/p1 on busy"]
    assert client.asked == ["spec.nodeName=busy"]
    assert await cache_holders.named(client, "imc-c") == []


async def test_who_may_not_list_pods_gets_no_names() -> None:
    client = Client(may_list_pods=False)

    assert await cache_holders.named(client, "imc-a") == []
