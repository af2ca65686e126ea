"""Mirrors: which host is asked for what, what it gets, and what follows when it fails.

`mirror` and `upstream` are two real servers; the image's name is of a registry that is neither.
"""

import asyncio
import base64
import contextlib
import dataclasses
import json
import pathlib

import pytest
from aiohttp import web

from agent.clients.registry import (
    authorized_requests,
    connections,
    credentials,
    distribution,
    failures,
    host_rounds,
)
from agent.clients.registry import tag_push as pushing
from agent.clients.registry.mirrors import mirror_folder
from agent.kits import networks
from agent.model import images, oci
from tests.fakes import registry as fakes

REGISTRY = "registry.test"
DATA = b"layer" * 1000
MANIFEST = b'{"schemaVersion": 2}'


@pytest.fixture
async def mirror():
    async with fakes.FakeRegistry() as server:
        yield server


@pytest.fixture
async def upstream():
    async with fakes.FakeRegistry() as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@dataclasses.dataclass
class World:
    """The folder that says who is asked for images of REGISTRY."""

    folder: pathlib.Path

    def hosts(self, text: str, registry: str = REGISTRY) -> None:
        (self.folder / registry).mkdir(parents=True, exist_ok=True)
        (self.folder / registry / "hosts.toml").write_text(text)

    def usual(self, mirror, upstream, *, fields: str = "") -> None:
        """First the mirror, then the registry."""
        self.hosts(f'server = "http://{upstream.host}"\n[host."http://{mirror.host}"]\n{fields}\n')

    @contextlib.asynccontextmanager
    async def client(self, provider=None, kind=distribution.Client, **changes):
        values = {"delays": (0.01,), "deadline": 1.0, "read_timeout": 10.0, "host_timeout": 10.0}
        options = connections.Options(mirrors=(self.folder,), **{**values, **changes})
        async with kind(provider or credentials.Chain(()), options) as client:
            yield client


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "certs.d")


def reference(rest: str = "team/app:1", registry: str = REGISTRY) -> images.Reference:
    return images.parse_reference(f"{registry}/{rest}")


async def read(client, name: str, size: int = len(DATA)) -> bytes:
    return b"".join([chunk async for chunk in client.blob(reference(), name, size)])


def secrets(**hosts: str) -> credentials.DockerConfig:
    auths = {
        host: {"username": user, "password": f"{user}'s password"} for host, user in hosts.items()
    }
    return credentials.DockerConfig(json.dumps({"auths": auths}).encode(), source="a file")


async def test_the_mirror_is_asked_and_the_registry_is_left_alone(world, mirror, upstream) -> None:
    digest = mirror.add_manifest(MANIFEST, oci.ACCEPT.split(",")[0], "1")
    world.usual(mirror, upstream)

    async with world.client() as client:
        assert (await client.manifest(reference())).digest == digest
        assert await read(client, mirror.add_blob(DATA)) == DATA

    assert upstream.requests == []


async def test_a_mirror_is_told_whose_images_are_wanted(world, mirror, upstream) -> None:
    upstream.add_manifest(MANIFEST, "x", "1")
    world.usual(mirror, upstream)

    async with world.client() as client:
        await client.manifest(reference())

    assert mirror.paths == ["/v2/team/app/manifests/1?ns=registry.test"]
    # It is another host than the registry's name says, too.
    assert upstream.paths == ["/v2/team/app/manifests/1?ns=registry.test"]


async def test_the_registry_itself_is_not_told(world, upstream) -> None:
    world.hosts(f'[host."http://{upstream.host}"]\n', upstream.host.replace(":", "_") + "_")
    upstream.add_manifest(MANIFEST, "x", "1")

    async with world.client() as client:
        await client.manifest(reference(registry=upstream.host))

    assert upstream.paths == ["/v2/team/app/manifests/1"]


@pytest.mark.parametrize("override", [True, False])
async def test_a_path_before_the_repository(world, mirror, override) -> None:
    """As Harbor's proxy caches need it."""
    mirror.add_manifest(MANIFEST, "x", "1")
    fields = "override_path = true" if override else ""
    world.hosts(f'server = "http://{mirror.host}/v2/hub"\n{fields}\n')

    async with world.client() as client:
        await client.manifest(reference())

    root = "/v2/hub" if override else "/v2/hub/v2"
    assert mirror.paths == [f"{root}/team/app/manifests/1?ns=registry.test"]


async def test_a_repository_is_rewritten_for_the_mirror_alone(world, mirror, upstream) -> None:
    upstream.add_manifest(MANIFEST, "x", "1")
    rewrite = f'[host."http://{mirror.host}".rewrite]\n"^team/(.*)" = "copies/$1"'
    world.usual(mirror, upstream, fields=rewrite)

    async with world.client() as client:
        await client.manifest(reference())

    assert mirror.paths == ["/v2/copies/app/manifests/1?ns=registry.test"]
    assert upstream.paths == ["/v2/team/app/manifests/1?ns=registry.test"]


async def test_who_is_not_believed_about_tags_is_asked_for_digests_only(
    world, mirror, upstream
) -> None:
    digest = upstream.add_manifest(MANIFEST, "x", "1")
    mirror.add_manifest(b"{}", "x", "1")
    mirror.add_manifest(MANIFEST, "x")
    world.usual(mirror, upstream, fields='capabilities = ["pull"]')

    async with world.client() as client:
        assert (await client.manifest(reference())).digest == digest
        assert mirror.requests == []
        assert (await client.manifest(reference(), digest)).data == MANIFEST

    assert len(upstream.requests) == len(mirror.requests) == 1


async def test_no_host_that_may_be_asked_is_said(world, mirror) -> None:
    world.hosts(f'server = "http://{mirror.host}"\ncapabilities = ["pull"]\n')

    async with world.client() as client:
        with pytest.raises(failures.NoHost, match=r"registry.test .*hosts.toml"):
            await client.manifest(reference())


@pytest.mark.parametrize(
    "fault",
    [fakes.status(404), fakes.status(500), fakes.status(503), fakes.status(429, Retry_After="60"),
     fakes.status(403), fakes.status(418), fakes.other_bytes(b"<html>"), fakes.cut_after(3)],
    ids=["404", "500", "503", "429", "403", "418", "other bytes", "cut"],
)  # fmt: skip
async def test_a_mirror_that_fails_is_left_for_the_registry(
    world, mirror, upstream, fault, caplog
) -> None:
    digest = upstream.add_manifest(MANIFEST, "x")
    mirror.add_manifest(MANIFEST, "x")
    mirror.faults[digest].append(fault)
    world.usual(mirror, upstream)

    async with world.client() as client:
        assert (await client.manifest(reference(), digest)).data == MANIFEST

    assert len(mirror.requests) == 1
    line = next(each for each in caplog.records if "the next one is asked" in each.message)
    assert (line.host, line.asked) == (mirror.host, f"manifest {digest}")
    assert line.reason


async def test_a_page_in_place_of_a_manifest_is_no_answer(world, mirror, upstream) -> None:
    digest = upstream.add_manifest(MANIFEST, "x", "1")
    mirror.add_manifest(b"<html>log in</html>", "text/html", "1")
    world.usual(mirror, upstream)

    async with world.client() as client:
        assert (await client.manifest(reference())).digest == digest


async def test_a_mirror_that_is_down_is_left_for_the_registry(world, mirror, upstream) -> None:
    digest = upstream.add_manifest(MANIFEST, "x")
    world.usual(mirror, upstream)
    await mirror.__aexit__()

    async with world.client() as client:
        assert (await client.manifest(reference(), digest)).data == MANIFEST


async def test_the_same_failure_is_a_warning_once(world, mirror, upstream, caplog) -> None:
    names = [upstream.add_blob(DATA), upstream.add_blob(b"other")]
    world.usual(mirror, upstream)

    async with world.client() as client:
        for name in names:
            await read(client, name, len(upstream.blobs[name].data))

    assert len(mirror.requests) == 2
    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    assert [each.host for each in warnings] == [mirror.host]


async def test_a_mirror_that_hangs_costs_one_wait(world, mirror, upstream) -> None:
    names = [upstream.add_blob(DATA + bytes([at])) for at in range(4)]
    for name in names:
        mirror.add_blob(upstream.blobs[name].data)
        mirror.faults[name].append(fakes.stall_after(0))
    hanging = asyncio.Event()

    async def hang(request, data):
        await hanging.wait()

    for name in names:
        mirror.faults[name] = [hang]
    world.usual(mirror, upstream)

    async with world.client(host_timeout=0.2, deadline=30.0) as client:
        for name in names:
            assert await read(client, name, len(DATA) + 1) == upstream.blobs[name].data

    assert len(mirror.requests) == 1


async def test_a_mirror_of_several_that_rests_is_asked_when_the_others_fail(
    world, mirror, upstream
) -> None:
    digest = mirror.add_manifest(MANIFEST, "x")
    mirror.faults[digest].append(fakes.cut_after(0))
    world.usual(mirror, upstream)

    async with world.client() as client:
        assert (await client.manifest(reference(), digest)).data == MANIFEST

    assert [len(upstream.requests), len(mirror.requests)] == [2, 2]


async def test_a_blob_goes_on_at_the_next_host(world, mirror, upstream) -> None:
    name = mirror.add_blob(DATA)
    upstream.add_blob(DATA)
    mirror.faults[name].append(fakes.cut_after(1000))
    world.usual(mirror, upstream)

    async with world.client() as client:
        assert await read(client, name) == DATA

    assert upstream.requests[0][2]["Range"] == "bytes=1000-"


async def test_a_blob_of_another_length_is_not_begun(world, mirror, upstream) -> None:
    name = upstream.add_blob(DATA)
    mirror.blobs[name] = fakes.Content(b"<html>log in</html>")
    world.usual(mirror, upstream)

    async with world.client() as client:
        assert await read(client, name) == DATA


async def test_who_gave_a_blob_wrongly_is_asked_last_for_it(world, mirror, upstream) -> None:
    name = upstream.add_blob(DATA)
    mirror.blobs[name] = fakes.Content(bytes(len(DATA)))
    world.usual(mirror, upstream)

    async with world.client() as client:
        assert await read(client, name) == bytes(len(DATA))
        assert client.distrust(reference(), name)
        assert await read(client, name) == DATA
        assert not client.distrust(reference(), name)
        # Of another blob it may be right.
        other = mirror.add_blob(b"other")
        assert await read(client, other, 5) == b"other"


async def test_when_all_fail_each_hosts_reason_is_said(world, mirror, upstream) -> None:
    upstream.user = "alice:secret"
    world.usual(mirror, upstream)

    async with world.client() as client:
        with pytest.raises(failures.AccessDenied) as caught:
            await client.manifest(reference())

    assert f"{mirror.host}: does not have it (404)" in str(caught.value)
    assert f"{upstream.host}: refuses (401)" in str(caught.value)
    assert str(reference()) in str(caught.value)


async def test_an_image_that_no_host_has_is_unknown(world, mirror, upstream) -> None:
    world.usual(mirror, upstream)

    async with world.client() as client:
        with pytest.raises(failures.ImageUnknown) as caught:
            await client.manifest(reference())

    assert str(caught.value).count("404") == 2


async def test_hosts_that_may_come_back_are_asked_until_the_deadline(
    world, mirror, upstream
) -> None:
    digest = mirror.add_manifest(MANIFEST, "x")
    mirror.faults[digest] += [fakes.status(503)] * 3
    upstream.manifests[digest] = fakes.Content(MANIFEST)
    upstream.faults[digest] += [fakes.status(502)] * 100
    world.usual(mirror, upstream)

    async with world.client(deadline=30.0) as client:
        assert (await client.manifest(reference(), digest)).data == MANIFEST


async def test_at_the_deadline_each_hosts_reason_is_said(world, mirror, upstream) -> None:
    digest = mirror.add_manifest(MANIFEST, "x")
    mirror.faults[digest] += [fakes.status(503)] * 1000
    world.usual(mirror, upstream)
    await upstream.__aexit__()

    async with world.client(deadline=0.3) as client:
        with pytest.raises(failures.RegistryUnreachable) as caught:
            await client.manifest(reference(), digest)

    assert f"{mirror.host}: status 503" in str(caught.value)
    assert f"{upstream.host}: Cannot connect" in str(caught.value)


async def test_a_dead_mirror_is_not_waited_for_long_once_the_registry_says_no(
    world, mirror, upstream, monkeypatch
) -> None:
    monkeypatch.setattr(host_rounds, "_DECIDED_SECONDS", 0.1)
    world.usual(mirror, upstream)
    await mirror.__aexit__()

    async with world.client(deadline=1000.0) as client:
        with pytest.raises(failures.RequestRefused) as caught:
            await client.manifest(reference())

    assert f"{upstream.host}: does not have it" in str(caught.value)
    assert f"{mirror.host}: Cannot connect" in str(caught.value)


async def test_a_registry_that_is_never_reached_is_not_waited_for_each_time(
    world, mirror, upstream, monkeypatch
) -> None:
    """The mirror has not got it, and that is all that can be known."""
    monkeypatch.setattr(host_rounds, "_DECIDED_SECONDS", 0.1)
    world.usual(mirror, upstream)
    await upstream.__aexit__()

    async with world.client(deadline=1000.0) as client:
        with pytest.raises(failures.RequestRefused, match="does not have it"):
            await client.manifest(reference())
        monkeypatch.setattr(host_rounds, "_DECIDED_SECONDS", 1000.0)
        with pytest.raises(failures.RequestRefused, match="does not have it"):
            await client.manifest(reference("team/app:2"))


@pytest.mark.parametrize("bearer", [False, True])
async def test_the_registrys_password_is_not_sent_to_a_mirror(
    world, mirror, upstream, bearer
) -> None:
    digest = upstream.add_manifest(MANIFEST, "x", "1")
    mirror.user = "alice:alice's password"
    mirror.bearer = bearer
    world.usual(mirror, upstream)

    async with world.client(secrets(**{REGISTRY: "alice"})) as client:
        assert (await client.manifest(reference())).digest == digest

    assert mirror.requests
    assert mirror.passwords() == []


async def test_a_mirror_gets_its_own_password(world, mirror, upstream) -> None:
    mirror.add_manifest(MANIFEST, "x", "1")
    mirror.user = "bob:bob's password"
    world.usual(mirror, upstream)

    async with world.client(secrets(**{REGISTRY: "alice", mirror.host: "bob"})) as client:
        await client.manifest(reference())

    assert len(mirror.passwords()) == 1


async def test_a_password_may_be_for_one_project_of_a_mirror(world, mirror, upstream) -> None:
    mirror.add_manifest(MANIFEST, "x", "1")
    mirror.user = "bob:bob's password"
    world.hosts(f'server = "http://{mirror.host}/v2/hub"\noverride_path = true\n')

    own = {f"{mirror.host}/hub": "bob", f"{mirror.host}/other": "alice"}
    async with world.client(secrets(**own)) as client:
        await client.manifest(reference())

    assert len(mirror.passwords()) == 1


async def test_a_user_of_registries_yaml_is_for_its_host(world, mirror, upstream) -> None:
    mirror.add_manifest(MANIFEST, "x", "1")
    mirror.user = "bob:bobs"
    configs = {mirror.host: {"auth": {"username": "bob", "password": "bobs"}}}
    mirrors = {REGISTRY: {"endpoint": [f"http://{mirror.host}"]}}
    world.folder.mkdir()
    content = json.dumps({"mirrors": mirrors, "configs": configs})
    (world.folder / "registries.yaml").write_text(content)

    async with world.client() as client:
        await client.manifest(reference())


async def test_a_header_is_for_its_host_and_its_token_endpoint(world, mirror, upstream) -> None:
    name = mirror.add_blob(DATA)
    upstream.add_blob(DATA)
    mirror.user, mirror.bearer = "bob:bob's password", True
    # No challenge is answered twice: the fault is for the request with the token.
    mirror.faults[name].append(fakes.redirect(f"http://{upstream.host}/elsewhere/{name}"))
    header = (
        f'[host."http://{mirror.host}".header]\nx-team = ["a", "b"]\n'
        f'authorization = "Basic {base64.b64encode(mirror.user.encode()).decode()}"'
    )
    world.usual(mirror, upstream, fields=header)

    async with world.client() as client:
        assert await read(client, name) == DATA

    assert mirror.values["x-team"] == [["a", "b"]] * len(mirror.requests)
    assert mirror.token_requests[0]["authorization"].startswith("Basic ")
    assert upstream.requests[0][0] == "elsewhere"
    assert upstream.passwords() == []
    assert "x-team" not in upstream.requests[0][2]


async def test_plain_http_of_a_cache_is_not_for_hosts_that_a_file_names(world, mirror) -> None:
    mirror.add_manifest(MANIFEST, "x", "1")
    world.hosts(f'server = "https://{mirror.host}"\n')

    async with world.client(plain_http=frozenset({REGISTRY, mirror.host}), deadline=0.2) as client:
        with pytest.raises(failures.RequestRefused, match="does not speak TLS"):
            await client.manifest(reference())


async def test_but_for_the_registry_itself(world, mirror, upstream) -> None:
    upstream.add_manifest(MANIFEST, "x", "1")
    world.hosts(f'[host."http://{mirror.host}"]\n', upstream.host)

    async with world.client(plain_http=frozenset({upstream.host})) as client:
        assert (await client.manifest(reference(registry=upstream.host))).data == MANIFEST


async def test_http_with_tls_settings_is_tried_with_tls_first(world, mirror) -> None:
    mirror.add_manifest(MANIFEST, "x", "1")
    world.hosts(f'server = "http://{mirror.host}"\nskip_verify = true\n')

    async with world.client() as client:
        assert (await client.manifest(reference())).data == MANIFEST
        assert await read(client, mirror.add_blob(DATA)) == DATA


async def test_a_mirror_may_be_where_builds_connect_to_nothing(world, mirror, upstream) -> None:
    """Who runs the cluster names it; the same host in an image's name is not allowed by that."""
    mirror.add_manifest(MANIFEST, "x", "1")
    world.hosts(f'server = "http://{mirror.host}"\n')
    loopback = networks.parse(networks.OWN_HOST)

    async with world.client(denied=loopback, plain_http=frozenset({mirror.host})) as client:
        assert (await client.manifest(reference())).data == MANIFEST
        with pytest.raises(failures.AddressDenied):
            await client.manifest(reference(registry=mirror.host))


async def test_nor_what_a_mirror_redirects_to(world, mirror, upstream) -> None:
    name = mirror.add_blob(DATA)
    mirror.faults[name].append(fakes.redirect(f"http://{upstream.host}/elsewhere/{name}"))
    world.hosts(f'server = "http://{mirror.host}"\n')

    async with world.client(denied=networks.parse(networks.OWN_HOST)) as client:
        with pytest.raises(failures.AddressDenied):
            await read(client, name)


def described(name: str) -> oci.Descriptor:
    return oci.Descriptor(media_type="application/octet-stream", digest=name, size=len(DATA))


async def test_what_a_mirror_gives_to_everybody_is_not_public_by_that(
    world, mirror, upstream
) -> None:
    name = mirror.add_blob(DATA)
    world.usual(mirror, upstream)

    async with world.client() as client:
        await read(client, name)

        assert not await client.is_public(reference(), described(name), ask=True)


@pytest.mark.parametrize("is_open", [True, False])
async def test_whether_it_is_the_registry_itself_says(world, mirror, upstream, is_open) -> None:
    name = mirror.add_blob(DATA)
    upstream.add_blob(DATA)
    upstream.user = "" if is_open else "alice:secret"
    # Without a server the registry itself comes last.
    world.hosts(f'[host."http://{mirror.host}"]\n', upstream.host)
    own = reference(registry=upstream.host)

    async with world.client(plain_http=frozenset({upstream.host})) as client:
        assert b"".join([each async for each in client.blob(own, name, len(DATA))]) == DATA
        assert upstream.requests == []

        assert await client.is_public(own, described(name), ask=True) is is_open


async def test_what_needs_a_header_is_not_public(world, upstream) -> None:
    name = upstream.add_blob(DATA)
    world.hosts('[header]\nx-team = "a"\n', upstream.host)
    own = reference(registry=upstream.host)

    async with world.client(plain_http=frozenset({upstream.host})) as client:
        assert b"".join([each async for each in client.blob(own, name, len(DATA))]) == DATA

        assert not await client.is_public(own, described(name), ask=True)


async def test_a_mirror_may_give_what_it_is_asked_about(world, mirror, upstream) -> None:
    world.usual(mirror, upstream)

    async with world.client() as client:
        assert await client.gives(reference(), mirror.add_blob(DATA))
        assert await client.gives(reference(), upstream.add_blob(b"other"))
        assert not await client.gives(reference(), fakes.digest(b"nowhere"))


async def test_lists_of_referrers_come_from_who_has_them(world, mirror, upstream) -> None:
    subject = fakes.digest(MANIFEST)
    mirror.referrers[subject] = fakes.Content(b"{}")
    upstream.referrers[subject] = fakes.Content(b'{"a": 1}')
    world.usual(mirror, upstream, fields='capabilities = ["pull", "resolve"]')

    async with world.client() as client:
        assert (await client.referrers(reference(), subject)).data == b'{"a": 1}'


async def test_and_where_these_are_down_from_who_is_believed(world, mirror, upstream) -> None:
    """In a cluster that reaches the mirror alone, with files from before the capability."""
    subject = fakes.digest(MANIFEST)
    mirror.referrers[subject] = fakes.Content(b"{}")
    world.usual(mirror, upstream, fields='capabilities = ["pull", "resolve"]')
    await upstream.__aexit__()

    async with world.client() as client:
        assert (await client.referrers(reference(), subject)).data == b"{}"


async def test_a_name_is_pushed_to_the_first_host_that_takes_it(world, mirror, upstream) -> None:
    mirror.add_manifest(MANIFEST, "x", "1")
    pushed = []

    async def take(request):
        pushed.append((request.method, request.path_qs))
        return web.Response(status=201)

    async with fakes.serving({"/v2/{rest:.*}": take}) as target:
        world.hosts(
            f'server = "http://{target}"\n[host."http://{mirror.host}"]\n'
            'capabilities = ["pull", "resolve"]\n'
        )
        async with world.client(kind=pushing.Client) as client:
            await client.alias(reference(), reference("team/app:2"))

    assert pushed == [("PUT", "/v2/team/app/manifests/2?ns=registry.test")]


async def test_a_folder_that_may_not_be_read_is_said(world, tmp_path, monkeypatch) -> None:
    world.hosts("")

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    async with world.client() as client:
        with pytest.raises(mirror_folder.MirrorsUnusable, match="may not read it; give the files"):
            await client.manifest(reference())


async def test_files_that_change_are_read_again(world, mirror, upstream, monkeypatch) -> None:
    """A controller's client lives for weeks, and the kubelet replaces mounted files."""
    monkeypatch.setattr(authorized_requests, "_HOSTS_SECONDS", 0.0)
    mirror.add_manifest(MANIFEST, "x", "1")
    upstream.add_manifest(MANIFEST, "x", "1")
    world.hosts(f'server = "http://{upstream.host}"\n')

    async with world.client() as client:
        await client.manifest(reference())
        world.usual(mirror, upstream)
        await client.manifest(reference())

    assert [len(upstream.requests), len(mirror.requests)] == [1, 1]


async def test_a_missing_authority_is_that_hosts_failure(world, mirror, upstream) -> None:
    digest = upstream.add_manifest(MANIFEST, "x", "1")
    world.hosts(
        f'server = "http://{upstream.host}"\n[host."https://{mirror.host}"]\nca = "gone.crt"\n'
    )

    async with world.client() as client:
        assert (await client.manifest(reference())).digest == digest


async def test_a_broken_registries_yaml_is_an_error(world) -> None:
    world.folder.mkdir()
    (world.folder / "registries.yaml").write_text("mirrors: [1")

    async with world.client() as client:
        with pytest.raises(mirror_folder.MirrorsUnusable, match=r"registries.yaml: line 1"):
            await client.manifest(reference())
