"""Pods from manifests: what is kept of them, and errors that name the field."""

import contextlib
import pathlib
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from agent.matching import annotations
from agent.model import caches, manifests, pods, workloads

MANIFESTS = pathlib.Path(__file__).parent / "manifests"
Mode = annotations.Mode

MINIMAL: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web"},
    "spec": {"containers": [{"name": "web", "image": "nginx"}]},
}


def with_spec(**spec: Any) -> dict[str, Any]:
    return {**MINIMAL, "spec": {**MINIMAL["spec"], **spec}}


def with_status(**status: Any) -> pods.Pod:
    return pods.parse_pod({**MINIMAL, "status": status})


def test_all_that_matching_needs_is_read() -> None:
    pod = pods.parse_pod(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "web",
                "namespace": "team-a",
                "uid": "42",
                "annotations": {"uimgacc.io/image-cache": "auto"},
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"anything": 1}],
            },
            "spec": {
                "nodeName": "node-1",
                "runtimeClassName": "nvidia",
                "imagePullSecrets": [{"name": "pull"}, {}],
                "initContainers": [{"name": "first", "image": "busybox"}],
                "containers": [
                    {
                        "name": "web",
                        "image": "nginx:1",
                        "imagePullPolicy": "Always",
                        "resources": {"limits": {"ephemeral-storage": "2Gi"}},
                    },
                ],
                "ephemeralContainers": [{"name": "debug", "image": "busybox"}],
                "nodeSelector": {"uimgacc": "true"},
            },
            "status": {"phase": "Running"},
        }
    )

    assert pod == pods.Pod(
        namespace="team-a",
        name="web",
        uid="42",
        node="node-1",
        annotations={"uimgacc.io/image-cache": "auto"},
        containers=(
            pods.Container(name="first", image="busybox", kind=pods.ContainerKind.INIT),
            pods.Container(name="web", image="nginx:1", pull_policy="Always"),
            pods.Container(name="debug", image="busybox", kind=pods.ContainerKind.EPHEMERAL),
        ),
        runtime_class="nvidia",
        pull_secrets=("pull",),
        requirements=(pods.LabelRequirement(key="uimgacc", operator="In", values=("true",)),),
        ephemeral_storage=2 << 30,
        phase="Running",
        deleting=True,
    )
    assert pod.images == ("busybox", "nginx:1")
    assert hash(pod)


def test_image_volumes_are_images_of_the_pod() -> None:
    volumes = [
        {"name": "model", "image": {"reference": "models/llama:1", "pullPolicy": "Always"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "from-a-template", "image": {}},
    ]
    spec = {"containers": [{"name": "web", "image": "nginx:1"}], "volumes": volumes}

    pod = pods.parse_pod({"metadata": {"name": "web"}, "spec": spec})

    assert pod.images == ("nginx:1", "models/llama:1")
    assert pod.containers[1] == pods.Container(
        name="model",
        image="models/llama:1",
        pull_policy="Always",
        kind=pods.ContainerKind.VOLUME,
    )


def test_a_pod_of_volumes_alone_is_none() -> None:
    spec = {"volumes": [{"name": "model", "image": {"reference": "models/llama:1"}}]}

    with pytest.raises(manifests.ManifestError, match="at least one container"):
        pods.parse_pod({"metadata": {"name": "web"}, "spec": spec})


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "expected a mapping"),
        ({"kind": "Node"}, "kind: expected Pod, not Node"),
        ({**MINIMAL, "metadata": {}}, "metadata.name: expected a string"),
        ({**MINIMAL, "metadata": []}, "metadata: expected a mapping"),
        (with_spec(containers=[]), "spec.containers: expected at least one container"),
        (with_spec(containers={}), "spec.containers: expected a list"),
        (with_spec(containers=[{"name": "a"}]), "spec.containers[0].image: expected a string"),
        (with_spec(containers=[{"image": 7}]), "spec.containers[0].image: expected a string"),
        (with_spec(containers=[{"image": " "}]), "spec.containers[0].image: expected an image"),
        (with_spec(initContainers=["a"]), "spec.initContainers[0]: expected a mapping"),
        (with_spec(runtimeClassName=1), "spec.runtimeClassName: expected a string"),
        (with_spec(nodeSelector={"uimgacc": True}), "spec.nodeSelector.uimgacc: expected a string"),
        (
            {**MINIMAL, "metadata": {"name": "a", "annotations": {"k8s.aliyun.com/x": True}}},
            "metadata.annotations['k8s.aliyun.com/x']: expected a string: write \"true\" in quotes",
        ),
        (
            {**MINIMAL, "metadata": {"name": "a", "annotations": {1: "a"}}},
            "metadata.annotations: expected strings as keys, not 1",
        ),
    ],
)
def test_an_error_names_the_field(manifest: Any, message: str) -> None:
    with pytest.raises(manifests.ManifestError) as caught:
        pods.parse_pod(manifest)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20Gi", 20 << 30),
        ("1k", 1000),
        ("1.5G", 1_500_000_000),
        ("500", 500),
        (500, 500),
        ("1e3", 1000),
        ("1E", 10**18),
        ("5000m", 5),
        ("0", 0),
    ],
)
def test_quantities_are_bytes(text: object, size: int) -> None:
    container = {"image": "a", "resources": {"limits": {"ephemeral-storage": text}}}

    assert pods.parse_pod(with_spec(containers=[container])).ephemeral_storage == size


@pytest.mark.parametrize("text", ["", "a lot", "5X", "-1", "NaN", "Infinity", "1e99", [], True])
def test_what_is_no_quantity_is_refused(text: object) -> None:
    container = {"image": "a", "resources": {"limits": {"ephemeral-storage": text}}}
    with pytest.raises(manifests.ManifestError, match="expected a quantity"):
        pods.parse_pod(with_spec(containers=[container]))


def test_one_container_without_a_limit_means_no_limit() -> None:
    limited = {"image": "a", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}

    assert pods.parse_pod(with_spec(containers=[limited, {"image": "b"}])).ephemeral_storage is None


# How far a pod is.

ACCEPTED = "2026-01-01T00:00:00Z"
RUNNING = {"restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:07Z"}}}


@pytest.mark.parametrize(
    ("accepted", "statuses", "seconds"),
    [
        (ACCEPTED, [RUNNING], 7.0),
        (ACCEPTED, [{"state": {"terminated": {"startedAt": "2026-01-01T00:00:03Z"}}}], 3.0),
        (ACCEPTED, [], None),
        (None, [RUNNING], None),
        (ACCEPTED, [{"state": {"waiting": {"reason": "ContainerCreating"}}}], None),
        (ACCEPTED, [{**RUNNING, "restartCount": 1}], None),
    ],
)
def test_ready_seconds_are_from_accepted_to_started(
    accepted: str | None, statuses: list[Any], seconds: float | None
) -> None:
    pod = with_status(startTime=accepted, containerStatuses=statuses)

    assert pod.ready_seconds == seconds


@pytest.mark.parametrize("scheduled", ["2025-12-31T23:00:00Z", "2026-01-01T01:00:00Z"])
def test_a_scheduler_with_another_clock_changes_no_ready_seconds(scheduled: str) -> None:
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled}
    pod = with_status(conditions=[condition], startTime=ACCEPTED, containerStatuses=[RUNNING])

    assert pod.ready_seconds == 7.0


def test_a_broken_time_is_named() -> None:
    with pytest.raises(manifests.ManifestError, match="startTime: expected a time"):
        with_status(startTime="now")


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            [
                "metadata", "spec", "status", "name", "annotations", "containers", "image",
                "resources", "limits", "ephemeral-storage", "affinity", "nodeAffinity", "template",
                "templates", "jobTemplate", "tasks", "items", "conditions", "container",
            ]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
kinds = st.sampled_from(["Pod", "PodList", "List", "Deployment", "CronJob", "Workflow", "", "X"])


@hypothesis.given(
    kinds, st.dictionaries(st.sampled_from(["metadata", "spec", "status", "items"]), json)
)
def test_any_document_is_read_or_refused(kind: str, rest: dict[str, Any]) -> None:
    with contextlib.suppress(manifests.ManifestError):
        found = workloads.pods_of({"kind": kind, **rest})
        assert all(pod.containers for pod in found)


def test_a_time_that_yaml_has_read_already_is_taken() -> None:
    status = yaml.safe_load(
        "startTime: 2026-01-01T00:00:00Z\n"
        "containerStatuses:\n"
        "- {restartCount: 0, state: {running: {startedAt: 2026-01-01T00:00:02Z}}}\n"
    )

    assert with_status(**status).ready_seconds == 2.0


# Documents of the clouds' guides.


@pytest.mark.parametrize(
    ("name", "image", "mode", "dialect", "cache"),
    [
        ("argo-auto.yaml", "docker/whalesay", Mode.AUTOMATIC, caches.Dialect.ALIBABA, ""),
        (
            "argo-pinned.yaml",
            "docker/whalesay",
            Mode.EXPLICIT,
            caches.Dialect.ALIBABA,
            "imc-f8zf****",
        ),
        (
            "knative-pinned.yaml",
            "registry.cn-hangzhou.aliyuncs.com/knative-sample/helloworld-go:73fbdd56",
            Mode.EXPLICIT,
            caches.Dialect.ALIBABA,
            "imc-2ze5tm5gehgtiiga****",
        ),
        (
            "knative-auto.yaml",
            "registry.cn-hangzhou.aliyuncs.com/knative-sample/helloworld-go:73fbdd56",
            Mode.AUTOMATIC,
            caches.Dialect.ALIBABA,
            "",
        ),
        (
            "ucloud-pod.yaml",
            "uhub.service.ucloud.cn/testuk8s-wenqian/bigfile:latest-acc",
            Mode.LABEL,
            caches.Dialect.UCLOUD,
            "",
        ),
    ],
)
def test_the_clouds_own_samples(
    name: str, image: str, mode: Mode, dialect: caches.Dialect, cache: str
) -> None:
    (pod,) = workloads.pods_of(yaml.safe_load((MANIFESTS / name).read_text()))
    request = annotations.request_of(pod)

    assert pod.images == (image,)
    assert (request.mode, request.dialect, request.cache) == (mode, dialect, cache)


# Workloads.

TEMPLATE = {
    "metadata": {"annotations": {"uimgacc.io/image-cache": "auto"}},
    "spec": {"containers": [{"name": "web", "image": "nginx"}]},
}


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        *(
            (kind, {"spec": {"template": TEMPLATE}})
            for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Rollout")
        ),
        ("CronJob", {"spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}}),
        ("PodTemplate", {"template": TEMPLATE}),
        ("Job", {"spec": {"tasks": [{"name": "worker", "template": TEMPLATE}]}}),
    ],
)
def test_the_template_of_a_workload_is_its_pod(kind: str, document: dict[str, Any]) -> None:
    (pod,) = workloads.pods_of(
        {"kind": kind, "metadata": {"name": "web", "namespace": "team-a"}, **document}
    )

    assert (pod.namespace, pod.name, pod.images) == ("team-a", "web", ("nginx",))
    assert pod.annotations == {"uimgacc.io/image-cache": "auto"}


def test_lists_hold_pods_and_name_the_item_at_fault() -> None:
    pod = {key: MINIMAL[key] for key in ("metadata", "spec")}

    assert len(workloads.pods_of({"kind": "PodList", "items": [pod, pod]})) == 2
    assert len(workloads.pods_of({"kind": "List", "items": [MINIMAL, MINIMAL]})) == 2
    with pytest.raises(manifests.ManifestError, match=r"^items\[1\]\.metadata\.name: "):
        workloads.pods_of({"kind": "PodList", "items": [pod, {**pod, "metadata": {}}]})


def test_every_template_with_containers_of_a_workflow_is_a_pod() -> None:
    found = workloads.pods_of(
        {
            "kind": "CronWorkflow",
            "metadata": {"name": "nightly"},
            "spec": {
                "workflowSpec": {
                    "podMetadata": {"annotations": {"a": "shared", "b": "shared"}},
                    "nodeSelector": {"uimgacc": "true"},
                    "imagePullSecrets": [{"name": "pull"}],
                    "templates": [
                        {"name": "steps", "steps": [[{"name": "x", "template": "one"}]]},
                        {
                            "name": "one",
                            "container": {"image": "nginx"},
                            "sidecars": [{"name": "s", "image": "redis"}],
                            "metadata": {"annotations": {"b": "own"}},
                        },
                        {"name": "two", "script": {"image": "python", "source": "1"}},
                        {"name": "set", "containerSet": {"containers": [{"image": "bash"}]}},
                    ],
                }
            },
        }
    )

    assert [(pod.name, pod.images) for pod in found] == [
        ("nightly-one", ("nginx", "redis")),
        ("nightly-two", ("python",)),
        ("nightly-set", ("bash",)),
    ]
    assert found[0].annotations == {"a": "shared", "b": "own"}
    assert found[0].pull_secrets == ("pull",)
    assert found[0].asks_for_node_with("uimgacc", "true")


def test_an_error_in_a_workflow_names_the_template() -> None:
    with pytest.raises(manifests.ManifestError, match=r"spec\.templates\[0\]\.container\.image: "):
        workloads.pods_of(
            {"kind": "Workflow", "spec": {"templates": [{"name": "a", "container": {}}]}}
        )


@pytest.mark.parametrize("document", [{"kind": "ConfigMap"}, {}, {"kind": "Job", "spec": {}}])
def test_a_document_without_pods_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(manifests.ManifestError, match="found no pod"):
        workloads.pods_of(document)


def test_a_workflow_has_the_image_volumes_of_itself_and_of_its_template() -> None:
    def volume(name: str) -> dict[str, object]:
        return {"name": name, "image": {"reference": f"models/{name}:1"}}

    templates = [
        {"name": "one", "container": {"image": "busybox"}, "volumes": [volume("own")]},
        {"name": "two", "container": {"image": "busybox"}},
    ]
    spec = {"volumes": [volume("shared")], "templates": templates}
    one, two = workloads.pods_of({"kind": "Workflow", "metadata": {"name": "w"}, "spec": spec})

    assert one.volume_images == {"models/shared:1", "models/own:1"}
    assert two.volume_images == {"models/shared:1"}
