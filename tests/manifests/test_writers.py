"""The component `writers`: few nodes write to the store, and no volume of a tenant leads there."""

import json
import pathlib
from typing import Any

import pytest

from agent.model import keys
from tests.manifests import admission, jobs, rendering, schemas

STORE = {"server": "nfs.example.internal", "path": "/uimgacc"}


def documents() -> list[rendering.Document]:
    return list(rendering.together("runtimeclass", "controller", "writers"))


def job(patch: dict[str, Any]) -> dict[str, Any]:
    """The Job of a build by the controller of these manifests."""
    deployment = rendering.only(documents(), "Deployment", "uimgacc-controller")
    return dict(json.loads(json.dumps(jobs.made(deployment, patch=patch))))


OTHER = {"key": "dedicated", "operator": "Exists"}


@pytest.mark.parametrize("patch", [{}, {"spec": {"template": {"spec": {"tolerations": [OTHER]}}}}])
def test_controller_and_builders_run_on_the_writers(patch: dict[str, Any]) -> None:
    deployment = rendering.only(documents(), "Deployment", "uimgacc-controller")
    made = job(patch)

    schemas.validate(made, "1.37")
    for pod in (deployment["spec"]["template"]["spec"], made["spec"]["template"]["spec"]):
        assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", keys.WRITER: "true"}
        assert {"key": keys.WRITER, "operator": "Exists"} in pod["tolerations"]
    assert (OTHER in made["spec"]["template"]["spec"]["tolerations"]) is bool(patch)


def test_without_the_component_they_run_anywhere() -> None:
    (plain,) = [
        each["spec"]["template"]["spec"]
        for each in rendering.together("runtimeclass", "controller")
        if each["kind"] == "Deployment"
    ]

    assert keys.WRITER not in plain["nodeSelector"]
    assert "tolerations" not in plain


def test_the_kubelet_may_not_label_its_node_so() -> None:
    """By the admission plug-in NodeRestriction."""
    assert keys.WRITER.partition("/")[0].endswith(".node-restriction.kubernetes.io")


def refusals(body: dict[str, Any], *, namespace: str = "team") -> list[str]:
    policy = admission.Validator(documents(), "uimgacc-store-volumes")
    asked = {"operation": "CREATE", "namespace": namespace}
    return policy.refusals(asked, old=None, new=body)


def pod(*volumes: dict[str, Any]) -> dict[str, Any]:
    named = [{"name": str(at), **each} for at, each in enumerate(volumes)]
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [], "volumes": named}}


def volume(spec: dict[str, Any], claim: str = "") -> dict[str, Any]:
    """A PersistentVolume, for a claim in a namespace."""
    bound = {"claimRef": {"namespace": claim, "name": "c"}} if claim else {}
    return {"kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {**spec, **bound}}


LEADING_THERE: dict[str, dict[str, str]] = {
    "the export": STORE,
    "a folder of it": {**STORE, "path": "/uimgacc/sha256"},
    "what it is in": {**STORE, "path": "/"},
    "with a slash": {**STORE, "path": "/uimgacc/"},
    "with two": {**STORE, "path": "//uimgacc"},
    "with a dot": {**STORE, "path": "/./uimgacc/."},
    "by two dots": {**STORE, "path": "/other/../uimgacc"},
    "by dots at the end": {**STORE, "path": "/other/.."},
    "in capitals": {**STORE, "server": "NFS.Example.Internal"},
    "fully qualified": {**STORE, "server": "nfs.example.internal."},
    "by an address": {**STORE, "server": "10.0.0.5"},
    "a folder by an address": {"server": "10.0.0.5", "path": "/uimgacc/tmp"},
}
ELSEWHERE: dict[str, dict[str, str]] = {
    "another export": {**STORE, "path": "/homes"},
    "a name that begins alike": {**STORE, "path": "/uimgacc-homes"},
    "another server": {"server": "other.example.internal", "path": "/homes"},
    "all of another server": {"server": "other.example.internal", "path": "/"},
}


def kinds(target: dict[str, str]) -> list[dict[str, Any]]:
    """Volumes of an export, in all the ways that name it."""
    server, path = target["server"], target["path"]
    attributes = {"server": server, "share": path}
    csi = {"driver": "nfs.csi.k8s.io", "volumeAttributes": attributes}
    return [
        pod({"emptyDir": {}}, {"nfs": target}),
        pod({"csi": csi}),
        volume({"nfs": target}),
        volume({"nfs": target}, claim="team"),
        volume({"csi": {**csi, "volumeHandle": "x"}}),
    ]


@pytest.mark.parametrize("target", LEADING_THERE.values(), ids=LEADING_THERE)
def test_no_volume_leads_to_the_store(target: dict[str, str]) -> None:
    for body in kinds(target):
        assert refusals(body), body


@pytest.mark.parametrize("target", ELSEWHERE.values(), ids=ELSEWHERE)
def test_volumes_of_other_exports_are_nobody_s_concern(target: dict[str, str]) -> None:
    for body in kinds(target):
        assert refusals(body) == [], body


def test_a_folder_of_a_share_is_looked_at_together_with_it() -> None:
    attributes = {"server": "10.0.0.5", "share": "/", "subDir": "uimgacc"}

    assert refusals(volume({"csi": {"driver": "nfs.csi.k8s.io", "volumeAttributes": attributes}}))


@pytest.mark.parametrize(
    "attributes",
    [
        {"Server": STORE["server"], "SHARE": STORE["path"]},
        {"server": "other", "share": "/", "SERVER": STORE["server"], "Share": STORE["path"]},
        {
            "server": STORE["server"],
            "share": "/",
            "subDir": "${pvc.metadata.name}",
            "csi.storage.k8s.io/pvc/name": STORE["path"].strip("/"),
        },
        {"server": STORE["server"], "share": "/", "subDir": "other", "SubDir": STORE["path"]},
        {"server": STORE["server"], "share": "/other", "path": STORE["path"]},
    ],
)
def test_a_csi_volume_says_where_it_leads_in_one_way(attributes: dict[str, str]) -> None:
    """csi-driver-nfs reads names of attributes in any case, the last one counts."""
    csi = {"driver": "nfs.csi.k8s.io", "volumeAttributes": attributes}
    for body in (pod({"csi": csi}), volume({"csi": {**csi, "volumeHandle": "x"}})):
        assert refusals(body)


@pytest.mark.parametrize(
    "body",
    [
        pod(),
        {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}},
        pod({"csi": {"driver": "secrets-store.csi.k8s.io"}}),
        pod({"persistentVolumeClaim": {"claimName": "c"}}, {"configMap": {"name": "c"}}),
        volume({"hostPath": {"path": "/uimgacc"}}),
        volume({"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "vol-1"}}),
    ],
)
def test_other_volumes_are_not_looked_at(body: dict[str, Any]) -> None:
    assert refusals(body) == []


def test_the_namespace_of_uimgacc_has_its_store() -> None:
    assert refusals(pod({"nfs": STORE}), namespace="uimgacc-system") == []
    assert refusals(volume({"nfs": STORE}, claim="uimgacc-system"), namespace="") == []


def test_the_export_is_that_of_the_settings(tmp_path: pathlib.Path) -> None:
    path = rendering.write(tmp_path, "runtimeclass", "controller", "writers")
    path.write_text(
        path.read_text()
        + "configMapGenerator:\n- name: uimgacc\n  namespace: uimgacc-system\n  behavior: merge\n"
        "  literals: ['UIMGACC_NFS=10.0.0.9:/images']\n"
    )

    policy = admission.Validator(rendering.render(tmp_path), "uimgacc-store-volumes")

    def refused(target: dict[str, str]) -> list[str]:
        asked = {"operation": "CREATE", "namespace": "team"}
        return policy.refusals(asked, old=None, new=pod({"nfs": target}))

    assert refused({"server": "10.0.0.9", "path": "/images"})
    assert refused(STORE) == []


@pytest.mark.parametrize("component", [(), ("claim",)])
def test_without_an_export_no_pod_is_refused(tmp_path: pathlib.Path, component) -> None:
    path = rendering.write(tmp_path, "runtimeclass", "controller", *component, "writers")
    if not component:
        path.write_text(
            path.read_text() + "configMapGenerator:\n- name: uimgacc\n  namespace: uimgacc-system\n"
            "  behavior: merge\n  literals: ['UIMGACC_NFS=']\n"
        )
    policy = admission.Validator(rendering.render(tmp_path), "uimgacc-store-volumes")
    asked = {"operation": "CREATE", "namespace": "team"}

    for body in (pod(), pod({"nfs": STORE}), volume({"nfs": STORE})):
        assert policy.refusals(asked, old=None, new=body) == []


def test_other_names_of_the_server_can_be_listed(tmp_path: pathlib.Path) -> None:
    path = rendering.write(tmp_path, "runtimeclass", "controller", "writers")
    path.write_text(
        path.read_text()
        + """
patches:
  - target: {kind: ValidatingAdmissionPolicy, name: uimgacc-store-volumes}
    patch: |-
      - op: replace
        path: /spec/variables/1/expression
        value: "['10.0.0.5:/uimgacc', '[FD00::5]:/srv/uimgacc']"
"""
    )
    policy = admission.Validator(rendering.render(tmp_path), "uimgacc-store-volumes")

    for target in ({"server": "10.0.0.5", "path": "/"}, {"server": "fd00::5", "path": "/srv"}):
        asked = {"operation": "CREATE", "namespace": "team"}
        assert policy.refusals(asked, old=None, new=pod({"nfs": target}))
