"""What the controller's page knows of a large cluster."""

import msgspec

from agent.clients.kube import refusals, rest_client
from agent.control.page import page_data
from agent.model import keys, reports
from tests.fakes import api as fakes


class Client:
    """A cluster of 1200 nodes, of which the last serves nothing, and without caches."""

    def __init__(self) -> None:
        self.whole: list[str] = []

    async def pages(self, resource, *, not_older_than: str = ""):
        if resource != rest_client.NODES:
            raise refusals.NotFound(fakes.refusal(404, ""))
        self.whole += [not_older_than]
        for start in range(0, 1200, 500):
            numbers = range(start, min(start + 500, 1200))
            raw = [msgspec.Raw(msgspec.json.encode(node(number))) for number in numbers]
            yield rest_client.Page(raw=raw, version="7")


def node(number: int) -> dict:
    labels = {} if number == 1199 else {keys.CAPABLE: "true"}
    saved = reports.encode_saved(reports.Saved(seconds=2.0, size=3, images={}))
    meta = {"name": f"n{number:04}", "labels": labels, "annotations": {keys.SAVED: saved}}
    conditions = [{"type": keys.NODE_CONDITION, "message": "its reason"}]
    return {"metadata": meta, "status": {"conditions": conditions}}


async def test_all_nodes_are_added_up_and_those_that_do_not_serve_come_first() -> None:
    client = Client()
    fleet = (await page_data.read(client, store_problem="")).fleet

    assert (fleet.count, fleet.capable, fleet.seconds, fleet.size) == (1200, 1199, 2400.0, 3600)
    assert [found.name for found in fleet.shown[:2]] == ["n1199", "n0000"]
    assert fleet.shown[0].reason == "its reason"
    assert len(fleet.shown) == 500


async def test_nodes_are_asked_for_in_parts() -> None:
    """From its memory a server gives all of them in one answer."""
    client = Client()
    await page_data.read(client, store_problem="")

    assert client.whole == [""]
