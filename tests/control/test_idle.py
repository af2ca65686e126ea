"""The requests of an idle controller to the API server."""

import pytest

from tests.kube import apis, faults

pytestmark = pytest.mark.timeout(300)

# Who leads says so, and the collector looks who has let go of what: each by a setting.
EXPECTED = ("leases/uimgacc-controller", "nodes")


def lately(proxy: faults.Proxy, *, renewals: int) -> list[str]:
    """What was asked for since so many renewals of the Lease; [] where there were less."""
    seen = [each for each in proxy.seen if not each.watch]
    renewed = [
        at
        for at, each in enumerate(seen)
        if each.method == "PATCH" and each.path.endswith(EXPECTED[0])
    ]
    return [each.path for each in seen[renewed[-renewals] :]] if len(renewed) >= renewals else []


def test_an_idle_controller_asks_for_nothing_but_its_lease_and_the_nodes(plane, proxy) -> None:
    """Not for caches, which come by the watches: not even for UCloud's other names of them."""
    content = plane.api.kubeconfig(server=proxy.url).read_bytes()
    plane.kubeconfig.write_bytes(content)
    key = plane.apply("idle", "lab/gzip:1")
    plane.controller("--lease-seconds=5")
    plane.wait(key, "Ready")

    def rests() -> bool:
        # Four seconds; what was built comes first, and once a minute it looks for what it missed.
        requests = lately(proxy, renewals=5)
        return bool(requests) and all(each.endswith(EXPECTED) for each in requests)

    apis.wait_until(rests, seconds=90)
