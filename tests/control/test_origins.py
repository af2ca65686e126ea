"""Automatic caches with pull secrets: whose word the controller takes, and for what."""

import contextlib
import pathlib
from collections.abc import Iterator

import pytest
import yaml

from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.matching import annotations, rules
from agent.model import caches, images, keys, pods
from agent.node.pods import cache_requests
from lab import services
from tests.control import conftest
from tests.control.test_controller import docker_config, secret
from tests.fakes import acr
from tests.kube import apis, threads

pytestmark = pytest.mark.timeout(300)

AUTO = {"uimgacc.io/image-cache": "auto"}


def automatic(
    plane: conftest.Plane, pod: apis.Object, *wanted: str, secret: str = "pull"
) -> cache_object.Key:
    """An object as the agent of the pod's node makes it."""
    references = [images.parse_reference(f"{plane.server.address}/{image}") for image in wanted]
    named = caches.SecretName(plane.api.namespace, secret)
    name = caches.name_of_auto_cache(caches.id_of_images(references, pull_secrets=[named]))
    meta = pod["metadata"]
    said = {
        keys.CREATED_FOR: f"{plane.api.namespace}/{meta['name']}",
        keys.CREATED_FOR_UID: meta["uid"],
        keys.CREATED_ON: pod["spec"]["nodeName"],
    }
    labels = {keys.AUTO_CREATED: "true"}
    return plane.apply(
        name, *wanted, labels=labels, annotations=said, imagePullSecrets=[str(named)]
    )


def test_an_automatic_cache_may_use_the_secrets_of_its_pod_and_no_others(plane, tmp_path) -> None:
    with services.Registry(tmp_path / "private", users={"alice": "opensesame"}) as server:
        plane.server = server
        config = docker_config(server.address, "alice", "opensesame")
        secret(plane, "pull", config)
        secret(plane, "of-others", config)
        node = plane.api.node(labels={"kubernetes.io/arch": "amd64"})
        pod = plane.api.pod(
            "app-0",
            node,
            image=f"{server.address}/lab/gzip:1",
            annotations=AUTO,
            spec={"imagePullSecrets": [{"name": "pull"}]},
        )
        controller = plane.controller()
        other = automatic(plane, pod, "lab/gzip:1", secret="of-others")
        more = automatic(plane, pod, "lab/gzip:1", "lab/zstd:1")
        said = plane.wait(other, "Failed")["message"]
        assert "app-0 does not use the Secret of-others" in said
        assert "lab/zstd:1" in plane.wait(more, "Failed")["message"]
        apis.wait_until(lambda: "OriginNotVerified" in plane.events(other))
        assert plane.builders.started == []
        assert plane.builders.secrets() == ["of-others", "pull"]

        # The pod may go once it was seen: it need not outlast the build, or the controller.
        plane.builders.held.set()
        own = automatic(plane, pod, "lab/gzip:1")
        apis.wait_until(lambda: plane.status(own).get("build", {}).get("verified"), seconds=60)
        plane.api.delete_pod("app-0")
        controller.stop()
        plane.controller()
        plane.builders.held.clear()
        status = plane.wait(own, "Ready")
        record = plane.reader.cache(status["imageCacheId"])
        assert record is not None
        assert record.namespaces == [plane.api.namespace]


@contextlib.contextmanager
def instance_of(loop: threads.Loop, host: str) -> Iterator[str]:
    """The API of Container Registry, with an instance whose registry is this one; its URL."""
    fake = acr.FakeAcr()
    fake.instances["cri-one"] = acr.Instance("one", domains=(host,))
    loop.run(fake.__aenter__())
    try:
        yield fake.url
    finally:
        loop.run(fake.__aexit__())


def with_account(path: pathlib.Path, url: str) -> pathlib.Path:
    """A cluster's own part of a Job: who the builders are at Alibaba Cloud."""
    variables = {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "id",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "key",
        "UIMGACC_ACR_ENDPOINT": url,
    }
    build = {
        "name": "build",
        "env": [{"name": name, "value": value} for name, value in variables.items()],
    }
    path.write_text(yaml.safe_dump({"spec": {"template": {"spec": {"containers": [build]}}}}))
    return path


def test_a_pod_of_alibabas_example_has_its_instance_of_acr_opened(
    plane, folder, tmp_path, api_loop
) -> None:
    """What the agent makes of it, what the controller and its builder make of that."""
    with (
        services.Registry(tmp_path / "r", users={"one": "password-1-of-cri-one"}) as server,
        instance_of(api_loop, server.address) as url,
    ):
        plane.server = server
        patch = with_account(folder / "job.yaml", url)
        plane.controller(f"--builder-patch={patch}", f"--plain-http={server.address}")
        asked = {
            "k8s.aliyun.com/eci-image-cache": "true",
            "k8s.aliyun.com/acr-instance-id": "cn-hangzhou:cri-one",
        }
        image = f"{server.address}/lab/gzip:1"
        node = plane.api.node(labels={"kubernetes.io/arch": "amd64"})
        body = plane.api.pod("app-0", node, image=image, annotations=asked)
        pod = pods.parse_pod(body)
        wanted = rules.decide(pod, annotations.request_of(pod), (), {}).auto_create
        assert wanted is not None

        key = cache_object.Key("uimgacc.io", wanted.request.name)
        plane.made.append((rest_client.IMAGE_CACHES, key.name))
        plane.api.create(rest_client.IMAGE_CACHES, cache_requests.manifest_of(wanted.request, pod))

        status = plane.wait(key, "Ready")
    record = plane.reader.cache(status["imageCacheId"])
    assert record is not None
    assert (record.id, record.namespaces) == (wanted.cache_id, [plane.api.namespace])
