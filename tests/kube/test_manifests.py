"""Our manifests on an API server: accepted as they are, and what their policies do there.

Admission is only a real server's: without one these are skipped, and tests/manifests
evaluates the same policies on the same pods by the same CEL.
"""

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import yaml

from agent.clients.kube import connection, rest_client
from agent.model import caches, images, keys, pods
from agent.node.pods import cache_requests
from agent.setup.config import places
from agent.setup.node import host
from agent.setup.slots import node_return, slot_turn, turns
from lab import processes
from tests.kube import apis, servers
from tests.manifests import cases, rendering, test_kustomize

pytestmark = [
    servers.needs_real,
    pytest.mark.timeout(300),
]

HANDLER = "io.containerd.cri.runtime-handler"
NAMESPACE, LEAVING = "uimgacc-system", "uimgacc-uninstall"
ACCOUNTS = rest_client.Resource(plural="serviceaccounts")
CACHES = rest_client.Resource(group="uimgacc.io", plural="imagecaches")


def kubectl(api: apis.Api, *arguments: str, text: str = "") -> str:
    """Run a real kubectl as the administrator."""
    done = subprocess.run(
        [rendering.KUBECTL, "--kubeconfig", api.kubeconfig(), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def namespaces(
    api_access: connection.Access, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The namespaces of the manifests: in a dry run, too, they have to be there."""
    resource = rest_client.Resource(plural="namespaces")
    with contextlib.ExitStack() as undo:
        api = apis.Api(api_access, tmp_path_factory.mktemp("namespaces"))
        undo.callback(api.close)
        for name in (NAMESPACE, LEAVING):
            # A refusal is the end of it: a cluster that has us already is not one for tests.
            api.create(resource, {"metadata": {"name": name}})
            undo.callback(api.delete, resource, name)
        yield


@pytest.fixture(scope="module")
def installed(
    namespaces: None, api_access: connection.Access, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[apis.Api]:
    """A server on which the default overlay and the class nvidia are installed.

    But not its pods: a cluster's nodes would have their containerd set up and restarted.
    """
    folder = tmp_path_factory.mktemp("installed")
    api = apis.Api(api_access, folder)
    documents = rendering.together("runtimeclass", "nvidia", "controller")
    workloads = ("DaemonSet", "Deployment")
    text = yaml.safe_dump_all(each for each in documents if each["kind"] not in workloads)
    try:
        api.runtime_class("nvidia")
        kubectl(api, "apply", "--server-side", "-f", "-", text=text)
        # A policy is in force a moment after it was made.
        probe = cases.pod(cases.AUTO)
        apis.wait_until(lambda: handler_of(create(api, probe)) == "uimgacc", seconds=60)
        yield api
    finally:
        kubectl(api, "delete", "--wait=false", "--ignore-not-found", "-f", "-", text=text)
        api.close()


def create(api: apis.Api, pod: apis.Object, namespace: str = "") -> apis.Object:
    """The pod as the server would store it."""
    namespace = namespace or api.namespace
    path = rest_client.PODS.path(namespace=namespace) + "?dryRun=All"
    pod = {**pod, "metadata": {**pod["metadata"], "namespace": namespace}}
    pod["spec"] = {**pod["spec"], "automountServiceAccountToken": False}
    return api._ask("POST", path, pod)


def handler_of(pod: apis.Object) -> str | None:
    return pod["metadata"].get("annotations", {}).get(HANDLER)


def test_a_namespace_asks_for_its_pods(installed: apis.Api) -> None:
    def label(value: str | None) -> None:
        body = {"metadata": {"labels": {keys.CACHE: value}}}
        installed.patch(rest_client.NAMESPACES, installed.namespace, body)

    label("auto")
    try:
        # The policy that writes the annotation is not the one that goes by it.
        apis.wait_until(lambda: handler_of(create(installed, cases.pod())) == "uimgacc", seconds=60)
        refuses = create(installed, cases.pod({keys.CACHE: "false"}))
        assert handler_of(refuses) is None
    finally:
        label(None)
        apis.wait_until(lambda: handler_of(create(installed, cases.pod())) is None, seconds=60)


@test_kustomize.every_case
def test_what_is_installed_is_accepted_in_a_dry_run(
    api: apis.Api, namespaces: None, overlay: str, components: tuple[str, ...]
) -> None:
    dry_run(
        api,
        [
            document
            for document in rendering.together(overlay, *components)
            if document["apiVersion"] not in test_kustomize.FOREIGN
        ],
    )


def test_what_uninstalls_is_accepted_in_a_dry_run(api: apis.Api, namespaces: None) -> None:
    dry_run(api, rendering.render(rendering.MANIFESTS / "uninstall"))


def dry_run(api: apis.Api, documents: Sequence[rendering.Document]) -> None:
    """Have the server take objects as it would on `kubectl apply`, all but storing them."""
    absent = {(each["apiVersion"], each["kind"]) for each in documents} - served(api, documents)
    if absent and servers.is_cluster():
        pytest.skip(f"this cluster's release does not serve {absent}")
    text = yaml.safe_dump_all(documents)

    said = kubectl(
        api, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", text=text
    )

    assert said.count("serverside-applied (server dry run)") == len(documents)


def served(api: apis.Api, documents: Sequence[rendering.Document]) -> set[tuple[str, str]]:
    """The versions of the documents' kinds that the server has, and which kinds those have."""
    found = set()
    for version in {each["apiVersion"] for each in documents}:
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        with contextlib.suppress(apis.RefusedError):
            found |= {(version, each["kind"]) for each in api._ask("GET", path)["resources"]}
    return found


@pytest.mark.parametrize("asking", cases.ASKING.values(), ids=cases.ASKING)
def test_a_pod_that_asks_is_sent_to_the_twin(installed: apis.Api, asking: apis.Object) -> None:
    for class_, twin in (("", "uimgacc"), ("nvidia", "uimgacc-nvidia")):
        named = {"runtimeClassName": class_} if class_ else {}
        found = create(installed, {**asking, "spec": {**asking["spec"], **named}})

        assert (found["spec"]["runtimeClassName"], handler_of(found)) == (twin, twin)
        assert found["spec"]["nodeSelector"]["uimgacc.io/handler"] == "true"


@pytest.mark.parametrize("selected", [{}, {"zone": "a"}], ids=["any zone", "a zone"])
@pytest.mark.parametrize(("had", "needed"), cases.NEEDS.values(), ids=cases.NEEDS)
def test_a_pod_goes_to_the_nodes_that_can_serve_what_it_has(
    installed: apis.Api,
    able_class: str,
    had: apis.Object,
    needed: apis.Object,
    selected: apis.Object,
) -> None:
    """Only a server knows which parts of a pod an ApplyConfiguration may not touch."""
    asking = cases.pod(cases.AUTO, runtimeClassName=able_class, nodeSelector=selected, **had)

    found = create(installed, asking)

    assert found["spec"]["runtimeClassName"] == f"uimgacc-{able_class}"
    assert found["spec"]["nodeSelector"] == {**selected, **needed}


@pytest.fixture(scope="module")
def able_class(installed: apis.Api) -> Iterator[str]:
    """A class whose twin has nodes for pods with everything."""
    name = "able"
    labels = {keys.TWIN_OF: name} | cases.NEEDS["both"][1]
    twin = {"metadata": {"name": f"uimgacc-{name}", "labels": labels}, "handler": "uimgacc"}
    installed.runtime_class(name)
    installed.create(rest_client.RUNTIME_CLASSES, twin)
    try:
        asking = cases.pod(cases.AUTO, runtimeClassName=name)
        apis.wait_until(lambda: handler_of(create(installed, asking)) == "uimgacc", seconds=60)
        yield name
    finally:
        installed.delete(rest_client.RUNTIME_CLASSES, f"uimgacc-{name}")


@pytest.mark.parametrize("other", cases.LEFT_ALONE.values(), ids=cases.LEFT_ALONE)
def test_any_other_pod_stays_as_it_is(installed: apis.Api, other: apis.Object) -> None:
    class_ = other["spec"].get("runtimeClassName")
    if class_:
        installed.runtime_class(class_)
    if "overhead" in other["spec"]:
        # The server sets it, from a class; a pod of none may not bring its own.
        return
    found = create(installed, other)

    assert (found["spec"].get("runtimeClassName"), handler_of(found)) == (class_, None)


@pytest.mark.parametrize("namespace", ["kube-system", NAMESPACE])
def test_pods_that_must_start_without_us_stay_as_they_are(
    installed: apis.Api, namespace: str
) -> None:
    found = create(installed, cases.pod(cases.AUTO), namespace)

    assert "runtimeClassName" not in found["spec"]


def test_a_pod_that_names_our_class_gets_the_annotation(installed: apis.Api) -> None:
    found = create(installed, cases.pod(runtimeClassName="uimgacc-nvidia"))

    assert handler_of(found) == "uimgacc-nvidia"


def test_a_class_with_an_overhead_keeps_its_pods_unless_the_twin_has_it(
    installed: apis.Api,
) -> None:
    classes = rest_client.Resource(group="node.k8s.io", plural="runtimeclasses")
    memory = {"light": "1Mi", "uimgacc-light": "2Mi", "heavy": "64Mi", "uimgacc-heavy": "64Mi"}
    try:
        for name, amount in memory.items():
            ours = name.startswith("uimgacc-")
            labels = {"uimgacc.io/twin-of": name.removeprefix("uimgacc-")} if ours else {}
            body = {"metadata": {"name": name, "labels": labels}, "handler": name}
            installed.create(classes, {**body, "overhead": {"podFixed": {"memory": amount}}})

        def class_of(name: str) -> str:
            asking = cases.pod(cases.AUTO, runtimeClassName=name)
            return str(create(installed, asking)["spec"]["runtimeClassName"])

        # Who has seen the last of them has seen all of them.
        apis.wait_until(lambda: class_of("heavy") == "uimgacc-heavy", seconds=60)
        assert class_of("light") == "light"
    finally:
        for name in memory:
            installed.delete(classes, name)


@pytest.fixture
def checking(installed: apis.Api, tmp_path: pathlib.Path) -> Iterator[None]:
    """What checks the types of policies' expressions: a part of the controller manager."""
    if servers.is_cluster():
        yield
        return
    program = pathlib.Path(os.environ["KUBEBUILDER_ASSETS"]) / "kube-controller-manager"
    if not program.exists():
        pytest.skip("needs a kube-controller-manager beside the kube-apiserver")
    command = [
        str(program),
        f"--kubeconfig={installed.kubeconfig()}",
        "--controllers=validatingadmissionpolicy-status-controller",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={processes.free_port()}",
        f"--cert-dir={tmp_path}",
    ]
    manager = processes.Process(command, tmp_path / "manager.log")
    manager.start()
    yield
    manager.end()


@pytest.mark.usefixtures("checking")
def test_the_types_of_our_policies_expressions_are_right(installed: apis.Api) -> None:
    policies = rest_client.Resource(
        group="admissionregistration.k8s.io", plural="validatingadmissionpolicies"
    )
    ours = [
        found["metadata"]["name"]
        for found in rendering.of_kind(
            rendering.together("runtimeclass", "nvidia", "controller"), "ValidatingAdmissionPolicy"
        )
    ]
    assert ours

    def checked(name: str) -> apis.Object:
        found = installed.get(policies, name)
        done = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
        return found["status"].get("typeChecking", {}) if done else {"pending": True}

    for name in ours:
        apis.wait_until(lambda name=name: "pending" not in checked(name), seconds=60)
        assert checked(name).get("expressionWarnings", []) == []


class Agent:
    """An agent's account, with the token that the kubelet of its node gives it."""

    def __init__(self, api: apis.Api, node: str) -> None:
        self.api = api
        pod = apis.pod(f"agent-{node}", node, spec={"serviceAccountName": "uimgacc-node"})
        made = api.create(rest_client.PODS, pod, namespace=NAMESPACE)
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"]}
        path = ACCOUNTS.path("uimgacc-node", namespace=NAMESPACE, subresource="token")
        spec = {"boundObjectRef": {**bound, "uid": made["metadata"]["uid"]}}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token = api._ask("POST", path, request)["status"]["token"]
        access = connection.Access(
            server=api.access.server, authorization=f"Bearer {token}", tls=api.access.tls
        )
        self.access = access
        self._as = apis.Api.__new__(apis.Api)
        self._as.access = access

    def patch(self, node: str, body: Any, *, subresource: str = "") -> str:
        """The refusal of a patch; "" where it was accepted."""
        return refusal(
            lambda: self._as.patch(rest_client.NODES, node, body, subresource=subresource)
        )

    def patch_slot(self, spec: apis.Object) -> str:
        """The refusal of a change of the first slot; "" where it was accepted."""
        name, body = "uimgacc-setup-slot-0", {"spec": spec}
        return refusal(lambda: self._as.patch(rest_client.LEASES, name, body, namespace=NAMESPACE))

    def create_cache(self, body: Any) -> str:
        """The refusal of an ImageCache; "" where it was accepted, which changes nothing."""
        return refusal(lambda: self._as._ask("POST", f"{CACHES.path()}?dryRun=All", body))


def refusal(ask: Callable[[], object]) -> str:
    try:
        ask()
    except apis.RefusedError as error:
        if error.status not in (403, 422):
            raise
        return str(error)
    return ""


@pytest.fixture(scope="module")
def agent(installed: apis.Api) -> tuple[Agent, str, str]:
    """An agent, its own node, and another one."""
    own, other = (
        installed.node(labels={"zone": "a"}, annotations={"example.com/a": "1"}) for _ in range(2)
    )
    return Agent(installed, own), own, other


@pytest.mark.parametrize("body", cases.NODE_ALLOWED.values(), ids=cases.NODE_ALLOWED)
def test_an_agent_writes_our_keys_on_its_own_node_only(
    agent: tuple[Agent, str, str], body: Any
) -> None:
    account, own, other = agent

    assert account.patch(own, body) == ""
    assert "changes its own node only" in account.patch(other, body)


@pytest.mark.parametrize("body", cases.NODE_REFUSED.values(), ids=cases.NODE_REFUSED)
def test_an_agent_writes_nothing_else(agent: tuple[Agent, str, str], body: Any) -> None:
    account, own, _ = agent

    assert "an agent of uimgacc" in account.patch(own, body)


def test_an_agent_takes_only_our_startup_taint_away(
    installed: apis.Api, agent: tuple[Agent, str, str]
) -> None:
    account, own, _ = agent
    taints = [
        {"key": "uimgacc.io/starting", "effect": "NoSchedule"},
        {"key": "example.com/other", "effect": "NoSchedule"},
    ]
    installed.patch(rest_client.NODES, own, {"spec": {"taints": taints}})

    assert "startup taints" in account.patch(own, {"spec": {"taints": None}})
    assert account.patch(own, {"spec": {"taints": taints[1:]}}) == ""


def test_an_agent_writes_its_condition_only(agent: tuple[Agent, str, str]) -> None:
    account, own, _ = agent
    ours = {"type": "ImageAcceleration", "status": "True", "reason": "R", "message": "m"}

    def status(**fields: Any) -> str:
        return account.patch(own, {"status": fields}, subresource="status")

    assert status(conditions=[ours]) == ""
    assert "the condition" in status(conditions=[ours, {**ours, "type": "Ready"}])
    assert "the condition" in status(capacity={"cpu": "1000"})


def test_an_agent_asks_for_pull_secrets_for_pods_of_its_own_node_only(
    agent: tuple[Agent, str, str],
) -> None:
    account, own, other = agent

    def asked(node: str, secret: str = "team/pull") -> str:
        request = caches.CacheRequest(
            name="auto-1",
            images=(images.parse_reference("nginx:1"),),
            pull_secrets=(caches.SecretName(*secret.split("/")),),
            size_gib=caches.SIZE_AUTO,
        )
        made = cache_requests.manifest_of(
            request, pods.Pod(namespace="team", name="p", uid="u", node=node)
        )
        return account.create_cache(made)

    assert asked(own) == ""
    assert "pods of its own node only" in asked(other)
    assert "pods of its own node only" in asked("")
    assert "of the namespace of the pod only" in asked(own, "finance/pull")


class Known:
    """Credentials that are known."""

    seconds = 600.0

    def __init__(self, access: connection.Access) -> None:
        self._access = access

    async def read(self) -> connection.Access:
        return self._access


def test_node_set_up_takes_and_leaves_slots_with_the_rights_of_its_account(
    installed: apis.Api,
    agent: tuple[Agent, str, str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account, own, other = agent

    async def nothing(_api: Any, **_: Any) -> str:
        return ""

    def turn(of: Agent, node: str) -> slot_turn.SlotTurn:
        def connect() -> rest_client.Client:
            return rest_client.Client(Known(of.access), deadline=20)

        settings = turns.Settings(node=node, young_seconds=0)
        machine = host.Host(tmp_path / node)
        return slot_turn.SlotTurn(machine, places.DEFAULT_CONFIG, settings, connect)

    def holder() -> str:
        body = installed.get(rest_client.LEASES, "uimgacc-setup-slot-0", namespace=NAMESPACE)
        return str(body["spec"].get("holderIdentity") or "")

    monkeypatch.setattr(node_return, "missing", nothing)
    monkeypatch.setattr(slot_turn, "_LOOKS", 1 << 40)  # One slot at each look.
    second = Agent(installed, other)
    turn(account, own).take()
    assert holder() == own
    turn(account, own).fail("the node is not Ready")
    with pytest.raises(turns.NotYet, match=rf"has {own} for .* \(the node is not Ready\)"):
        turn(second, other).take()
    # One that does not ask, but writes.
    assert "takes no slot from another node" in second.patch_slot({"holderIdentity": ""})
    assert "takes no slot from another node" in second.patch_slot({"holderIdentity": other})
    assert "holds a slot for its own node only" in account.patch_slot({"holderIdentity": other})
    assert turn(account, own).settle(0) == ""
    turn(second, other).take()
    assert holder() == other
    assert turn(second, other).settle(0) == ""


def test_everybody_else_is_not_held(installed: apis.Api, agent: tuple[Agent, str, str]) -> None:
    _, own, _ = agent

    installed.patch(rest_client.NODES, own, {"metadata": {"labels": {"zone": "c"}}})
