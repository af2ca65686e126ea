"""The page and /status of a real node: what they say is so."""

import json

import pytest

from lab import processes
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.timeout(300)]


def status_of(node) -> dict:
    return json.loads(node.get("/status"))


def mounted(node) -> set[str]:
    """The layers that the kernel says are mounted."""
    folder = node.root / "layers"
    return {point.rpartition("/")[2] for point in processes.mounts_below(folder)} - {"layers"}


def test_status_and_page_show_what_the_node_has(node, pristine) -> None:
    node.client.pull_image(node.reference("lab/plain:1"), handler="")
    node.schedule(node.manifest("pod", "lab/layers40:1"))
    conftest.wait_until(lambda: status_of(node)["savings"]["last"])
    conftest.wait_until(lambda: status_of(node)["savings"]["samples"])
    conftest.wait_until(lambda: set(status_of(node)["mounts"]["layers"]) == mounted(node))
    status = status_of(node)
    page = node.get("/")

    assert len(status["mounts"]["layers"]) >= 40
    assert status["mounts"]["folder"] == f"{node.root}/layers"
    assert all(
        file.startswith(f"{pristine}/sha256/") for file in status["mounts"]["layers"].values()
    )
    assert status["store"]["path"] == str(pristine)
    assert status["store"]["kind"]
    assert status["store"]["source"]
    assert status["store"]["probe_seconds"] > 0
    assert status["savings"]["images"]["hit"] >= 1
    assert status["savings"]["bytes"] >= status["savings"]["last"][-1]["bytes"] > 0
    (pod,) = status["pods"]
    assert pod["outcome"] == pod["images"][0]["outcome"] == "hit"
    assert page.count("This node serves images from the store") == 1
    assert node.reference("lab/layers40:1") in page
    assert f"mounted in {node.root}/layers" in page


def test_a_snapshotter_that_is_gone_is_named_with_what_to_do(node2) -> None:
    node2.snapshotter.end()
    conftest.wait_until(lambda: not status_of(node2)["node"]["capable"], seconds=90)
    checks = {check["name"]: check for check in status_of(node2)["node"]["checks"]}
    page = node2.get("/")

    assert checks["snapshotter"]["problem"]
    assert "log" in checks["snapshotter"]["advice"]
    assert not checks["store"]["problem"]
    assert "does not serve images from the store" in page
    assert "Its log says why not" in page
