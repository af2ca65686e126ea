"""The Helm chart: made from the manifests, and the same as they are."""

import pathlib
from typing import Any

import pytest
import yaml

from lab.chart import archive, chart_files, renderings, schema
from tests.manifests import charts, rendering, test_kustomize

MORE = [
    ("runtimeclass", ("controller", "monitoring", "mirrors", "claim", "api", "alibaba", "tencent")),
    ("runtimeclass", ("controller", "writers", "webhook", "rke2", "mirrors-node", "api")),
    ("runtimeclass", ("controller", "writers", "claim", "k3s", "nvidia", "monitoring")),
    ("default-snapshotter", ("controller", "writers", "monitoring", "k3s", "api")),
    ("default-snapshotter", ("rke2",)),
    ("runtimeclass", ("controller", "admission-v1beta1", "api")),
]
KNOWN = [*test_kustomize.CASES, *MORE]
# What is not listed here is compared, too.
NEW = {*renderings.components()} - {name for _, components in KNOWN for name in components}
CASES = [*KNOWN, *((renderings.OVERLAY, (renderings.CONTROLLER, name)) for name in sorted(NEW))]
ADMISSION = "admissionregistration.k8s.io"
WRITER = "uimgacc.io.node-restriction.kubernetes.io/writer"
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
STORE: dict[str, Any] = {"store": {"nfs": {"server": "10.0.0.5"}}}


def test_the_chart_is_what_the_manifests_make() -> None:
    texts = chart_files.texts()

    folder = chart_files.FOLDER
    there = {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}
    different = {
        name for name in texts if name in there and (folder / name).read_text() != texts[name]
    }
    assert (there ^ set(texts), different) == (set(), set()), "run `python -m lab.chart`"


@pytest.mark.parametrize(
    ("overlay", "components"), CASES, ids=["+".join((name, *more)) for name, more in CASES]
)
def test_helm_and_kustomize_make_the_same(overlay: str, components: tuple[str, ...]) -> None:
    # kustomize puts what a component adds in front of what the earlier ones have added, and what
    # changes the settings must be there before they are used.
    first = (renderings.CONTROLLER, "claim")
    rest = sorted((name for name in components if name not in first), reverse=True)
    order = [*(name for name in first if name in components), *rest]

    assert charts.comparable(charts.template(charts.values(overlay, components))) == (
        charts.comparable(rendering.together(overlay, *order))
    )


def test_the_other_components_are_what_moves_pods() -> None:
    others = {feature for feature in schema.POLICIES.values() if feature}

    assert {*schema.chosen(), *others} == {
        *renderings.components(),
        renderings.CONTROLLER,
        renderings.NO_POLICY,
    }


def test_the_default_is_what_enable_installs() -> None:
    made = charts.template({**STORE, "namespace": {"create": True}})

    kustomized = renderings.render(
        renderings.OVERLAY,
        schema.ON,
        export="10.0.0.5:/uimgacc",
        image=("uimgacc", chart_files.project_version()),
    )
    assert charts.comparable(made) == charts.comparable(kustomized)


def test_helm_finds_no_fault() -> None:
    output = charts.run("lint", "--strict", str(charts.CHART), "-n", charts.NAMESPACE)

    assert "0 chart(s) failed" in output


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "store.nfs.server is empty"),
        ({"store": {"nfs": {"server": "10.0.0.5:/x"}}}, "/store/nfs/server"),
        ({"store": {"nfs": {"server": "a", "path": "x"}}}, "/store/nfs/path"),
        ({**STORE, "image": {"digest": "latest"}}, "/image/digest"),
        ({**STORE, "parts": {}}, "parts"),
        ({**STORE, "components": {"gpu": True}}, "gpu"),
        ({**STORE, "components": {"api": "yes"}}, "/components/api"),
        ({**STORE, "settings": {"UIMGACC_STORE_SECOND": 2}}, "UIMGACC_STORE_SECOND"),
        ({**STORE, "settings": {"UIMGACC_NFS": "a:/b"}}, "UIMGACC_NFS"),
        ({**STORE, "node": {"resources": {"agent": {"memory": "1Gi"}}}}, "memory"),
        ({**STORE, "node": {"env": {"agents": {}}}}, "agents"),
        ({"components": {"controller": False}}, "components.api needs components.controller"),
        ({**STORE, "components": {"k3s": True, "rke2": True}}, "exclude each other"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any], words: str) -> None:
    assert words in charts.refusal(values)


def test_another_namespace_is_refused() -> None:
    assert "--namespace uimgacc-system" in charts.refusal(STORE, "-n", "default")


def test_values_of_the_user_s_are_where_they_belong() -> None:
    made = charts.template(
        {
            "store": {"nfs": {"server": "[fd00::5]", "path": "/export"}},
            "image": {"repository": "registry.example.com/uimgacc", "digest": DIGEST},
            "imagePullSecrets": [{"name": "pull"}],
            "settings": {"UIMGACC_STORE_SECONDS": 2.5, "UIMGACC_VERIFY": "always"},
            "controller": {
                "replicas": 1,
                "tolerations": [{"key": "infra", "operator": "Exists"}],
                "nodeSelector": {"infra": "true"},
                "env": {"controller": {"UIMGACC_GC_SECONDS": 1000000}},
                "resources": {"controller": {"limits": {"memory": "1Gi"}}},
            },
            "node": {"affinity": {"nodeAffinity": {}}, "env": {"snapshotter": {"A": "b"}}},
            "components": {"writers": True},
            "builder": {"job": {"spec": {"activeDeadlineSeconds": 60}}},
        }
    )

    data = rendering.only(made, "ConfigMap", "uimgacc")["data"]
    assert data["UIMGACC_NFS"] == "[fd00::5]:/export"
    assert (data["UIMGACC_STORE_SECONDS"], data["UIMGACC_VERIFY"]) == ("2.5", "always")
    job = rendering.only(made, "ConfigMap", "uimgacc-builder")["data"]["job.yaml"]
    assert yaml.safe_load(job) == {"spec": {"activeDeadlineSeconds": 60}}
    deployment = rendering.only(made, "Deployment", "uimgacc-controller")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["replicas"] == 1
    assert container["image"] == f"registry.example.com/uimgacc@{DIGEST}"
    assert container["env"][-1] == {"name": "UIMGACC_GC_SECONDS", "value": "1000000"}
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert [each["key"] for each in pod["tolerations"]] == ["infra", WRITER]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "infra": "true", WRITER: "true"}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert {"server": "fd00::5", "path": "/export"} in [each.get("nfs") for each in pod["volumes"]]
    node = rendering.only(made, "DaemonSet", "uimgacc-node")["spec"]["template"]["spec"]
    assert node["affinity"] == {"nodeAffinity": {}}
    assert node["containers"][0]["env"] == [{"name": "A", "value": "b"}]


def test_a_changed_setting_makes_the_pods_new() -> None:
    def sums(**settings: str) -> list[str]:
        made = charts.template({**STORE, "settings": settings})
        return [
            body["spec"]["template"]["metadata"]["annotations"]["checksum/uimgacc"]
            for body in rendering.of_kind(made, "DaemonSet", "Deployment")
        ]

    assert sums() == sums()
    assert not set(sums()) & set(sums(UIMGACC_WARM="nginx"))


@pytest.mark.parametrize(
    ("release", "versions", "expected"),
    [
        ("1.36", [], {"v1"}),
        ("1.35", ["v1", "v1beta1"], {"v1"}),
        ("1.35", ["v1beta1"], {"v1beta1"}),
        ("1.35", [], set()),
        ("1.30", [], set()),
    ],
)
def test_what_moves_pods_follows_from_the_server(
    release: str, versions: list[str], expected: set[str]
) -> None:
    served = [f"--api-versions={ADMISSION}/{each}/MutatingAdmissionPolicy" for each in versions]

    made = charts.template(STORE, f"--kube-version={release}.0", *served)

    policies = rendering.of_kind(made, *renderings.MOVERS)
    webhooks = rendering.of_kind(made, "MutatingWebhookConfiguration")
    assert {body["apiVersion"] for body in policies} == {f"{ADMISSION}/{v}" for v in expected}
    assert len(webhooks) == (not expected)


def test_helm_keeps_the_definitions() -> None:
    made = charts.template(STORE)

    definitions = rendering.of_kind(made, "CustomResourceDefinition")
    assert definitions
    assert {each["metadata"]["annotations"][charts.KEEP] for each in definitions} == {"keep"}
    assert not rendering.of_kind(
        charts.template({**STORE, "crds": {"install": False}}), "CustomResourceDefinition"
    )


def test_an_archive_is_the_same_bytes_and_pins_the_image(tmp_path: pathlib.Path) -> None:
    image = chart_files.Image("registry.example.com/uimgacc", DIGEST)

    path = archive.write(tmp_path, image)

    assert path.read_bytes() == archive.contents(image)
    output = charts.run(
        "template", "u", str(path), "-n", charts.NAMESPACE, "--set=store.nfs.server=a"
    )
    assert f'image: "registry.example.com/uimgacc@{DIGEST}"' in output
    assert path.name == f"uimgacc-{chart_files.project_version()}.tgz"
