"""The command line on a cluster: an API server, a controller that builds, a person."""

import contextlib
import datetime
import json
import pathlib
import re
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
import typer.testing

from agent.cli import commands
from agent.cli.caches import cluster_changes
from agent.cli.install import installation
from agent.clients.kube import rest_client
from agent.model import images, keys, times
from agent.ucloud import accelerated_images
from tests.control import conftest
from tests.kube import apis, faults, servers, threads
from tests.manifests import rendering

pytestmark = pytest.mark.timeout(300)

RUNNER = typer.testing.CliRunner()
SYSTEM = "uimgacc-system"
DEPLOYMENTS = rest_client.Resource(group="apps", plural="deployments")
CONFIG_MAPS = rest_client.Resource(plural="configmaps")
BINDINGS = rest_client.Resource(
    group="admissionregistration.k8s.io", plural="mutatingadmissionpolicybindings"
)
Run = Callable[..., "typer.testing.Result"]


@pytest.fixture
def run(api: apis.Api, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`uimgacc ...` with the test's cluster."""
    monkeypatch.delenv("UIMGACC_STORE", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    monkeypatch.setenv("UIMGACC_NAMESPACE", api.namespace)
    monkeypatch.setenv("PATH", str(rendering.KUBECTL.parent), prepend=":")
    return lambda *arguments, **more: RUNNER.invoke(commands.app, list(arguments), **more)


def done(result: "typer.testing.Result") -> str:
    assert result.exit_code == 0, result.output
    assert result.exception is None
    return str(result.stdout)


@pytest.fixture
def made(plane: conftest.Plane) -> Iterator[None]:
    """What the commands make is gone at the end."""
    yield
    for each in plane.api.list(rest_client.IMAGE_CACHES):
        plane.made.append((rest_client.IMAGE_CACHES, each["metadata"]["name"]))


@pytest.mark.usefixtures("made")
def test_a_cache_is_created_shown_and_deleted(plane, run) -> None:
    plane.controller()
    host = plane.server.address

    built = done(run("create", "tools", "--image", f"{host}/lab/gzip:1", "--plain-http", host))
    assert built.startswith("tools is Ready as imc-")
    shown = json.loads(done(run("get", "tools", "--json")))
    assert (shown["phase"], shown["progress"]) == ("Ready", 100)
    assert plane.reader.cache(shown["id"]) is not None
    assert shown["tags"]["confirmed"]
    assert (shown["tags"]["moved"], shown["tags"]["problem"]) == ([], "")
    assert "tools" in done(run("get"))
    text = done(run("get", shown["id"]))
    assert f"{host}/lab/gzip:1" in text
    assert "Tags:      confirmed" in text

    assert done(run("delete", "tools")) == f"deleted {shown['id']}\n"

    assert run("get", "tools").exit_code == 3
    assert "no image cache tools" in run("delete", "tools").output


@pytest.mark.usefixtures("made")
def test_a_build_that_fails_ends_the_command_with_its_reason(plane, run) -> None:
    plane.controller("--retry-seconds=3600")
    host = plane.server.address

    result = run("create", "none", "--image", f"{host}/lab/none:1", "--plain-http", host)

    assert result.exit_code == 1
    assert "lab/none:1" in result.output.splitlines()[-1]


@pytest.mark.usefixtures("made")
def test_the_manifest_of_a_cloud_is_applied(plane, run, tmp_path) -> None:
    plane.controller()
    manifest = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {
            "name": "from-file",
            "annotations": {"uimgacc.io/plain-http-registry": plane.server.address},
        },
        "spec": {"images": [f"{plane.server.address}/lab/zstd:1"], "imageCacheSize": 25},
    }
    (tmp_path / "cache.yaml").write_text(json.dumps(manifest))

    (shown,) = json.loads(done(run("create", "--file", str(tmp_path / "cache.yaml"), "--json")))

    assert (shown["name"], shown["phase"]) == ("from-file", "Ready")
    # stdin can be read but once.
    (again,) = json.loads(done(run("create", "--file=-", "--json", input=json.dumps(manifest))))
    assert again["id"] == shown["id"]


@pytest.mark.usefixtures("made")
def test_nobody_waits_for_ever_for_a_controller_that_is_not_there(plane, run, monkeypatch) -> None:
    monkeypatch.setattr(cluster_changes, "_LEADER_POLL", 0.1)
    monkeypatch.setattr(cluster_changes, "_LEADERLESS_SECONDS", 0.5)

    made = run("create", "tools", "--image", "registry.example.com/tools:1")
    gone = run("delete", "tools")

    assert (made.exit_code, "no controller leads" in made.output) == (1, True)
    # Nobody has put a finalizer on it.
    assert gone.exit_code == 0


@pytest.mark.usefixtures("made")
def test_ucloud_users_find_their_commands_and_their_json(plane, run) -> None:
    plane.api.create(
        CONFIG_MAPS,
        {
            "metadata": {"name": "uimgacc-ucloud"},
            "data": {"enabled": "true", "nfsAddr": "10.0.0.1"},
        },
        namespace=plane.api.namespace,
    )
    original = f"{plane.server.address}/lab/gzip:1"
    http = ("--plain-http", plane.server.address)
    # Without a controller nothing is begun that nobody would go on with.
    shown = json.loads(done(run("get", "--json")))
    assert (shown["AgentReady"], shown["Status"]) == (False, "Unknown")
    assert "no controller leads" in run("create", original, f"{original}-acc", *http).output
    name = accelerated_images.name_of(images.parse_reference(original))
    assert name not in [
        each["metadata"]["name"] for each in plane.api.list(rest_client.IMAGE_CACHES)
    ]
    plane.controller()
    apis.wait_until(lambda: json.loads(run("get", "--json").stdout)["AgentReady"], seconds=60)

    # The lab's registry takes no pushes: that is told, with the registry's answer.
    result = run("create", original, f"{original}-acc", *http)
    assert result.exit_code == 1
    assert "405" in result.output
    shown = json.loads(done(run("get", "--json")))
    assert (shown["Action"], shown["RetCode"]) == ("GetUK8SImageAccelerateResponse", 0)
    assert (shown["Enable"], shown["AgentReady"], shown["NfsAddr"]) == (True, True, "10.0.0.1")
    assert (shown["Status"], shown["Images"]) == ("CreateError", [])
    assert [cache["name"] for cache in shown["Caches"]] == [name]

    run("delete", original)
    apis.wait_until(lambda: json.loads(run("get", "--json").stdout)["Status"] == "Ready")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["get", "--kubeconfig", "/does/not/exist"], "/does/not/exist: no such file"),
        (["create", "a", "b", "--store", "/tmp/x"], "a TARGET is pushed by a cluster"),
        (["create", "a", "--image", "b", "--platform", "linux/arm64"], "for builds into a --store"),
        (["create", "r.io/a:1", "r.io/a:1"], "TargetImage"),
        (["create"], "give a name and at least one --image"),
        (["enable", "--nfs", "nonsense"], "--nfs is SERVER:/PATH"),
        (["enable"], "either --nfs or --component claim"),
        (["enable", "--nfs", "h:/p", "--component", "claim"], "either --nfs or --component claim"),
        (["enable", "--nfs", "h:/p", "--overlay", "other"], "--overlay is one of"),
        (["enable", "--nfs", "h:/p", "--component", "../x"], "--component is one of"),
        (["enable", "--nfs", "h:/p", "--username", "u"], "go together"),
    ],
)
def test_wrong_use_is_a_sentence(run, arguments, told) -> None:
    result = run(*arguments)

    assert result.exit_code in (1, 2)
    assert told in " ".join(result.output.split())
    assert isinstance(result.exception, SystemExit)


COMMANDS = [
    ("get",),
    ("get", "tools", "--json"),
    ("create", "tools", "--image", "nginx:1"),
    ("create", "r.io/app:1", "r.io/app:1-acc"),
    ("delete", "tools"),
    ("disable",),
    ("enable", "--nfs", "h:/p"),
]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (0, r": cannot connect to 127\.0\.0\.1:\d+: \[Errno 111\]"),
        (403, "403 Forbidden"),
        (503, "503"),
        (404, "enable|404"),
    ],
)
def test_a_cluster_that_does_not_do_it_is_a_sentence(
    api, proxy, run, monkeypatch, status: int, told: str
) -> None:
    """It is not there, gives us no right, has no answer, or has nothing of ours."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(server=proxy.url)))
    if status:
        proxy.fail(status, reason={403: "Forbidden", 404: "NotFound"}.get(status, ""))
    else:
        proxy.stop()

    for arguments in COMMANDS:
        result = run(*arguments)
        assert isinstance(result.exception, SystemExit), arguments
        assert result.exit_code in (1, 3), arguments
        last = result.output.splitlines()[-1]
        assert last.startswith("uimgacc: "), result.output
        assert re.search(told, last), result.output


def test_without_kubectl_it_says_what_to_do(run, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/does/not/exist")

    result = run("enable", "--nfs", "h:/p", "--dry-run")

    assert result.exit_code == 1
    assert "there is no kubectl" in result.output


def test_a_store_that_is_no_export_is_installed_with_a_claim(run) -> None:
    objects = rendering.parsed(done(run("enable", "--component", "claim", "--dry-run")))

    (config,) = [each for each in objects if "UIMGACC_NFS" in each.get("data", {})]
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    (store,) = [
        volume
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "store"
    ]
    assert config["data"]["UIMGACC_NFS"] == ""
    assert store["persistentVolumeClaim"] == {"claimName": "uimgacc-store"}


@pytest.mark.parametrize(
    ("nfs", "server", "path"),
    [
        ("nfs.example.com:/uimgacc", "nfs.example.com", "/uimgacc"),
        ("10.0.0.5:/a:b", "10.0.0.5", "/a:b"),
        # The kubelet puts the brackets back.
        ("[fd00::5]:/uimgacc", "fd00::5", "/uimgacc"),
    ],
)
def test_the_store_s_address_reaches_nodes_and_controller(run, nfs, server, path) -> None:
    objects = rendering.parsed(done(run("enable", "--nfs", nfs, "--dry-run")))

    deployment = rendering.only(objects, "Deployment", "uimgacc-controller")
    (store,) = [
        volume
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "store"
    ]
    assert store["nfs"] == {"server": server, "path": path}
    node = rendering.only(objects, "DaemonSet", "uimgacc-node")["spec"]["template"]["spec"]
    for container in rendering.containers(node):
        assert rendering.settings(objects, container)["UIMGACC_NFS"] == nfs


class Nodes:
    """Plays the nodes: agents and uninstallers run at once, and label as they are told."""

    def __init__(self, api: apis.Api) -> None:
        self.api = api
        self.name = api.node()
        self.seen: list[str] = []
        self._label: str | None = ""
        """The last one that the agents gave the node, None: none."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Nodes":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join(60)

    def write(self) -> None:
        """What an agent leaves on its node when it drains, beside what others wrote."""
        labels = {
            keys.HANDLER_LABEL: "true",
            f"{keys.TWIN_LABEL}uimgacc-nvidia": "true",
            "other": "1",
        }
        notes = {keys.GENERATION: "3", keys.HELD: "[]", "other/note": "1"}
        self.api.patch(
            rest_client.NODES, self.name, {"metadata": {"labels": labels, "annotations": notes}}
        )
        conditions = [{"type": name, "status": "True"} for name in (keys.NODE_CONDITION, "Other")]
        self.api.patch(
            rest_client.NODES,
            self.name,
            {"status": {"conditions": conditions}},
            subresource="status",
        )

    def read(self) -> tuple[dict[str, str], dict[str, str], list[str]]:
        """Labels, annotations and conditions of the node."""
        found = self.api.get(rest_client.NODES, self.name)
        meta = found["metadata"]
        conditions = [each["type"] for each in found["status"]["conditions"]]
        return meta.get("labels", {}), meta.get("annotations", {}), conditions

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            for namespace, name in (
                (SYSTEM, "uimgacc-node"),
                ("uimgacc-uninstall", "uimgacc-uninstall"),
            ):
                # It is not there yet, or goes at this moment.
                with contextlib.suppress(apis.RefusedError):
                    found = self.api.get(rest_client.DAEMON_SETS, name, namespace=namespace)
                    self._play(found, name, namespace)
                with contextlib.suppress(apis.RefusedError):
                    self._end(self.api.get(rest_client.NAMESPACES, namespace))

    def _end(self, namespace: apis.Object) -> None:
        """What the namespace controller does of one that is being deleted, a moment later."""
        since = times.parse(namespace["metadata"].get("deletionTimestamp"))
        if since is not None and times.now() - since > datetime.timedelta(seconds=1):
            namespace["spec"]["finalizers"] = []
            self.api.finalize(namespace)

    def _play(self, found: apis.Object, name: str, namespace: str) -> None:
        if name not in self.seen:
            self.seen.append(name)
        status = {
            "desiredNumberScheduled": 1,
            "numberReady": 1,
            "currentNumberScheduled": 1,
            # The DaemonSet controller has replaced the pod: it need not have become ready.
            "updatedNumberScheduled": 1,
            "numberAvailable": 0 if "broken" in json.dumps(found["spec"]) else 1,
            "observedGeneration": found["metadata"]["generation"],
            "numberMisscheduled": 0,
        }
        if found.get("status") != status:
            self.api.patch(
                rest_client.DAEMON_SETS,
                name,
                {"status": status},
                namespace=namespace,
                subresource="status",
            )
        label = None if "UIMGACC_DRAIN" in json.dumps(found["spec"]) else "true"
        if name == "uimgacc-node" and label != self._label:
            self.api.patch(
                rest_client.NODES, self.name, {"metadata": {"labels": {"uimgacc": label}}}
            )
            self._label = label


def objects(api: apis.Api, text: str) -> list[str]:
    """Which of the objects of a rendered installation are there."""
    there = []
    for body in rendering.parsed(text):
        meta = body["metadata"]
        try:
            api.get(
                installation.resource_of(body), meta["name"], namespace=meta.get("namespace", "")
            )
        except apis.RefusedError:
            continue
        there.append(f"{body['kind']} {meta['name']}")
    return there


def broken_off(proxy: faults.Proxy) -> Callable[[faults.Seen], bool]:
    """What an uninstallation asks when it has told the nodes and waits for them."""

    def waits(seen: faults.Seen) -> bool:
        told = any(each.method == "PATCH" and each.path == seen.path for each in proxy.seen)
        return seen.method == "GET" and seen.path.endswith("/uimgacc-uninstall") and told

    return waits


class Abandoned:
    """ImageCaches of a controller that is gone: one that others hold as well, one being deleted."""

    def __init__(self, api: apis.Api) -> None:
        self.api = api
        self.names = [f"abandoned-{number}-{uuid.uuid4().hex[:8]}" for number in range(2)]
        for name, more in zip(self.names, (["example.com/others"], []), strict=True):
            meta = {"name": name, "finalizers": [keys.FINALIZER, *more]}
            body = {"apiVersion": "uimgacc.io/v1", "kind": "ImageCache", "metadata": meta}
            api.create(rest_client.IMAGE_CACHES, {**body, "spec": {"images": ["nginx:1"]}})
        api.delete(rest_client.IMAGE_CACHES, self.names[1])

    def finalizers(self) -> list[str]:
        found = {each["metadata"]["name"]: each for each in self.api.list(rest_client.IMAGE_CACHES)}
        there = [found[name]["metadata"] for name in self.names if name in found]
        return [one for meta in there for one in meta.get("finalizers", ())]

    def close(self) -> None:
        for name in self.names:
            with contextlib.suppress(apis.RefusedError):
                self.api.patch(rest_client.IMAGE_CACHES, name, {"metadata": {"finalizers": None}})
            self.api.delete(rest_client.IMAGE_CACHES, name)


def test_nodes_that_stand_on_us_are_not_left_without_us(api, run, monkeypatch) -> None:
    """Where everything goes through the snapshotter, no pod could start that replaces its own."""
    monkeypatch.setenv("UIMGACC_NAMESPACE", SYSTEM)
    documents = rendering.render(rendering.MANIFESTS / "overlays" / "default-snapshotter")
    namespace = rendering.only(documents, "Namespace", SYSTEM)
    setup = rendering.only(documents, "DaemonSet", "uimgacc-setup")
    with contextlib.suppress(apis.RefusedError):
        api.create(rest_client.Resource(plural="namespaces"), namespace)
    api.create(rest_client.DAEMON_SETS, setup, namespace=SYSTEM)
    there = [each["metadata"]["name"] for each in api.list(rest_client.DAEMON_SETS)]
    try:
        for command in (["enable", "--nfs", "10.0.0.5:/uimgacc"], ["disable", "--uninstall"]):
            result = run(*command)
            assert result.exit_code == 1
            assert "go back from it first" in " ".join(result.output.split())
        assert [each["metadata"]["name"] for each in api.list(rest_client.DAEMON_SETS)] == there
    finally:
        api.delete(rest_client.DAEMON_SETS, "uimgacc-setup", namespace=SYSTEM)


INSTALL = ("enable", "--nfs", "10.0.0.5:/uimgacc", "--image", "r.io/uimgacc:7")


@pytest.fixture
def release() -> str:
    """Of the server of `fresh`."""
    return "36"


@pytest.fixture
def fresh(
    release: str,
    api_loop: threads.Loop,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[apis.Api]:
    """A server of this test's own, which is always the emulated one.

    An uninstallation deletes its namespace, which never ends without a cluster's controllers.
    """
    with servers.emulated(api_loop, release=("1", release)) as access:
        made = apis.Api(access, tmp_path)
        monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig()))
        monkeypatch.setenv("UIMGACC_NAMESPACE", SYSTEM)
        monkeypatch.setenv("PATH", str(rendering.KUBECTL.parent), prepend=":")
        yield made
        made.close()


def run_fresh(*arguments: str) -> str:
    return done(RUNNER.invoke(commands.app, list(arguments)))


@pytest.mark.parametrize("release", ["30", "33"])
def test_on_an_older_server_the_webhook_moves_pods(fresh: apis.Api) -> None:
    hooks, name = rest_client.WEBHOOK_CONFIGURATIONS, keys.WEBHOOK_CONFIGURATION
    run_fresh(*INSTALL, "--no-wait")
    # The controller's, which an update leaves as it is.
    bundle = {"clientConfig": {"caBundle": "YQ=="}}
    named = [{**bundle, "name": each["name"]} for each in fresh.get(hooks, name)["webhooks"]]
    fresh.patch(hooks, name, {"webhooks": named}, how=rest_client.Patch.STRATEGIC)
    deployment = fresh.get(DEPLOYMENTS, "uimgacc-controller", namespace=SYSTEM)
    assert "UIMGACC_WEBHOOK_LISTEN" in json.dumps(deployment)

    run_fresh("disable", "--no-wait")
    off = fresh.get(hooks, name)["webhooks"]
    run_fresh(*INSTALL, "--no-wait")
    on = fresh.get(hooks, name)["webhooks"]

    assert all(
        each["objectSelector"] == {"matchLabels": {keys.NO_POD: "no-pod-has-this"}} for each in off
    )
    assert not any("objectSelector" in each for each in on)
    assert all(each["clientConfig"]["caBundle"] == "YQ==" for each in on)
    assert all(each["clientConfig"]["service"]["name"] == keys.WEBHOOK for each in on)
    with Nodes(fresh):
        run_fresh("disable", "--uninstall")
    assert fresh.list(hooks) == []


def test_policy_and_webhook_take_turns_as_the_user_wants(fresh: apis.Api) -> None:
    def moved_by() -> set[str]:
        hooks = fresh.list(rest_client.WEBHOOK_CONFIGURATIONS)
        bindings = fresh.list(BINDINGS)
        kinds = {"webhook": hooks, "policy": bindings}
        return {kind for kind, found in kinds.items() if keys.WEBHOOK_CONFIGURATION in str(found)}

    run_fresh(*INSTALL, "--no-wait")
    assert moved_by() == {"policy"}
    run_fresh(*INSTALL, "--no-wait", "--component", "webhook")
    assert moved_by() == {"webhook"}
    run_fresh(*INSTALL, "--no-wait")
    assert moved_by() == {"policy"}
    with Nodes(fresh):
        run_fresh("disable", "--uninstall")
    assert moved_by() == set()


def test_a_cluster_is_enabled_disabled_and_left_as_it_was(api, proxy, run, monkeypatch) -> None:
    monkeypatch.setenv("UIMGACC_NAMESPACE", SYSTEM)
    install = ("--nfs", "10.0.0.5:/uimgacc", "--image", "r.io/uimgacc:7", "--component", "nvidia")
    text = done(run("enable", *install, "--dry-run"))
    assert "10.0.0.5" in text
    assert "image: r.io/uimgacc:7" in text
    assert "image: uimgacc" not in text
    # A namespace cannot be made again while it goes: that of other tests stays.
    others = ("CustomResourceDefinition", "Namespace")
    assert [each for each in objects(api, text) if not each.startswith(others)] == []

    with Nodes(api) as nodes:
        assert done(run("enable", *install)) == "image acceleration is enabled\n"
        assert len(objects(api, text)) == len(list(text.split("\n---\n")))
        assert json.loads(done(run("get", "--json")))["Enable"] is True
        assert "matchResources" not in api.get(BINDINGS, "uimgacc-pods")["spec"]

        # As an update: the login for UHub stays, and a version that does not come up is told.
        login = ("--username", "alice", "--password-stdin")
        done(run("enable", *install, *login, input="secret\n"))
        made = api.get(rest_client.SECRETS, "uimgacc-uhub", namespace=SYSTEM)["data"]
        newer = [each.replace("uimgacc:7", "broken:8") for each in install]
        failed = run("enable", *newer, "--timeout", "2")
        assert (failed.exit_code, "not every node" in failed.output) == (1, True)
        done(run("enable", *install))
        assert api.get(rest_client.SECRETS, "uimgacc-uhub", namespace=SYSTEM)["data"] == made
        switch = api.get(
            rest_client.Resource(plural="configmaps"), "uimgacc-ucloud", namespace=SYSTEM
        )
        assert switch["data"]["hasLogin"] == "true"

        assert done(run("disable")) == "image acceleration is disabled\n"
        shown = json.loads(done(run("get", "--json")))
        assert (shown["Enable"], shown["NfsReady"]) == (False, False)
        assert api.get(BINDINGS, "uimgacc-pods")["spec"]["matchResources"]

        # Enabled again it is as it was: nothing of the switch stays.
        assert done(run("enable", *install)) == "image acceleration is enabled\n"
        assert not api.get(BINDINGS, "uimgacc-pods")["spec"].get("matchResources")
        agents = api.get(rest_client.DAEMON_SETS, "uimgacc-node", namespace=SYSTEM)
        assert "UIMGACC_DRAIN" not in json.dumps(agents["spec"])

        nodes.write()
        with contextlib.closing(Abandoned(api)) as abandoned:
            held = [keys.FINALIZER, "example.com/others", keys.FINALIZER]
            assert abandoned.finalizers() == held
            uninstall = ("disable", "--uninstall", "--component", "nvidia")
            # It breaks off while it waits for the nodes, twice; the agents are gone by then.
            broken = {"KUBECONFIG": str(api.kubeconfig(server=proxy.url))}
            proxy.fail(403, reason="Forbidden", which=broken_off(proxy))
            for _ in range(2):
                proxy.seen.clear()
                assert run(*uninstall, env=broken).exit_code == 1
                undoing = api.get(
                    rest_client.DAEMON_SETS, "uimgacc-uninstall", namespace="uimgacc-uninstall"
                )
                (container,) = undoing["spec"]["template"]["spec"]["containers"]
                assert container["image"] == "r.io/uimgacc:7"
            gone = done(run(*uninstall))
            assert abandoned.finalizers() == ["example.com/others"]

    assert gone == "image acceleration is uninstalled\n"
    assert nodes.seen == ["uimgacc-node", "uimgacc-uninstall"]
    assert nodes.read() == ({"other": "1"}, {"other/note": "1"}, ["Other"])
    again = run(*uninstall)
    assert (again.exit_code, "there is no DaemonSet" in again.output) == (1, True)
    # Where one broke off before any node was told: the image is nowhere but with the user.
    with Nodes(api) as nodes:
        done(run(*uninstall, "--image", "r.io/uimgacc:7"))
    assert nodes.seen == ["uimgacc-uninstall"]
    kept = {each.split()[0] for each in objects(api, text)}
    assert kept <= {"CustomResourceDefinition", "ConfigMap", "ServiceAccount", "Namespace"}
