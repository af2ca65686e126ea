"""The kustomizations of docs/, put together as they stand there."""

import pathlib
import re
import textwrap

from agent.build.signatures import signature_policy
from agent.model import images
from tests.manifests import rendering

DOCS = rendering.MANIFESTS.parent / "docs"


def block(marker: str) -> str:
    """The one YAML block of the documentation that has the marker in it."""
    blocks = [
        textwrap.dedent(text)
        for page in sorted(DOCS.rglob("*.md"))
        for text in re.findall(
            r"^ *```yaml\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE
        )
        if marker in text
    ]
    assert len(blocks) == 1, f"{marker}: {len(blocks)} blocks"
    return blocks[0]


def rendered(folder: pathlib.Path, text: str) -> list[rendering.Document]:
    """What a kustomization makes, with our checkout in the place of the reader's."""
    folder.mkdir(exist_ok=True)
    way = pathlib.Path(*[".."] * (len(folder.resolve().parts) - 1), *rendering.MANIFESTS.parts[1:])
    for reader_s in ("- ../uimgacc/manifests/", "- uimgacc/manifests/"):
        text = text.replace(reader_s, f"- {way}/")
    (folder / "kustomization.yaml").write_text(text)
    return rendering.render(folder)


def with_patch(folder: pathlib.Path, marker: str, *components: str) -> list[rendering.Document]:
    """The default overlay with components and a patch of the documentation."""
    path = rendering.write(folder, "runtimeclass", *components)
    path.write_text(path.read_text() + block(marker))
    return rendering.render(folder)


def test_an_installation_has_the_reader_s_store_and_image(tmp_path: pathlib.Path) -> None:
    documents = rendered(tmp_path, block("overlays/runtimeclass\n"))

    for name, spec in rendering.pod_specs(documents):
        for container in rendering.containers(spec):
            assert container["image"] == "registry.example.com/uimgacc:0.1.0", name
    deployment = rendering.only(documents, "Deployment", "uimgacc-controller")
    (store, *_) = deployment["spec"]["template"]["spec"]["volumes"]
    assert store["nfs"] == {"server": "10.0.0.5", "path": "/uimgacc"}


def test_the_admission_policy_is_left_out(tmp_path: pathlib.Path) -> None:
    documents = with_patch(tmp_path, "MutatingAdmissionPolicy(Binding)?")

    kept = {found["kind"] for found in documents}
    assert {"DaemonSet", "RuntimeClass", "ValidatingAdmissionPolicy"} <= kept
    assert not [kind for kind in kept if kind.startswith("Mutating")]


def test_prometheus_of_a_helm_release_finds_what_is_for_it(tmp_path: pathlib.Path) -> None:
    documents = with_patch(tmp_path, "PodMonitor|PrometheusRule", "controller", "monitoring")

    labelled = {
        (found["kind"], found["metadata"]["name"])
        for found in documents
        if found["metadata"].get("labels", {}).get("release") == "kube-prometheus-stack"
    }
    assert labelled == {
        ("PodMonitor", "uimgacc-node"),
        ("PodMonitor", "uimgacc-controller"),
        ("PrometheusRule", "uimgacc"),
    }
    before = rendering.together("runtimeclass", "controller", "monitoring")
    for kind, name in labelled:
        old, new = (rendering.only(each, kind, name) for each in (before, documents))
        assert old["metadata"]["labels"].items() < new["metadata"]["labels"].items()
        assert old["spec"] == new["spec"]


def test_builders_get_the_folders_that_are_named(tmp_path: pathlib.Path) -> None:
    documents = with_patch(tmp_path, "uimgacc-controller-jobs", "controller")

    policy = rendering.only(documents, "ValidatingAdmissionPolicy", "uimgacc-controller-jobs")
    (named,) = [each for each in policy["spec"]["variables"] if each["name"] == "folders"]
    assert named["expression"] == "['/etc/kubernetes/credential-provider']"


def test_a_setting_of_the_controller_is_where_the_patch_puts_it(tmp_path: pathlib.Path) -> None:
    documents = with_patch(tmp_path, "UIMGACC_STORE_SECONDS, value", "controller")

    deployment = rendering.only(documents, "Deployment", "uimgacc-controller")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "UIMGACC_STORE_SECONDS", "value": "60"} in container["env"]


def test_the_server_s_other_names_are_where_the_patch_puts_them(tmp_path: pathlib.Path) -> None:
    documents = with_patch(tmp_path, "uimgacc-store-volumes", "controller", "writers")

    policy = rendering.only(documents, "ValidatingAdmissionPolicy", "uimgacc-store-volumes")
    (aliases,) = [each for each in policy["spec"]["variables"] if each["name"] == "aliases"]
    assert aliases["expression"] == "['10.0.0.5:/uimgacc', '10.0.0.5:/srv/uimgacc']"


def test_the_policy_of_signatures_is_what_the_controller_names(tmp_path: pathlib.Path) -> None:
    (tmp_path / "policy.yaml").write_text(block("# policy.yaml"))
    for name in ("release.pub", "old.pub"):
        (tmp_path / name).write_text("-----BEGIN PUBLIC KEY-----\n")
    documents = with_patch(tmp_path, "UIMGACC_SIGNATURES", "controller")

    deployment = rendering.only(documents, "Deployment", "uimgacc-controller")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    named = rendering.settings(documents, container)["UIMGACC_SIGNATURES"]
    made = rendering.only(documents, "ConfigMap", named)
    assert made["metadata"]["namespace"] == "uimgacc-system"
    for name, text in made["data"].items():
        (tmp_path / name).write_text(text)
    policy = signature_policy.read(tmp_path / "policy.yaml")
    assert policy.demand(images.parse_reference("nginx:1")).unsigned
    wanted = policy.demand(images.parse_reference("registry.example.com/prod/app:1"))
    assert len(wanted.signers) == 2
    assert not policy.demand(images.parse_reference("registry.example.com/dev/app:1")).pattern


def test_the_uninstaller_is_the_reader_s_image(tmp_path: pathlib.Path) -> None:
    documents = rendered(tmp_path / "uninstall", block("manifests/uninstall\n"))

    ((_, spec),) = rendering.pod_specs(documents)
    (container,) = rendering.containers(spec)
    assert container["image"] == "registry.example.com/uimgacc:0.1.0"
    found = rendering.settings(documents, container)
    assert found["UIMGACC_ROOT"] == "/data/containerd/io.containerd.snapshotter.v1.uimgacc"
    assert found["UIMGACC_STORE"] == "/var/lib/uimgacc/store"


def test_every_kind_of_image_cache_is_deleted_by_its_full_name() -> None:
    text = (DOCS / "install/uninstall.md").read_text()
    documents = rendering.together("runtimeclass", "alibaba", "tencent")

    for definition in rendering.of_kind(documents, "CustomResourceDefinition"):
        assert f"kubectl delete {definition['metadata']['name']} --all" in text
