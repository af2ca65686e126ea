"""What Prometheus has of a real node and controller: no panel is empty, no rule for nothing.

Both work on one store, and nothing of theirs is played but Kubernetes' own part. Grafana is
not run; its variables are put in as it does it, and each query is sent as it would send it.
"""

import contextlib
import datetime
import math
import pathlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator

import pytest
import yaml

from agent.control.reconcile import cluster
from lab import processes
from lab.web import prometheus
from tests import waiting
from tests.control import conftest as control
from tests.kube import apis, faults
from tests.kube import conftest as servers
from tests.metrics import boards
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.timeout(300)]

api_loop = servers.api_loop
api_access = servers.api_access
api = servers.api
proxy = servers.proxy
kinds = control.kinds

MIXED = "lab/multi:1"
"""An image of which some layers are in the store, and one is not."""

SHARE = re.compile(r"(.+) / \((.+) > 0\)")
"""A share of nothing is no figure: what it is of must be there."""

SELECTOR = re.compile(r"(?<![\w:])((?:uimgacc_|process_)\w+|up)\b(\{[^}]*\})?")


@pytest.fixture
def plane(api: apis.Api, kinds: None, registry) -> Iterator[control.Plane]:
    """Where the controller and its builders are at home."""
    with tempfile.TemporaryDirectory(prefix="uimgacc-control-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        made = control.Plane(api, folder, registry)
        made.builders.start()
        try:
            with waiting.failing_on(made.ended_at_start):
                yield made
        finally:
            made.close()


@pytest.fixture
def stocked(plane: control.Plane, pristine: pathlib.Path) -> pathlib.Path:
    """The controller's store, with images that were built before."""
    store = plane.store.root
    shutil.copytree(pristine, store, dirs_exist_ok=True)
    for path in (store, *store.rglob("*")):
        shutil.chown(path, control.USER, control.USER)
    return store


class Member(conftest.Node):
    """A node of a cluster: the name of its object, and where its processes are scraped."""

    name: str
    targets: tuple[str, str]


@pytest.fixture
def controller(plane: control.Plane, stocked: pathlib.Path, proxy: faults.Proxy) -> str:
    """Where the metrics of the controller are, which reaches the API by way of the proxy."""
    content = yaml.safe_load(plane.kubeconfig.read_text())
    content["clusters"][0]["cluster"] = {"server": proxy.url}
    plane.kubeconfig.write_text(yaml.safe_dump(content))
    address = f"127.0.0.1:{processes.free_port()}"
    plane.controller(f"--listen={address}")
    return address


@pytest.fixture
def member(
    folder: pathlib.Path, registry, stocked, controller: str, api: apis.Api
) -> Iterator[Member]:
    """A node of the cluster, both of its processes with a port for metrics alone."""
    name = api.node()
    source = ("--kubernetes", name, "--kubeconfig", api.kubeconfig())
    # The disk of the tests may be fuller than a node's.
    roomy = {"UIMGACC_LOCAL_FREE": "1%"}
    node = Member(folder / "n", registry, stocked, source=source, agent_environment=roomy)
    node.name = name
    node.targets = (f"127.0.0.1:{processes.free_port()}", f"127.0.0.1:{processes.free_port()}")
    node.agent.command += ["--metrics-address", node.targets[0], "--probe-seconds", "1"]
    node.agent.command += ["--retired-seconds", "0.3"]
    node.snapshotter.command += ["--metrics-address", node.targets[1]]
    with conftest.running(node, registry):
        yield node


@pytest.fixture
def scraped(member, controller, folder: pathlib.Path) -> Iterator[prometheus.Prometheus]:
    """Prometheus, when it has seen every process before anything happened."""
    # As the operator names them: NAMESPACE/NAME of the PodMonitor.
    jobs = {
        "uimgacc-system/uimgacc-node": dict.fromkeys(member.targets, "a"),
        "uimgacc-system/uimgacc-controller": {controller: ""},
    }
    with prometheus.Prometheus(folder, jobs, boards.RULES) as server:
        server.wait_for("count(up == 1) == 3")
        server.wait_for("count(uimgacc_build_info) == 3")
        yield server


def schedule(
    node: Member, api: apis.Api, name: str, image: str, *, asks: bool, **annotations: str
) -> None:
    """Bind a pod to the node; one that asks has the runtime class that admission gives it."""
    api.runtime_class("uimgacc")
    if asks:
        annotations["uimgacc.io/image-cache"] = "auto"
    api.pod(
        name,
        node.name,
        image=node.reference(image),
        annotations=annotations,
        spec={"runtimeClassName": "uimgacc"} if asks else {},
    )
    conftest.wait_until(lambda: node.status(name).get("served"), seconds=60)


def start(api: apis.Api, name: str, *, seconds: int) -> None:
    """What a kubelet says of a pod that has started."""
    accepted = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    started = (accepted + datetime.timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    api.pod_status(
        name,
        {
            "phase": "Running",
            "startTime": accepted.isoformat().replace("+00:00", "Z"),
            "containerStatuses": [
                {
                    "name": "c",
                    "image": "i",
                    "imageID": "i",
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": started}},
                }
            ],
        },
    )


def control_caches(
    plane: control.Plane, proxy: faults.Proxy, scraped: prometheus.Prometheus
) -> None:
    """A step that fails; a build that cannot succeed; one that does, and its cache's deletion."""
    proxy.fail(503, which=lambda seen: seen.method == "POST" and seen.path.endswith("/jobs"))
    built = plane.apply(f"built-{uuid.uuid4().hex[:6]}", MIXED)
    scraped.wait_for('uimgacc_reconcile_seconds_count{failed="true"} >= 1')
    proxy.heal()
    broken = plane.apply(f"broken-{uuid.uuid4().hex[:6]}", "lab/none:1")
    plane.wait(built, "Ready")
    plane.wait(broken, "Failed")
    scraped.wait_for('uimgacc_caches{phase="Ready"} == 1')
    plane.end_claims()
    plane.api.delete(cluster.resource_of(built), built.name)
    apis.wait_until(lambda: plane.gone(built), seconds=60)


def live(node: Member, api: apis.Api) -> None:
    """A pull, a hit, a partial hit and a miss; a pod that was helped, and one that was not.

    The one that was helped runs, from the store.
    """
    node.client.pull_image(node.reference("lab/plain:1"), handler="")
    schedule(node, api, "helped", "lab/layers40:1", asks=True)
    schedule(node, api, "alone", "lab/plain:1", asks=False)
    start(api, "helped", seconds=1)
    start(api, "alone", seconds=9)
    # Of its two layers one is in the store; of the next, none.
    node.client.pull_image(node.reference(MIXED), handler="uimgacc")
    node.client.pull_image(node.reference("lab/estargz:1"), handler="uimgacc")
    node.client.run_pod(node.manifest("helped", "lab/layers40:1"))


def become_independent(node: Member, api: apis.Api) -> None:
    """Another pod wants the layers that a container reads from the store to be copied at once.

    Nothing else has them looked at soon while others mount on this machine.
    """
    local = {"uimgacc.io/local": "before-start"}
    schedule(node, api, "local", "lab/layers40:1", asks=True, **local)


# What must have come of it, and have been scraped, before a panel is looked at.
HAPPENED = (
    'uimgacc_pull_seconds_count{result="hit"} >= 1',
    'uimgacc_pull_seconds_count{result="partial"} >= 1',
    'uimgacc_pull_seconds_count{result="miss"} >= 2',
    "uimgacc_pull_saved_bytes_total > 0",
    'uimgacc_fallback_total{reason="not_in_store"} >= 2',
    'uimgacc_pod_ready_seconds_count{accelerated="true"} == 1',
    'uimgacc_pod_ready_seconds_count{accelerated="false"} == 1',
    "uimgacc_premount_seconds_count >= 1",
    "uimgacc_mounts >= 40",
    "uimgacc_local_copies >= 40",
    "uimgacc_local_copied_bytes_total > 0",
    'uimgacc_local_switches_total{to="local"} >= 40',
    'uimgacc_used_layer_bytes{source="local"} > 0',
    'uimgacc_used_layer_bytes{source="store"} == 0',
    'uimgacc_used_containers{source="local"} >= 1',
    "uimgacc_local_independent_seconds_count >= 1",
    "uimgacc_store_healthy == 1",
    "increase(uimgacc_store_probe_seconds_count[1m]) > 0",
    "uimgacc_node_capable == 1",
    # Of the controller; the node has read the generation, and let go of it.
    "uimgacc_leading == 1",
    'uimgacc_reconcile_seconds_count{failed="true"} >= 1',
    'uimgacc_reconcile_seconds_count{failed="false"} >= 1',
    'uimgacc_builds_total{result="ready"} == 1',
    'uimgacc_builds_total{result="failed"} >= 1',
    # One was deleted; the other is tried again now and then.
    'uimgacc_caches{phase="Ready"} == 0',
    'sum(uimgacc_caches{phase=~"Failed|Creating"}) == 1',
    'uimgacc_collections_total{result="done"} >= 1',
    "uimgacc_collected_layers_total >= 1",
    "uimgacc_collected_bytes_total > 0",
    'uimgacc_generation{which="acknowledged"} >= 1',
)


def as_grafana_sends_it(expression: str, variables: dict[str, str]) -> str:
    """With variables put in; an unknown one would be sent unchanged, and is an error."""
    text = re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda found: variables[found[1] or found[2]], expression)
    assert "$" not in text
    return text


def variables_of(name: str, server: prometheus.Prometheus) -> dict[str, str]:
    """The variables of a dashboard, and those that Grafana has by itself."""
    values = {"__range": "5m", "__rate_interval": "1m", "__interval": "1m"}
    for variable in boards.load(name)["templating"]["list"]:
        if variable["type"] == "custom":
            assert variable["current"]["value"] in variable["query"].split(",")
            values[variable["name"]] = "5m"
        elif variable["type"] == "query":
            wanted = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert wanted is not None
            found = server.ask(f"label/{wanted[2]}/values", **{"match[]": wanted[1]})
            assert found == ["a"]
            values[variable["name"]] = found[0]
    return values


def test_no_panel_is_empty_and_no_rule_asks_for_nothing(member, scraped, plane, proxy, api) -> None:
    live(member, api)
    become_independent(member, api)
    control_caches(plane, proxy, scraped)
    for fact in HAPPENED:
        scraped.wait_for(fact)

    empty = []
    for name in boards.NAMES:
        variables = variables_of(name, scraped)
        for panel in boards.panels(name):
            for target in panel["targets"]:
                query = as_grafana_sends_it(target["expr"], variables)
                share = SHARE.fullmatch(query)
                for part in share.groups() if share else (query,):
                    values = [value for _, value in scraped.query(part)]
                    if not any(map(math.isfinite, values)):
                        empty.append((name, panel["title"], part, values))
    assert empty == []

    for alert in boards.alerts():
        for metric, labels in SELECTOR.findall(alert["expr"]):
            assert scraped.query(f"{metric}{labels}"), f"{alert['alert']}: {metric}{labels}"
    # Prometheus itself has evaluated them all, and found nothing wrong with a node that is well.
    conftest.wait_until(
        lambda: (
            {(rule["name"], rule["health"], rule["state"]) for rule in scraped.rules()}
            == {(alert["alert"], "ok", "inactive") for alert in boards.alerts()}
        ),
        seconds=60,
    )


def test_a_snapshotter_that_is_gone_is_seen(member, scraped) -> None:
    scraped.wait_for("uimgacc_node_capable == 1")
    with contextlib.ExitStack() as undo:
        undo.callback(member.start_snapshotter)
        member.snapshotter.end()
        scraped.wait_for('uimgacc_node_problem{check="snapshotter"} == 1')
        scraped.wait_for("up == 0")
        scraped.wait_for("uimgacc_node_capable == 0", seconds=90)
    scraped.wait_for("uimgacc_node_capable == 1")
