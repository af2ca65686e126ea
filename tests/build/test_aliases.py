"""Another name for an image, at a registry that is real: who pulls it gets the same image."""

import base64
import contextlib
import json
import shutil

import pytest

from agent.clients.registry import (
    challenges,
    connections,
    credentials,
    distribution,
    failures,
    tag_push,
)
from agent.model import images
from lab import services
from lab.samples import pushing, tars
from lab.web import registries

pytestmark = pytest.mark.skipif(
    not registries.catalogue() or shutil.which("docker-registry") is None,
    reason="needs the lab's images: run the lab's setup",
)
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Alice:
    """Who may do everything."""

    async def credentials(self, reference: images.Reference):
        return [credentials.Credential("a test", "alice", "secret")]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registries")
    with (
        services.Registry(folder / "a", storage=folder / "sa", users={"alice": "secret"}) as one,
        services.Registry(folder / "b", storage=folder / "sb", users={"alice": "secret"}) as two,
    ):
        yield one, two


def options(*servers) -> connections.Options:
    hosts = frozenset(server.address for server in servers)
    return connections.Options(plain_http=hosts, delays=(0.01,), deadline=30.0)


def reference(server, rest: str) -> images.Reference:
    return images.parse_reference(f"{server.address}/{rest}")


class Pusher(pushing.Pusher):
    """The lab's, with a password."""

    def request(self, method, path, body, headers, expected) -> None:
        allowed = {"Authorization": "Basic " + base64.b64encode(b"alice:secret").decode()}
        super().request(method, path, body, {**headers, **allowed}, expected)


@contextlib.contextmanager
def pusher(server):
    with contextlib.closing(Pusher(server.address)) as made:
        yield made


def manifest(server, repository: str, name: str) -> bytes:
    return server.get(f"{repository}/manifests/{name}", accept=f"{INDEX}, {MANIFEST}")


def push(server, name: str) -> pushing.Layer:
    """An image with a layer that no other has."""
    layer = pushing.layer([tars.file("file", name.encode())])
    with pusher(server) as to:
        to.image(name, "1", [layer])
    return layer


async def alias(
    servers, source: images.Reference, target: images.Reference
) -> distribution.Manifest:
    async with tag_push.Client(Alice(), options(*servers)) as client:
        return await client.alias(source, target)


async def test_a_tag_beside_it_is_one_request(servers) -> None:
    one, _ = servers
    push(one, "team/beside")
    mark = one.mark()

    found = await alias(servers, reference(one, "team/beside:1"), reference(one, "team/beside:acc"))

    assert manifest(one, "team/beside", "acc") == found.data
    assert [each.kind for each in one.requests(mark) if each.method == "PUT"] == ["manifests"]


async def test_blobs_are_mounted_into_another_repository(servers) -> None:
    one, _ = servers
    layer = push(one, "team/original")
    mark = one.mark()

    await alias(servers, reference(one, "team/original:1"), reference(one, "other/target:acc"))

    asked = one.requests(mark)
    assert not [each for each in asked if each.kind == "blobs" and each.method != "POST"]
    assert one.get(f"other/target/blobs/{layer.digest}")
    assert manifest(one, "other/target", "acc") == manifest(one, "team/original", "1")


async def test_blobs_are_carried_to_another_registry(servers) -> None:
    one, two = servers
    layer = push(one, "team/far")

    await alias(servers, reference(one, "team/far:1"), reference(two, "team/far:acc"))

    assert two.get(f"team/far/blobs/{layer.digest}") == one.get(f"team/far/blobs/{layer.digest}")
    assert manifest(two, "team/far", "acc") == manifest(one, "team/far", "1")


async def test_an_index_comes_with_all_its_images(servers) -> None:
    one, two = servers
    described = []
    with pusher(one) as to:
        for name in ("amd64", "arm64"):
            layer = pushing.layer([tars.file("file", name.encode())])
            pushed = to.image("team/index", name, [layer], architecture=name)
            platform = {"os": "linux", "architecture": name}
            each = pushing.descriptor(pushed.media_type, pushed.digest, pushed.size)
            described.append({**each, "platform": platform})
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": described}
        to.manifest("team/index", "1", body)

    found = await alias(servers, reference(one, "team/index:1"), reference(two, "other/index:acc"))

    assert found.media_type == INDEX
    for each in described:
        assert manifest(two, "other/index", each["digest"])
    async with tag_push.Client(Alice(), options(*servers)) as client:
        assert await client.layers(reference(two, "other/index:acc")) == 1


async def test_what_is_not_there_is_said(servers) -> None:
    one, _ = servers
    push(one, "team/there")

    with pytest.raises(failures.ImageUnknown, match="team/missing"):
        await alias(servers, reference(one, "team/missing:1"), reference(one, "team/missing:acc"))


async def test_who_may_not_push_is_told(servers, tmp_path) -> None:
    source = reference(servers[0], "team/original:1")
    with services.Registry(tmp_path) as readonly:
        target = reference(readonly, "lab/target:acc")
        with pytest.raises(failures.RequestRefused, match="405"):
            await alias((*servers, readonly), source, target)


class Tokens:
    """A token endpoint that gives to whoever asks."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def __call__(self, url, *, headers, form):
        assert headers["Authorization"].startswith("Basic ")
        self.scopes.append(url.partition("scope=")[2])
        return 200, json.dumps({"token": f"token-{len(self.scopes)}"}).encode()


async def test_who_could_pull_is_asked_for_again_when_it_comes_to_pushing() -> None:
    tokens = Tokens()
    authorizer = challenges.Authorizer(Alice(), tokens)
    image = images.parse_reference("r.io/app:1")

    def challenge(actions: str) -> challenges.Challenge:
        text = f'Bearer realm="https://auth",scope="repository:app:{actions}"'
        return challenges.parse(text, secure=True)

    for actions in ("pull", "pull,push"):
        ticket = await authorizer.ticket(image)
        assert await authorizer.renew(image, ticket, challenge(actions))

    ticket = await authorizer.ticket(image)
    assert ticket.headers == {"Authorization": "Bearer token-2"}
    assert tokens.scopes == ["repository:app:pull", "repository:app:pull,push"]
