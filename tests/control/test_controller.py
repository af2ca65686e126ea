"""The controller end to end: objects in an API server, Jobs as processes, a real registry."""

import base64
import json
import shutil
import signal
import subprocess
from typing import Any

import pytest
import yaml

from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.control.reconcile import cluster
from agent.model import caches, images, keys
from agent.roles import cluster_identity
from agent.store import integrity
from agent.store.publish import ownership, writer
from lab import places, services
from tests.control import builders, conftest
from tests.kube import apis

pytestmark = pytest.mark.timeout(300)


def delete(plane: conftest.Plane, key: cache_object.Key) -> None:
    plane.api.delete(cluster.resource_of(key), key.name)


def test_a_cache_becomes_ready_and_goes(plane) -> None:
    plane.controller()
    key = plane.apply("tools", "lab/gzip:1", "lab/zstd:1")

    status = plane.wait(key, "Ready")

    record = plane.reader.cache(status["imageCacheId"])
    assert record is not None
    assert status["progress"] == "100%"
    assert [(each["image"], each["digest"]) for each in status["images"]] == [
        (each.ref, each.target) for each in record.images
    ]
    assert (status["size"], status["build"]["time"]) == (record.size, record.created)
    ready, building = status["conditions"]
    assert (ready["type"], ready["status"], building["status"]) == ("Ready", "True", "False")
    messages = [event["message"] for event in status["events"]]
    assert messages == [f"Success pull image {each.ref}" for each in record.images]
    apis.wait_until(lambda: {"BuildStarted", "Ready"} <= set(plane.events(key)))
    apis.wait_until(lambda: list(integrity.check(plane.store)) == [])
    plane.end_claims()
    delete(plane, key)
    apis.wait_until(lambda: plane.gone(key), seconds=60)
    assert plane.reader.cache(record.id) is None
    apis.wait_until(lambda: not list(plane.store.layer_files.rglob("*.erofs")), seconds=60)


def secret(plane: conftest.Plane, name: str, content: dict[str, Any]) -> None:
    data = base64.b64encode(json.dumps(content).encode()).decode()
    body = {
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": data},
    }
    plane.api.create(rest_client.SECRETS, body, namespace=plane.api.namespace)


def docker_config(host: str, user: str, password: str) -> dict[str, Any]:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"auths": {host: {"auth": auth}}}


def test_a_private_cache_of_alibaba_takes_its_secret_along(plane, folder, tmp_path) -> None:
    """First without the Secret: it says which one is missing, and goes on when it is there."""
    namespace = plane.api.namespace
    with services.Registry(tmp_path / "private", users={"alice": "opensesame"}) as server:
        plane.server = server
        controller = plane.controller("--retry-seconds=0.5")
        key = plane.apply(
            "private",
            "lab/gzip:1",
            group="eci.alibabacloud.com",
            imagePullSecrets=[f"{namespace}:pull"],
        )
        status = plane.wait(key, "Failed")
        assert f"the Secret {namespace}/pull does not exist" in status["message"]
        assert status["expireDateTime"] > status["lastUpdatedTime"]
        assert plane.builders.started == []

        auth = base64.b64encode(b"alice:opensesame").decode()
        secret(plane, "pull", {"auths": {server.address: {"auth": auth}}})
        status = plane.wait(key, "Ready")

    record = plane.reader.cache(status["imageCacheId"])
    assert record is not None
    assert record.namespaces == [namespace]
    assert "expireDateTime" not in status
    apis.wait_until(lambda: plane.builders.secrets() == ["pull"])
    (job,) = plane.builders.jobs()
    logs = [controller.log.read_text(), json.dumps([plane.get(key), job, plane.said()])]
    logs += [path.read_text() for path in plane.store.root.rglob("*.json")]
    assert not [text for text in logs if "opensesame" in text or auth in text]


def test_tencents_fields_are_its_own(plane) -> None:
    plane.controller()
    key = plane.apply(
        "imagecache-sample", "lab/gzip:1", group="eks.cloud.tencent.com", imageCacheSize=30
    )

    status = plane.wait(key, "Ready")

    assert status["imcId"] == caches.id_of_name(key.name, dialect=caches.Dialect.TENCENT)
    assert (status["snapshotId"], "phase" in status, "events" in status) == ("", False, False)
    record = plane.reader.cache(status["imcId"])
    assert record is not None
    assert record.capacity == 30 << 30


def test_a_changed_list_is_built_anew_while_the_old_one_serves(plane) -> None:
    plane.controller("--retry-seconds=3600")
    key = plane.apply("tools", "lab/gzip:1")
    first = plane.wait(key, "Ready")
    resource = cluster.resource_of(key)

    def change(*images_: str) -> None:
        listed = [f"{plane.server.address}/{image}" for image in images_]
        plane.api.patch(resource, key.name, {"spec": {"images": listed}})

    change("lab/no-such-image:1")
    failed = plane.wait(key, "UpdateFailed")
    assert "lab/no-such-image:1" in failed["message"]
    assert failed["conditions"][0]["status"] == "True"
    assert plane.reader.cache(first["imageCacheId"]) is not None
    plane.builders.held.set()
    change("lab/zstd:1")
    updating = plane.wait(key, "Updating")
    assert updating["images"] == first["images"]
    plane.builders.held.clear()
    second = plane.wait(key, "Ready")

    record = plane.reader.cache(first["imageCacheId"])
    assert record is not None
    assert [each.ref for each in record.images] == [f"{plane.server.address}/lab/zstd:1"]
    assert [each["image"] for each in second["images"]] == [record.images[0].ref]
    assert second["build"]["failures"] == 0


def test_a_change_in_the_middle_stops_the_build_that_nobody_wants(plane) -> None:
    plane.controller()
    key = plane.apply("tools", "lab/large:1")
    apis.wait_until(lambda: plane.status(key).get("progress", "0%") not in ("0%", "100%"))

    listed = [f"{plane.server.address}/lab/gzip:1"]
    plane.api.patch(cluster.resource_of(key), key.name, {"spec": {"images": listed}})
    status = plane.wait(key, "Ready")

    assert [each["image"] for each in status["images"]] == listed
    apis.wait_until(lambda: len(plane.builders.jobs()) == 1)
    record = plane.reader.cache(status["imageCacheId"])
    assert [each.ref for each in record.images] == listed


def test_a_builder_that_is_killed_is_replaced_with_what_it_had_done(plane) -> None:
    plane.controller("--retry-seconds=0.2")
    key = plane.apply("tools", "lab/layers127:1")
    apis.wait_until(lambda: list(plane.store.layer_files.rglob("*.erofs")))

    (pod,) = plane.builders.pods.values()
    pod.kill()
    apis.wait_until(lambda: plane.status(key).get("build", {}).get("failures") == 1)
    assert "ended with status 137" in plane.status(key)["events"][-1]["message"]
    status = plane.wait(key, "Ready")

    assert status["build"]["failures"] == 0
    assert len(plane.builders.started) == 2


def test_a_deleted_cache_stops_its_build(plane) -> None:
    plane.controller()
    key = plane.apply("tools", "lab/large:1")
    apis.wait_until(lambda: plane.builders.started)

    delete(plane, key)
    apis.wait_until(lambda: plane.gone(key), seconds=60)

    assert plane.builders.jobs() == []
    assert list(plane.store.cache_records.glob("imc-*")) == []


def test_a_deletion_says_who_holds_the_layers_and_waits(plane) -> None:
    node = plane.api.node(annotations={keys.GENERATION: "0"})
    plane.controller()
    key = plane.apply("tools", "lab/gzip:1")
    cache_id = plane.wait(key, "Ready")["imageCacheId"]
    record = plane.reader.cache(cache_id)
    assert record is not None
    plane.end_claims()
    delete(plane, key)

    def shows(text: str) -> bool:
        return text in plane.status(key).get("message", "")

    apis.wait_until(lambda: shows(f"waiting for {node}"), seconds=60)
    held = json.dumps([f"{cache_id}/{record.images[0].layers[0]}: team/app-0"])
    plane.api.patch(rest_client.NODES, node, {"metadata": {"annotations": {keys.HELD: held}}})
    apis.wait_until(lambda: shows(f"they are held by pod team/app-0 on {node}"), seconds=60)
    assert list(plane.store.layer_files.rglob("*.erofs"))
    assert plane.reader.cache(cache_id) is None

    newest = json.loads(plane.store.generation_record.read_text())["generation"]
    let_go = {keys.GENERATION: str(newest), keys.HELD: None}
    plane.api.patch(rest_client.NODES, node, {"metadata": {"annotations": let_go}})
    apis.wait_until(lambda: plane.gone(key), seconds=60)
    assert not list(plane.store.layer_files.rglob("*.erofs"))


def test_no_more_builds_run_than_may(plane) -> None:
    plane.builders.held.set()
    plane.controller("--parallel-builds=2")
    keys = [plane.apply(f"c{at}", "lab/gzip:1") for at in range(6)]
    apis.wait_until(lambda: all(plane.phase(key) in ("Pending", "Creating") for key in keys))

    phases = sorted(plane.phase(key) for key in keys)
    assert phases == ["Creating"] * 2 + ["Pending"] * 4
    assert len(plane.builders.jobs()) == 2
    plane.builders.held.clear()
    for key in keys:
        plane.wait(key, "Ready")


def test_a_job_that_the_cluster_refuses_is_the_reason(plane, folder) -> None:
    """Here a label that is none; a quota or a policy says it as well."""
    patch = folder / "job.yaml"
    patch.write_text("{metadata: {labels: {team: 'of no one'}}}")
    plane.controller(f"--builder-patch={patch}")
    key = plane.apply("tools", "lab/gzip:1")

    status = plane.wait(key, "Failed")

    assert "the builder's Job is refused" in status["message"]
    assert "of no one" in status["message"]


def test_a_part_of_a_job_that_would_change_what_a_build_is_keeps_no_controller(
    plane, folder
) -> None:
    patch = folder / "job.yaml"
    patch.write_text(yaml.safe_dump({"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}))
    controller = plane.controller(f"--builder-patch={patch}")

    apis.wait_until(lambda: controller.process.poll() is not None, seconds=60)

    reason = controller.lines()[-1]["reason"]
    assert reason.startswith(f"{patch}: spec.template.spec.restartPolicy: ")


def test_an_api_server_that_fails_and_goes_away_for_a_while(plane, proxy) -> None:
    content = yaml.safe_load(plane.kubeconfig.read_text())
    content["clusters"][0]["cluster"] = {"server": proxy.url}
    plane.kubeconfig.write_text(yaml.safe_dump(content))
    # The first question, which is asked again after five seconds, and caches as they are read.
    begins = f"/namespaces/{cluster_identity.NAMESPACE}"
    proxy.fail(503, times=1, which=lambda seen: seen.path.endswith(begins))
    proxy.fail(503, times=3, which=lambda seen: "imagecaches" in seen.path)
    proxy.fail(429, times=2, headers={"Retry-After": "1"}, which=lambda seen: "jobs" in seen.path)
    controller = plane.controller()
    one = plane.apply("one", "lab/gzip:1")
    plane.wait(one, "Ready")

    proxy.stop()
    two = plane.apply("two", "lab/zstd:1")
    proxy.start()
    plane.wait(two, "Ready")

    assert controller.process.poll() is None


def test_a_full_store_says_so_and_goes_on_when_there_is_room(plane) -> None:
    root = plane.store.root
    options = f"size=1m,uid={conftest.USER},gid={conftest.USER}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", root], check=True)
    try:
        plane.controller("--retry-seconds=0.5")
        key = plane.apply("tools", "lab/gzip:1")
        status = plane.wait(key, "Failed")
        # Of a layer in the store, or in the kernel's own words of a smaller file.
        assert "no space left" in status["message"].lower()
        subprocess.run(["mount", "-o", "remount,size=200m", root], check=True)
        plane.wait(key, "Ready")
    finally:
        for made in plane.controllers:
            made.stop(signal.SIGKILL)
        for pod in plane.builders.pods.values():
            pod.kill()
        subprocess.run(["umount", "--lazy", root], check=True)


def test_of_two_controllers_one_builds_and_the_other_takes_over(plane) -> None:
    plane.pod("controller-1")
    first = plane.controller("--lease-seconds=2")
    one = plane.apply("one", "lab/gzip:1")
    plane.wait(one, "Ready")
    second = plane.controller("--lease-seconds=2", name="controller-1")
    plane.builders.held.set()
    two = plane.apply("two", "lab/zstd:1")
    apis.wait_until(lambda: len(plane.builders.jobs()) == 2)

    first.stop(signal.SIGKILL)
    plane.builders.held.clear()
    plane.wait(two, "Ready")

    assert len(plane.builders.started) == 2
    assert "leading" in [line["message"] for line in second.lines()]
    # A clean stop hands over at once; the next one is again the first.
    first.start()
    assert second.stop() == 0
    three = plane.apply("three", "lab/gzip:1")
    plane.wait(three, "Ready")


def test_an_automatic_cache_has_the_id_that_nodes_know(plane) -> None:
    plane.controller("--auto-caches=1")
    reference = images.parse_reference(f"{plane.server.address}/lab/gzip:1")
    cache_id = caches.id_of_images([reference])
    labels = {keys.AUTO_CREATED: "true"}
    key = plane.apply(caches.name_of_auto_cache(cache_id), "lab/gzip:1", labels=labels)

    status = plane.wait(key, "Ready")

    assert status["imageCacheId"] == cache_id
    assert status["expireDateTime"] > plane.get(key)["metadata"]["creationTimestamp"]


def test_a_controller_that_is_started_again_changes_nothing(plane) -> None:
    first = plane.controller()
    keys = [plane.apply(f"c{at}", "lab/gzip:1") for at in range(3)]
    for key in keys:
        plane.wait(key, "Ready")
    apis.wait_until(lambda: all("Ready" in plane.events(key) for key in keys))
    versions = [plane.get(key)["metadata"]["resourceVersion"] for key in keys]
    assert first.stop() == 0

    second = plane.controller()
    new = plane.apply("new", "lab/gzip:1")
    plane.wait(new, "Ready")

    assert [plane.get(key)["metadata"]["resourceVersion"] for key in keys] == versions
    assert second.stop() == 0


def test_what_nodes_keep_warm_reaches_the_store_without_a_build(plane) -> None:
    plane.controller()
    key = plane.apply("tools", "lab/gzip:1")
    status = plane.wait(key, "Ready")
    resource = cluster.resource_of(key)

    def recorded() -> tuple[bool, dict[str, str], str]:
        record = plane.reader.cache(status["imageCacheId"])
        assert record is not None
        return record.keep_warm, record.node_selector, record.local

    assert recorded() == (False, {}, "")
    change = {
        "metadata": {"annotations": {keys.LOCAL: "before-start"}},
        "spec": {"keepWarm": True, "nodeSelector": {"pool": "gpu"}},
    }
    plane.api.patch(resource, key.name, change)
    apis.wait_until(lambda: recorded() == (True, {"pool": "gpu"}, "before-start"))
    change = {
        "metadata": {"annotations": {keys.LOCAL: "sometimes"}},
        "spec": {"keepWarm": False, "nodeSelector": None},
    }
    plane.api.patch(resource, key.name, change)
    apis.wait_until(lambda: recorded() == (False, {}, ""))

    apis.wait_until(lambda: "Ignored" in plane.events(key))
    assert plane.get(key)["status"]["build"]["time"] == status["build"]["time"]


def test_a_store_of_another_cluster_is_left_alone_until_that_is_gone(plane) -> None:
    writer.create(plane.store.root)
    ownership.claim(plane.store, "another")
    for path in (plane.store.root, *plane.store.root.rglob("*")):
        shutil.chown(path, conftest.USER, conftest.USER)
    key = plane.apply("tools", "lab/gzip:1")
    controller = plane.controller()
    apis.wait_until(lambda: "belongs to cluster another" in controller.log.read_text())
    assert plane.status(key) == {}
    assert list(plane.store.layer_files.rglob("*.erofs")) == []

    done = subprocess.run(
        [*builders.COMMAND, "store", "release", "--store", str(plane.store.root)],
        capture_output=True,
        text=True,
        cwd=places.CHECKOUT,
        timeout=60,
    )

    assert "belonged to cluster another" in done.stdout, done
    for path in (plane.store.store_record, *plane.store.nodes_record.parent.iterdir()):
        shutil.chown(path, conftest.USER, conftest.USER)
    plane.wait(key, "Ready")
