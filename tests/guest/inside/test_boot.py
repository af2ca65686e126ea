"""A node that starts while its server cannot be had, and servers that cannot be had at all."""

import json

import pytest

from lab.guest import nfsd
from tests.guest.inside import conftest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]


def reason(node) -> str:
    return json.loads(node.get("/status"))["node"]["reason"]


def test_a_node_that_boots_without_the_server_serves_when_it_comes(
    server, store, registry, tmp_path
) -> None:
    server.stop()
    with (
        conftest.Node(tmp_path, registry) as node,
        conftest.cri.Client(node.containerd.address, tmp_path / "logs") as client,
    ):
        conftest.wait_until(lambda: "is the NFS service running?" in reason(node))
        node.schedule(node.pod("early", conftest.STORED, "true"))

        # Not as if the store had no images: that the pod waits is what serves it later.
        conftest.wait_until(lambda: "cannot be mounted" in sentence(node, "early"))
        assert not node.capable()
        assert node.mounts() == []

        # Refused connections were the easy case; now nothing comes back.
        server.cut()
        server.start()
        conftest.wait_until(lambda: "does not answer: is it up" in reason(node))
        server.mend()
        back = conftest.wait_until(node.capable)
        conftest.note(f"capable {back:.1f} s after a server that was cut off is there")
        conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))

        # And once more, now that it is mounted.
        server.cut()
        conftest.wait_until(lambda: not node.capable())
        server.mend()
        back = conftest.wait_until(node.capable)
        conftest.note(f"capable {back:.1f} s after the wire was mended")


def sentence(node, name: str) -> str:
    pods = json.loads(node.get("/status"))["pods"]
    return "".join(pod["sentence"] for pod in pods if pod["name"] == name)


@pytest.mark.parametrize(
    ("export", "said"),
    [
        (f"{nfsd.ADDRESS}:/none", "has no such export"),
        ("no-such-server.invalid:/store", "its name, the DNS and the route"),
        ("10.99.0.1:/store", "no route"),
    ],
)
def test_the_agent_says_what_is_wrong_with_an_export(
    export, said, server, store, registry, tmp_path
) -> None:
    with conftest.Node(tmp_path, registry, export) as node:
        conftest.wait_until(lambda: said in reason(node))

        assert node.get("/healthz") == "ok\n"
        assert export in reason(node)
