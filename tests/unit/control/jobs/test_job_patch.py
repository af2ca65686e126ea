"""The cluster's own part of a builder's Job: merged as Kubernetes does, refused where it harms."""

import copy
from typing import Any

import pytest

from agent.control.jobs import job_manifest, job_patch
from tests.unit.control import views

STORE = "/var/lib/uimgacc/store"
POD = {
    "containers": [
        {
            "name": "build",
            "image": "i",
            "args": ["build"],
            "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi"}},
            "volumeMounts": [{"name": "store", "mountPath": STORE}],
        }
    ],
    "volumes": [
        {"name": "store", "nfs": {"server": "s", "path": "/p"}},
        {"name": "scratch", "emptyDir": {"sizeLimit": "64Gi"}},
    ],
}


def job(pod: object) -> dict[str, Any]:
    return {"spec": {"template": {"spec": pod}}}


def build(**fields: object) -> dict[str, Any]:
    return job({"containers": [{"name": "build", **fields}]})


def template(patch: dict[str, Any]) -> job_manifest.Template:
    return job_manifest.Template(
        namespace="n", image="i", store=STORE, volume=POD["volumes"][0], patch=patch
    )


def merged(patch: dict[str, Any]) -> dict[str, Any]:
    """The pod that a patch makes; POD itself stays as it is."""
    before = job(copy.deepcopy(POD))
    after = job_patch.merged(before, template(patch).patch)
    assert before == job(POD)
    return dict(after["spec"]["template"]["spec"])


def test_a_container_keeps_what_a_patch_does_not_name() -> None:
    pod = merged(
        build(
            resources={"limits": {"memory": "4Gi"}},
            env=[{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            volumeMounts=[{"name": "ca", "mountPath": "/ca"}],
        )
    )

    (before,) = POD["containers"]
    assert pod["containers"] == [
        {
            **before,
            "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "4Gi"}},
            "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "volumeMounts": [*before["volumeMounts"], {"name": "ca", "mountPath": "/ca"}],
        }
    ]


@pytest.mark.parametrize(
    ("volume", "scratch"),
    [
        ({"name": "scratch", "emptyDir": {"medium": "Memory"}}, {"medium": "Memory"}),
        ({"name": "scratch", "ephemeral": {"a": 1}}, None),
        ({"name": "scratch", "emptyDir": None, "ephemeral": {"a": 1}}, None),
    ],
)
def test_a_volume_is_of_one_kind(volume: dict[str, Any], scratch: dict[str, Any] | None) -> None:
    store, found = merged(job({"volumes": [volume]}))["volumes"]

    assert store == POD["volumes"][0]
    if scratch is None:
        assert found == {"name": "scratch", "ephemeral": {"a": 1}}
    else:
        assert found == {"name": "scratch", "emptyDir": {"sizeLimit": "64Gi", **scratch}}


def test_items_are_added_and_deleted() -> None:
    pod = merged(
        job(
            {
                "initContainers": [{"name": "plug-ins", "image": "p"}],
                "imagePullSecrets": [{"name": "mirror"}],
                "volumes": [{"name": "scratch", "$patch": "delete"}, {"name": "ca", "secret": {}}],
            }
        )
    )

    assert pod["initContainers"] == [{"name": "plug-ins", "image": "p"}]
    assert pod["imagePullSecrets"] == [{"name": "mirror"}]
    assert [volume["name"] for volume in pod["volumes"]] == ["store", "ca"]


def test_other_lists_and_null_are_taken_as_they_are() -> None:
    tolerations = [{"operator": "Exists"}]
    pod = merged({"spec": {"template": {"spec": {"tolerations": tolerations}}}})
    assert pod["tolerations"] == tolerations
    assert merged(build(resources=None))["containers"][0].keys() == (
        POD["containers"][0].keys() - {"resources"}
    )
    labels = {"metadata": {"labels": {"env": "prod", "volumes": "x"}}}
    assert job_patch.merged({}, template(labels).patch) == labels


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        (build(args=["build", "--help"]), "spec.template.spec.containers[build].args"),
        (build(image="mine"), "spec.template.spec.containers[build].image"),
        (build(securityContext={}), "spec.template.spec.containers[build].securityContext"),
        (
            build(securityContext={"privileged": True}),
            "spec.template.spec.containers[build].securityContext.privileged",
        ),
        (
            build(volumeMounts=[{"mountPath": STORE, "name": "ca"}]),
            f"spec.template.spec.containers[build].volumeMounts[{STORE}].name",
        ),
        (
            job({"containers": [{"name": "build", "$patch": "delete"}]}),
            "spec.template.spec.containers[build]",
        ),
        (job({"containers": None}), "spec.template.spec.containers"),
        (job({"containers": [{"image": "x"}]}), "spec.template.spec.containers[0]"),
        (job({"containers": {"name": "build"}}), "spec.template.spec.containers"),
        (job({"volumes": [{"name": "store", "emptyDir": {}}]}), "volumes[store].emptyDir"),
        (job({"automountServiceAccountToken": True}), "automountServiceAccountToken"),
        (job({"serviceAccountName": "uimgacc-controller"}), "spec.serviceAccountName"),
        (job({"hostNetwork": True}), "spec.hostNetwork"),
        (job({"securityContext": {"runAsUser": 0}}), "spec.securityContext.runAsUser"),
        (job({"securityContext": None}), "spec.template.spec.securityContext"),
        (job({"$patch": "replace"}), "spec.template.spec.$patch"),
        (job(None), "spec.template.spec"),
        ({"spec": {"suspend": False}}, "spec.suspend"),
        ({"spec": []}, "spec"),
        ({"metadata": {"name": "x"}}, "metadata.name"),
        (
            {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}},
            "metadata.labels.app.kubernetes.io/name",
        ),
    ],
)
def test_what_makes_a_build_ours_cannot_be_patched(patch: dict[str, Any], field: str) -> None:
    with pytest.raises(job_patch.PatchRefused) as caught:
        template(patch)

    assert caught.value.field.endswith(field)
    assert str(caught.value).startswith(caught.value.field)


@pytest.mark.parametrize(
    ("scratch", "argument"),
    [
        (None, ["--scratch-bytes=68719476736"]),
        ({"emptyDir": {"sizeLimit": "200Gi"}}, ["--scratch-bytes=214748364800"]),
        ({"emptyDir": None, "persistentVolumeClaim": {"claimName": "c"}}, []),
        ({"emptyDir": {"sizeLimit": "plenty"}}, []),
    ],
)
def test_a_builder_knows_the_limit_of_its_scratch_volume(
    scratch: dict[str, Any] | None, argument: list[str]
) -> None:
    patch = job({"volumes": [{"name": "scratch", **scratch}]}) if scratch else {}
    cache = views.cache()
    assert cache.request is not None

    made = job_manifest.manifest(cache, cache.request, ("linux/amd64",), template=template(patch))

    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert [each for each in container["args"] if each.startswith("--scratch-bytes")] == argument
