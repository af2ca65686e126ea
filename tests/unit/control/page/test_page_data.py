"""What the controller's page knows of a large cluster."""

import msgspec

from agent.clients.kube import refusals, rest_client
from agent.control.page import page_data
from agent.model import keys, reports
from tests.fakes import api as fakes


class Client:
    """A cluster of 1200 nodes, of which the last serves nothing, and without caches.

    The agents of all but the first ten are of a version that writes what it saved on the node.
    """

    def __init__(self) -> None:
        self.whole: list[str] = []

    async def get(self, resource, name, *, namespace: str = ""):
        assert (resource, namespace) == (rest_client.CONFIG_MAPS, "own")
        raise refusals.NotFound(fakes.refusal(404, name))

    async def pages(
        self, resource, *, not_older_than: str = "", namespace: str = "", labels: str = ""
    ):
        if resource == rest_client.LEASES:
            assert (namespace, "app.kubernetes.io/component=node" in labels) == ("own", True)
            raw = [msgspec.Raw(msgspec.json.encode(lease(number))) for number in range(10)]
            yield rest_client.Page(raw=raw, version="7")
            return
        if resource != rest_client.NODES:
            raise refusals.NotFound(fakes.refusal(404, ""))
        self.whole += [not_older_than]
        for start in range(0, 1200, 500):
            numbers = range(start, min(start + 500, 1200))
            raw = [msgspec.Raw(msgspec.json.encode(node(number))) for number in numbers]
            yield rest_client.Page(raw=raw, version="7")


def lease(number: int) -> dict:
    saved = reports.encode_saved(reports.Saved(seconds=12.0, size=13, images={}))
    meta = {"name": f"{keys.NODE_LEASE}n{number:04}", "annotations": {keys.SAVED: saved}}
    return {"metadata": meta, "spec": {"holderIdentity": f"n{number:04}"}}


def node(number: int) -> dict:
    labels = {} if number == 1199 else {keys.CAPABLE: "true"}
    saved = reports.encode_saved(reports.Saved(seconds=2.0, size=3, images={}))
    meta = {"name": f"n{number:04}", "labels": labels, "annotations": {keys.SAVED: saved}}
    conditions = [{"type": keys.NODE_CONDITION, "message": "its reason"}]
    return {"metadata": meta, "status": {"conditions": conditions}}


async def test_all_nodes_are_added_up_and_those_that_do_not_serve_come_first() -> None:
    client = Client()
    fleet = (await page_data.read(client, namespace="own", store_problem="")).fleet

    assert (fleet.count, fleet.capable, fleet.seconds, fleet.size) == (1200, 1199, 2500.0, 3700)
    assert [found.name for found in fleet.shown[:2]] == ["n1199", "n0000"]
    assert fleet.shown[0].reason == "its reason"
    assert len(fleet.shown) == 500


async def test_nodes_are_asked_for_in_parts() -> None:
    """From its memory a server gives all of them in one answer."""
    client = Client()
    await page_data.read(client, namespace="own", store_problem="")

    assert client.whole == [""]
