"""Builds on a cluster, as its users need them: tags that move, nodes of two kinds, dying Jobs."""

import contextlib
import socket
import sys
import types

import pytest
import yaml

from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.control.reconcile import cluster
from agent.model import caches, images, keys
from agent.store import integrity
from lab import services
from lab.samples import pushing
from tests import artifacts
from tests.control import conftest
from tests.control.test_controller import docker_config, secret
from tests.control.test_ucloud import PASSWORD, UHub, uhub
from tests.kube import apis

__all__ = ["uhub"]

pytestmark = pytest.mark.timeout(300)


def platforms(plane: conftest.Plane, image: str) -> list[str]:
    """For which platforms the store has an image."""
    record = plane.reader.image(images.parse_reference(f"{plane.server.address}/{image}"))
    return sorted(each.platform for each in record.platforms) if record is not None else []


def test_a_tag_that_has_moved_is_built_anew_in_time_and_on_request(plane, uhub: UHub) -> None:
    plane.server = uhub.server
    secret(plane, "pull", docker_config(uhub.server.address, "alice", PASSWORD))
    plane.controller()
    first = uhub.push("team/app", b"1")
    key = plane.apply("tools", "team/app:1", imagePullSecrets=[f"{plane.api.namespace}/pull"])
    resource = cluster.resource_of(key)

    def has(pushed: object) -> bool:
        status = plane.status(key)
        held = [each["digest"] for each in status.get("images", ())]
        return status.get("phase") == "Ready" and held == [pushed]

    def wait(pushed: object) -> None:
        try:
            apis.wait_until(lambda: has(pushed), seconds=60)
        except AssertionError:
            raise AssertionError(f"{plane.status(key)}\n{plane.said()}") from None

    def annotate(name: str, value: str) -> None:
        plane.api.patch(resource, key.name, {"metadata": {"annotations": {name: value}}})

    wait(first.digest)
    second = uhub.push("team/app", b"2")
    assert second.digest != first.digest
    # By itself nothing is looked up again.
    annotate("example.com/other", "1")
    wait(first.digest)
    annotate(keys.REFRESH_HOURS, "0.0005")
    wait(second.digest)
    annotate(keys.REFRESH_HOURS, "0")

    third = uhub.push("team/app", b"3")
    annotate(keys.REFRESH, "now")
    wait(third.digest)
    record = plane.reader.image(images.parse_reference(uhub.name("team/app:1")))
    assert record is not None
    assert record.target == third.digest


def test_a_tag_that_is_pushed_anew_is_noticed_and_built_again(plane, uhub: UHub) -> None:
    """With the cache's credentials; nodes are told to leave it to pulls meanwhile."""
    plane.server = uhub.server
    secret(plane, "pull", docker_config(uhub.server.address, "alice", PASSWORD))
    controller = plane.controller("--tag-seconds=2", "--serve-stale=never")
    first = uhub.push("team/app", b"1")
    key = plane.apply("tools", "team/app:1", imagePullSecrets=[f"{plane.api.namespace}/pull"])
    cloud = plane.apply(
        "snapshot",
        "team/app:1",
        group="eci.alibabacloud.com",
        annotations={keys.SERVE_STALE: "always"},
        imagePullSecrets=[f"{plane.api.namespace}/pull"],
    )
    plane.wait(key, "Ready")
    plane.wait(cloud, "Ready")
    told: list[bool] = []

    def has(pushed: str) -> bool:
        record = plane.reader.cache(caches.id_of_name("tools"))
        if record is None:
            return False
        told.extend(each.withheld for each in record.moved)
        return record.images[0].target == pushed and not record.moved

    assert has(first.digest)
    second = uhub.push("team/app", b"2")
    try:
        apis.wait_until(lambda: has(second.digest), seconds=90)
        apis.wait_until(lambda: "TagMoved" in plane.events(key), seconds=30)
        apis.wait_until(lambda: plane.status(key).get("phase") == "Ready", seconds=30)
        apis.wait_until(lambda: plane.status(cloud).get("tags", {}).get("moved"), seconds=30)
    except AssertionError:
        raise AssertionError(f"{plane.status(key)}\n{plane.said()}") from None
    tags = plane.status(cloud)["tags"]
    assert set(told) == {True}
    assert [each["digest"] for each in tags["moved"]] == [second.digest]
    assert plane.status(cloud)["images"][0]["digest"] == first.digest
    assert plane.status(key)["tags"]["confirmedTime"]
    assert "moved" not in plane.status(key)["tags"]
    apis.wait_until(lambda: caches.id_of_name("tools") in plane.reader.confirmed(), seconds=90)
    apis.wait_until(lambda: list(integrity.check(plane.store)) == [], seconds=60)

    uhub.server.stop()
    apis.wait_until(
        lambda: any("does not say what its tags" in line["message"] for line in controller.lines()),
        seconds=60,
    )
    assert plane.status(key)["phase"] == "Ready"


PLUG_IN = """#!/bin/sh
cat >&2
cat <<END
{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
 "cacheKeyType": "Registry", "auth": {"$REGISTRY": {"username": "alice", "password": "$PASSWORD"}}}
END
"""


def test_a_plug_in_of_the_cluster_opens_a_registry(plane, folder, uhub: UHub) -> None:
    """The user's patch of a Job: a volume, its mount and variables, beside those of uimgacc."""
    plane.server = uhub.server
    provided = folder / "plug-ins"
    provided.mkdir(mode=0o755)
    plug_in = provided / "team-provider"
    plug_in.write_text(PLUG_IN)
    plug_in.chmod(0o755)
    provider = {
        "name": plug_in.name,
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "matchImages": [uhub.server.address],
        "defaultCacheDuration": "1h",
    }
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [provider],
    }
    (provided / "config.yaml").write_text(yaml.safe_dump(config))
    variables = {
        "UIMGACC_IMAGE_CREDENTIAL_PROVIDER_CONFIG": "/etc/plug-ins/config.yaml",
        "UIMGACC_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR": "/etc/plug-ins/",
        "REGISTRY": uhub.server.address,
        "PASSWORD": PASSWORD,
    }
    build = {
        "name": "build",
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {"limits": {"memory": "3Gi"}},
        "volumeMounts": [{"name": "plug-ins", "mountPath": "/etc/plug-ins", "readOnly": True}],
    }
    pod = {
        "containers": [build],
        "volumes": [{"name": "plug-ins", "hostPath": {"path": str(provided)}}],
    }
    patch = folder / "job.yaml"
    patch.write_text(yaml.safe_dump({"spec": {"template": {"spec": pod}}}))
    plane.controller(f"--builder-patch={patch}")
    pushed = uhub.push("team/app", b"1")

    key = plane.apply("tools", "team/app:1")

    (image,) = plane.wait(key, "Ready")["images"]
    assert image["digest"] == pushed.digest
    (job,) = plane.builders.jobs()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "3Gi"}


def test_a_cluster_of_two_kinds_of_nodes_gets_the_platforms_of_both(plane) -> None:
    plane.controller()
    both = plane.apply("both", "lab/multi:1")
    own = plane.apply("own", "lab/gzip:1", annotations={"uimgacc.io/cpu-arch": "amd64"})
    plane.wait(both, "Ready")
    assert platforms(plane, "lab/multi:1") == ["linux/amd64"]

    # A node of another kind joins: what is there is built for it as well, and serves meanwhile.
    plane.api.node(labels={"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux"})
    apis.wait_until(lambda: len(platforms(plane, "lab/multi:1")) == 2, seconds=60)
    status = plane.wait(both, "Ready")

    assert status["build"]["platforms"] == ["linux/amd64", "linux/arm64"]
    assert platforms(plane, "lab/multi:1") == ["linux/amd64", "linux/arm64"]
    assert plane.wait(own, "Ready")["build"]["platforms"] == ["linux/amd64"]
    assert platforms(plane, "lab/gzip:1") == ["linux/amd64"]


def test_a_registry_that_refuses_connections_is_named_within_seconds(plane) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        host = f"127.0.0.1:{reserved.getsockname()[1]}"
        plane.server = types.SimpleNamespace(address=host)
        plane.controller()
        key = plane.apply("away", "team/app:1")

        def says_why() -> bool:
            message = plane.status(key).get("message", "")
            return f"http://{host}/v2/team/app" in message and "Connect call failed" in message

        apis.wait_until(says_why, seconds=60)
        status = plane.status(key)

    assert status["phase"] == "Creating"
    assert status["message"].startswith("It is being built: asking the registry; no usable answer")


def test_a_model_is_ready_under_its_digest_and_a_chart_is_refused_by_its_type(
    plane, tmp_path
) -> None:
    model = [artifacts.weights("weights/w", b"w" * 5000)]
    chart = [artifacts.Layer(b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")]
    kind = "application/vnd.cncf.helm.config.v1+json"
    with services.Registry(tmp_path / "r", storage=tmp_path / "storage") as registry:
        with contextlib.closing(pushing.Pusher(registry.address)) as pusher:
            for layer in (*model, *chart, *artifacts.CONFIGS):
                pusher.blob("team/a", artifacts.digest(layer.data), layer.data)
            pushed, _ = pusher.manifest("team/a", "model", artifacts.manifest(model))
            document = artifacts.manifest(chart, kind="", config=(kind, b"{}"))
            pusher.manifest("team/a", "chart", document)
        plane.server = registry
        plane.controller()
        ready, refused = plane.apply("model", "team/a:model"), plane.apply("chart", "team/a:chart")
        apis.wait_until(lambda: plane.status(ready).get("phase") == "Ready", seconds=60)
        apis.wait_until(lambda: plane.status(refused).get("phase") == "Failed", seconds=60)

    assert [each["digest"] for each in plane.status(ready)["images"]] == [pushed]
    assert f"it is a Helm chart ({kind!r})" in plane.status(refused)["message"]


# Before, not after: of layers that are published side by side none is the only one.
STAGES = [
    ("agent.roles.builder:_build", "before"),
    ("agent.store.publish.layer_writer:publish_layer", "before"),
    ("agent.store.publish.writer:publish_image", "before"),
    ("agent.store.publish.writer:publish_cache", "before"),
    ("agent.build.build_report:Reporter.end", "before"),
]


def test_a_job_that_is_killed_at_any_stage_is_made_up_for(plane) -> None:
    """One cache for each stage, side by side."""
    plane.controller("--retry-seconds=0.2", "--parallel-builds=2")
    keys = []
    for at, (place, when) in enumerate(STAGES):
        name = f"killed-{at}"
        plane.builders.deadly[name] = [sys.executable, "-m", "tests.crashing", place, when, "1"]
        # Layers that are there already are not published again.
        image = "lab/layers2:1" if "layer" in place else "lab/gzip:1"
        keys.append(plane.apply(name, image))

    for key in keys:
        status = plane.wait(key, "Ready", seconds=120)
        assert plane.reader.cache(status["imageCacheId"]) is not None
    assert len(plane.builders.killed) == len(STAGES)
    # What is half done is swept a day later.
    left = [found.kind for found in integrity.check(plane.store)]
    assert set(left) <= {integrity.Kind.LEFTOVER}


def test_no_finalizer_of_uimgacc_blocks_the_end_of_a_namespace(plane) -> None:
    """Only ImageCaches have a finalizer, and they are in no namespace."""
    secret(plane, "pull", {"auths": {}})
    plane.controller()
    plane.builders.held.set()
    plane.apply("tools", "lab/gzip:1", imagePullSecrets=[f"{plane.api.namespace}/pull"])
    apis.wait_until(plane.builders.jobs)
    apis.wait_until(lambda: len(plane.builders.secrets()) == 2)

    found = [
        each
        for plural in (
            rest_client.JOBS,
            rest_client.SECRETS,
            rest_client.LEASES,
            rest_client.Resource(plural="configmaps"),
        )
        for each in plane.api.list(plural, namespace=plane.api.namespace)
    ]
    assert len(found) >= 4
    assert [each for each in found if "uimgacc" in str(each["metadata"].get("finalizers"))] == []


def automatic(plane: conftest.Plane, image: str, namespace: str) -> cache_object.CacheObject:
    """An automatic cache, as an agent creates it for a pod of a namespace."""
    reference = images.parse_reference(f"{plane.server.address}/{image}")
    name = caches.name_of_auto_cache(caches.id_of_images([reference]))
    annotations = {
        keys.CREATED_FOR: f"{namespace}/pod",
        keys.CREATED_FOR_UID: "uid",
        keys.CREATED_ON: "node",
    }
    labels = {keys.AUTO_CREATED: "true"}
    key = plane.apply(name, image, labels=labels, annotations=annotations)
    return cache_object.parse(plane.get(key))


def test_a_hundred_bad_pods_do_not_keep_another_namespace_waiting(plane) -> None:
    """Images that do not exist, before one that does: it is built within its turn."""
    plane.controller("--parallel-builds=2")
    for number in range(100):
        automatic(plane, f"lab/missing-{number}:1", "bad")
    apis.wait_until(lambda: len(plane.builders.started) >= 2, seconds=60)
    good = automatic(plane, "lab/gzip:1", "good")
    before = len(plane.builders.started)

    plane.wait(good.key, "Ready", seconds=120)

    # The build that ran in its slot may have ended, and one of the other slot.
    name = next(each for each in plane.builders.started if each.startswith(good.cache_id))
    assert plane.builders.started.index(name) <= before + 2, plane.builders.started
