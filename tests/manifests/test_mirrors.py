"""The components `mirrors` and `mirrors-node`: controller and builders read the same hosts."""

import json
from typing import Any

import pytest

from agent.control.jobs import job_patch, job_template
from agent.roles import builder, controller_flags
from tests.manifests import admission, jobs, rendering, schemas

FOLDERS = {"mirrors": "/etc/uimgacc/mirrors", "mirrors-node": "/etc/containerd/certs.d"}

each_component = pytest.mark.parametrize("component", list(FOLDERS))


def documents(component: str) -> list[rendering.Document]:
    return list(rendering.together("runtimeclass", "controller", component))


def job(component: str, patch: dict[str, Any] | None = None) -> dict[str, Any]:
    deployment = rendering.only(documents(component), "Deployment", "uimgacc-controller")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    said = rendering.settings(documents(component), container)["UIMGACC_MIRRORS"]
    made = jobs.made(deployment, f"--mirrors={said}", patch=patch)
    return dict(json.loads(json.dumps(made)))


@each_component
def test_a_builder_reads_what_the_controller_reads(component: str) -> None:
    folder = FOLDERS[component]
    deployment = rendering.only(documents(component), "Deployment", "uimgacc-controller")
    own = deployment["spec"]["template"]["spec"]
    made = job(component)["spec"]["template"]["spec"]

    schemas.validate(job(component), "1.37")
    (container,) = made["containers"]
    read = builder.parse(container["args"][1:]).settings.registries.mirrors
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == folder]
    (volume,) = [each for each in made["volumes"] if each["name"] == mount["name"]]
    (same,) = [each for each in own["volumes"] if each["name"] == "mirrors"]
    assert [str(path) for path in read] == [folder]
    assert mount["readOnly"]
    assert {**volume, "name": ""} == {**same, "name": ""}


@each_component
def test_the_policy_of_the_controllers_jobs_lets_it_through(component: str) -> None:
    policy = admission.Validator(documents(component), "uimgacc-controller-jobs")
    asked = {
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:uimgacc-system:uimgacc-controller"},
    }

    assert policy.refusals(asked, old=None, new=job(component)) == []


def test_the_folder_of_the_node_is_refused_without_its_component() -> None:
    policy = admission.Validator(documents("mirrors"), "uimgacc-controller-jobs")
    asked = {
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:uimgacc-system:uimgacc-controller"},
    }

    (refusal,) = policy.refusals(asked, old=None, new=job("mirrors-node"))

    assert "folder of its node" in refusal


def test_the_files_of_the_secret_are_for_the_builders_group() -> None:
    made = job("mirrors")["spec"]["template"]["spec"]
    (volume,) = [each for each in made["volumes"] if each["name"] == "mirrors-0"]

    assert volume["projected"]["defaultMode"] == 0o440
    assert made["securityContext"]["fsGroup"] == made["securityContext"]["runAsGroup"]
    # Either is enough.
    assert [
        source["optional"] for each in volume["projected"]["sources"] for source in each.values()
    ] == [True, True]


@pytest.mark.parametrize(
    "pod",
    [
        {"volumes": [{"name": "mirrors-0", "emptyDir": {}}]},
        {"volumes": [{"name": "mirrors-0", "$patch": "delete"}]},
        {
            "containers": [
                {
                    "name": "build",
                    "volumeMounts": [{"mountPath": "/etc/uimgacc/mirrors", "name": "scratch"}],
                }
            ]
        },
    ],
)
def test_the_hosts_cannot_be_patched_away(pod: dict[str, object]) -> None:
    with pytest.raises(job_patch.PatchRefused):
        job("mirrors", patch={"spec": {"template": {"spec": pod}}})


def test_a_folder_that_the_controller_does_not_have_is_an_error() -> None:
    deployment = rendering.only(documents("mirrors"), "Deployment", "uimgacc-controller")

    with pytest.raises(job_template.NoTemplate, match=r"/etc/other .UIMGACC_MIRRORS"):
        jobs.made(deployment, "--mirrors=/etc/other")


def test_an_object_names_no_hosts() -> None:
    """Whoever may create an ImageCache chooses its images, and not where they come from."""
    settings = controller_flags.parse(["--store=/s", "--pod=p"])

    assert settings.mirror_folders == ()
    deployment = rendering.only(
        list(rendering.together("runtimeclass", "controller")), "Deployment", "uimgacc-controller"
    )
    made = jobs.made(deployment)["spec"]["template"]["spec"]
    assert not [each for each in made["containers"][0]["args"] if each.startswith("--mirrors")]
