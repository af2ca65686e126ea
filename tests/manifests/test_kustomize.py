"""Every overlay and component: rendered by a real kubectl, held against the API's own schemas."""

import functools
import itertools
import json
import pathlib
import socket
import subprocess
import sys

import pytest
import yaml

from agent.model import images
from agent.roles import agent_flags, snapshotter
from agent.setup.config import inputs
from lab.image import rootfs
from tests.manifests import rendering, schemas

OVERLAYS = ("runtimeclass", "default-snapshotter")
COMPONENTS = {
    "runtimeclass": ("nvidia", "admission-v1beta1", "k3s", "rke2", "monitoring", "controller"),
    "default-snapshotter": ("monitoring", "controller"),
}
CASES = [
    *((overlay, ()) for overlay in OVERLAYS),
    *((overlay, (name,)) for overlay in OVERLAYS for name in COMPONENTS[overlay]),
    ("runtimeclass", ("k3s", "nvidia", "monitoring", "admission-v1beta1")),
    ("runtimeclass", ("controller", "api")),
    ("runtimeclass", ("controller", "monitoring")),
    ("runtimeclass", ("controller", "api", "claim")),
    ("runtimeclass", ("controller", "writers")),
    ("runtimeclass", ("controller", "push")),
    ("runtimeclass", ("controller", "mirrors")),
    ("runtimeclass", ("controller", "mirrors-node")),
    ("runtimeclass", ("controller", "api", "webhook", "nvidia")),
]
# Of others' CRDs there is no schema here.
FOREIGN = {"monitoring.coreos.com/v1"}

every_case = pytest.mark.parametrize(
    ("overlay", "components"), CASES, ids=["+".join((name, *more)) for name, more in CASES]
)


@every_case
@pytest.mark.parametrize("release", ["1.30", "1.34", "1.35", "1.36", "1.37"])
def test_the_api_knows_every_field(overlay: str, components: tuple[str, ...], release: str) -> None:
    old = release in ("1.34", "1.35")
    none = release == "1.30"
    beta = "admission-v1beta1" in components
    checked = 0
    for document in rendering.together(overlay, *components):
        kind = document["kind"]
        if document["apiVersion"] in FOREIGN or kind == "CustomResourceDefinition":
            continue
        if kind.startswith("MutatingAdmissionPolicy") and (none or old != beta):
            # v1 came with 1.36; that is what the component is for. The oldest has none.
            continue
        validate(json.dumps(document), release)
        checked += 1

    assert checked > 10


@functools.cache
def validate(text: str, release: str) -> None:
    """Hold a document against the schema of a release; many are the same with all components."""
    schemas.validate(json.loads(text), release)


def test_what_the_schemas_do_not_know_is_refused() -> None:
    (document,) = rendering.of_kind(
        rendering.render(rendering.MANIFESTS / "overlays" / "runtimeclass"), "DaemonSet"
    )
    document["spec"]["template"]["spec"]["containers"][0]["privileged"] = True

    with pytest.raises(schemas.ValidationError, match="privileged"):
        schemas.validate(document, "1.36")


@every_case
def test_everything_that_is_referred_to_is_there(overlay: str, components: tuple[str, ...]) -> None:
    documents = rendering.together(overlay, *components)

    for name, spec in rendering.pod_specs(documents):
        account = spec.get("serviceAccountName")
        if account:
            rendering.only(documents, "ServiceAccount", account)
        if spec.get("runtimeClassName"):
            rendering.only(documents, "RuntimeClass", spec["runtimeClassName"])
        volumes = {volume["name"] for volume in spec["volumes"]}
        used = set()
        for container in rendering.containers(spec):
            rendering.settings(documents, container)
            used |= {mount["name"] for mount in container["volumeMounts"]}
            reference = images.parse_reference(container["image"])
            assert reference.tag, f"{name}: an image without a tag"
        assert used == volumes
    for binding in rendering.of_kind(documents, "ClusterRoleBinding", "RoleBinding"):
        role = binding["roleRef"]
        rendering.only(documents, role["kind"], role["name"])
        for subject in binding["subjects"]:
            rendering.only(documents, subject["kind"], subject["name"])
    for binding in rendering.of_kind(
        documents, "MutatingAdmissionPolicyBinding", "ValidatingAdmissionPolicyBinding"
    ):
        rendering.only(
            documents, binding["kind"].removesuffix("Binding"), binding["spec"]["policyName"]
        )


@every_case
def test_kustomize_has_changed_no_name_in_a_right(
    overlay: str, components: tuple[str, ...]
) -> None:
    """It gives ConfigMaps a hash, also where a rule names another object of the same name."""
    documents = rendering.together(overlay, *components)

    hashed = {body["metadata"]["name"] for body in rendering.of_kind(documents, "ConfigMap")}
    named = {
        name
        for role in rendering.of_kind(documents, "Role", "ClusterRole")
        for rule in role["rules"]
        for name in rule.get("resourceNames", ())
    }
    assert not named & hashed


@every_case
def test_every_container_s_settings_are_what_its_command_reads(
    overlay: str,
    components: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    documents = rendering.together(overlay, *components)
    spec = rendering.only(documents, "DaemonSet", "uimgacc-node")["spec"]["template"]["spec"]
    found = {container["name"]: container for container in spec["containers"]}
    assert list(found) == ["snapshotter", "agent"], "the snapshotter starts first"
    environment = {name: rendering.settings(documents, each) for name, each in found.items()}
    arguments = {
        name: [rendering.expanded(text, environment[name]) for text in each["args"]]
        for name, each in found.items()
    }
    for name, value in itertools.chain(*(each.items() for each in environment.values())):
        monkeypatch.setenv(name, value)

    served = snapshotter.parse(arguments["snapshotter"][1:])
    agent = agent_flags.parse(arguments["agent"][1:])

    # Both, and containerd, mean the same places, and see them at the same paths as the host.
    assert str(served.address) == environment["agent"]["UIMGACC_ADDRESS"] == inputs.ADDRESS
    assert agent.store == served.store
    assert agent.kubernetes == "<spec.nodeName>"
    assert agent.nfs == ("" if "claim" in components else "nfs.example.internal:/uimgacc")
    assert agent.default_snapshotter == (overlay == "default-snapshotter")
    snapshots = mount_at(found["snapshotter"], str(served.root))
    assert snapshots["mountPropagation"] == "Bidirectional"
    assert host_path(spec, snapshots) == str(served.root)
    for name, container in found.items():
        socket = mount_at(container, str(served.address.parent))
        assert host_path(spec, socket) == str(served.address.parent)
        store = mount_at(container, str(agent.store.parent))
        assert host_path(spec, store) == str(agent.store.parent)
        expected = "Bidirectional" if name == "agent" else "HostToContainer"
        assert store["mountPropagation"] == expected
    containerd = mount_at(found["agent"], str(pathlib.Path(agent.containerd).parent))
    rancher = bool({"k3s", "rke2"} & set(components))
    assert host_path(spec, containerd) == ("/run/k3s/containerd" if rancher else "/run/containerd")
    assert "mountPropagation" not in containerd, "what the agent detaches would go on the host, too"
    assert str(agent.copied_mounts) == containerd["mountPath"]
    port = int(agent.listen.rpartition(":")[2])
    assert [each["containerPort"] for each in found["agent"]["ports"]] == [port]


def mount_at(container: rendering.Document, path: str) -> rendering.Document:
    """The volume mount of a container at a path."""
    (found,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == path]
    return found


def host_path(spec: rendering.Document, mount: rendering.Document) -> str:
    """Where a mount comes from."""
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mount["name"]]
    return str(volume["hostPath"]["path"])


@every_case
def test_only_what_mounts_is_privileged(overlay: str, components: tuple[str, ...]) -> None:
    privileged = set()
    for name, spec in rendering.pod_specs(rendering.together(overlay, *components)):
        assert spec["automountServiceAccountToken"] is False
        for container in rendering.containers(spec):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]
            if context.get("privileged"):
                privileged.add((name, container["name"]))
            tokens = {"token"} & {mount["name"] for mount in container["volumeMounts"]}
            assert not tokens or container["name"] in ("agent", "controller", "node-setup")

    setup = "uimgacc-node" if overlay == "runtimeclass" else "uimgacc-setup"
    assert privileged == {
        ("uimgacc-node", "agent"),
        ("uimgacc-node", "snapshotter"),
        (setup, "node-setup"),
    }


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_socket_that_a_dead_snapshotter_has_left_is_not_ready(
    overlay: str, probe: str, tmp_path: pathlib.Path
) -> None:
    pod = rendering.only(rendering.together(overlay), "DaemonSet", "uimgacc-node")
    (snapshotter_, _) = pod["spec"]["template"]["spec"]["containers"]
    program, *arguments = snapshotter_[probe]["exec"]["command"]
    path = tmp_path / "s"
    arguments = [each.replace(inputs.ADDRESS, str(path)) for each in arguments]
    assert str(path) in arguments[-1]

    def is_ready() -> bool:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
        return done.returncode == 0

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        while_listening = is_ready()

    assert (while_listening, path.is_socket(), is_ready()) == (True, True, False)
    assert program == f"python{rootfs.PYTHON}", "what the image has"


def rendered_with_nfs(
    folder: pathlib.Path, value: str, *components: str
) -> list[rendering.Document]:
    """What a user's kustomization gives that sets UIMGACC_NFS itself."""
    path = rendering.write(folder, "runtimeclass", *components)
    own = yaml.safe_load(path.read_text())
    setting = {"name": "uimgacc", "namespace": "uimgacc-system", "behavior": "merge"}
    own["configMapGenerator"] = [{**setting, "literals": [f"UIMGACC_NFS={value}"]}]
    path.write_text(yaml.safe_dump(own))
    return rendering.render(folder)


def store_volume(documents: list[rendering.Document]) -> rendering.Document:
    """The controller's volume of the store."""
    controller = rendering.only(documents, "Deployment", "uimgacc-controller")
    volumes: list[rendering.Document] = controller["spec"]["template"]["spec"]["volumes"]
    (volume,) = [each for each in volumes if each["name"] == "store"]
    return volume


def test_the_store_s_address_is_set_in_one_place(tmp_path: pathlib.Path) -> None:
    documents = rendered_with_nfs(tmp_path, "10.0.0.9:/images", "controller")

    assert "nfs.example.internal" not in yaml.safe_dump_all(documents)
    assert store_volume(documents)["nfs"] == {"server": "10.0.0.9", "path": "/images"}
    spec = rendering.only(documents, "DaemonSet", "uimgacc-node")["spec"]["template"]["spec"]
    for container in rendering.containers(spec):
        assert rendering.settings(documents, container)["UIMGACC_NFS"] == "10.0.0.9:/images"


@pytest.mark.parametrize("value", ["", "10.0.0.9:/images", "10.0.0.9"])
def test_a_claim_is_the_store_whatever_else_is_set(value: str, tmp_path: pathlib.Path) -> None:
    documents = rendered_with_nfs(tmp_path, value, "controller", "claim")

    claim = {"claimName": "uimgacc-store"}
    assert store_volume(documents) == {"name": "store", "persistentVolumeClaim": claim}
    (container, *_) = rendering.containers(
        rendering.only(documents, "DaemonSet", "uimgacc-node")["spec"]["template"]["spec"]
    )
    assert rendering.settings(documents, container)["UIMGACC_NFS"] == ""


@pytest.mark.parametrize("value", ["", "10.0.0.9"])
def test_an_export_without_a_path_is_refused_with_what_to_do(
    value: str, tmp_path: pathlib.Path
) -> None:
    """By the API server, which takes no path that is not absolute and shows the one it got."""
    volume = store_volume(rendered_with_nfs(tmp_path, value, "controller"))["nfs"]

    assert volume["server"] == value
    assert not volume["path"].startswith("/")
    assert "UIMGACC_NFS" in volume["path"]
    assert "claim" in volume["path"]


def test_with_everything_through_us_our_own_pod_starts_without_us() -> None:
    documents = rendering.together("default-snapshotter")

    pod = rendering.only(documents, "DaemonSet", "uimgacc-node")["spec"]["template"]
    assert pod["spec"]["runtimeClassName"] == inputs.WITHOUT
    assert pod["metadata"]["annotations"]["io.containerd.cri.runtime-handler"] == inputs.WITHOUT
    assert rendering.only(documents, "RuntimeClass", inputs.WITHOUT)["handler"] == inputs.WITHOUT
    assert not rendering.of_kind(documents, "MutatingAdmissionPolicy")


@every_case
def test_prometheus_is_told_of_every_process_that_has_metrics(
    overlay: str, components: tuple[str, ...]
) -> None:
    documents = rendering.together(overlay, *components)
    if "monitoring" not in components:
        assert not rendering.of_kind(documents, "PodMonitor")
        return
    scraped = set()
    for monitor in rendering.of_kind(documents, "PodMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        for workload in rendering.of_kind(documents, "DaemonSet", "Deployment"):
            template = workload["spec"]["template"]
            if wanted.items() <= template["metadata"]["labels"].items():
                name = workload["metadata"]["name"]
                # The job is what alerts go by: NAMESPACE/NAME of the monitor.
                assert monitor["metadata"]["name"] == name
                scraped |= {(name, each["port"]) for each in monitor["spec"]["podMetricsEndpoints"]}

    assert scraped == {
        (workload["metadata"]["name"], port["name"])
        for workload in rendering.of_kind(documents, "DaemonSet", "Deployment")
        for container in rendering.containers(workload["spec"]["template"]["spec"])
        for port in container.get("ports", ())
        if port["name"].endswith("metrics")
    }


def test_the_uninstaller_knows_nothing_of_the_node_beforehand() -> None:
    """Which containerd it has, and where we were, is for node set-up to find."""
    documents = rendering.render(rendering.MANIFESTS / "uninstall")

    ((_, spec),) = rendering.pod_specs(documents)
    (container,) = rendering.containers(spec)
    assert [volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume] == [
        "/"
    ]
    assert spec["hostPID"] is True
    assert "containerd" not in "".join(container["args"])
    assert not {"UIMGACC_ROOT", "UIMGACC_CONTAINERD"} & set(
        rendering.settings(documents, container)
    )
