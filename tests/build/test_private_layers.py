"""Whose layer is it? Two tenants with registries of their own build into one store."""

import asyncio
import base64
import collections
import contextlib
import dataclasses
import gzip
import json
import pathlib
import shutil

import msgspec
import pytest

from agent import errors
from agent.build import cache_build, layer_build
from agent.build.tar import inheritance
from agent.clients.registry import connections, failures
from agent.model import images, records
from agent.roles import builder
from agent.store import integrity, layout
from agent.store.lookup import direct_reader
from agent.store.publish import layer_writer, source_migration, writer
from lab import services
from lab.samples import pushing, tars
from lab.web import registries
from tests.fakes import registry as fakes

pytestmark = pytest.mark.skipif(
    not registries.catalogue() or shutil.which("docker-registry") is None,
    reason="needs the lab's images: run the lab's setup",
)

BASE = pushing.layer([tars.folder("etc"), tars.file("etc/secret", b"of the victim" * 999)])
TOP = pushing.layer([tars.file("app", b"one" * 999)])
OTHER_TOP = pushing.layer([tars.file("app", b"two" * 999)])
PLAIN = "application/vnd.oci.image.layer.v1.tar"
IMPLYING = pushing.layer([tars.file("etc/passwd", b"implies etc")])
"""A layer that has a variant: it puts a file into a folder that it does not name."""


class Tenant:
    """A person with a registry that only they may read."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.storage = self.folder / "storage"
        password = f"password of {name}"
        self.server = services.Registry(
            self.folder / "registry", storage=self.storage, users={name: password}, readonly=True
        )
        auth = base64.b64encode(f"{name}:{password}".encode()).decode()
        self.config = self.folder / "config.json"
        self.config.write_text(json.dumps({"auths": {self.server.address: {"auth": auth}}}))

    def push(self, name: str, *layers: pushing.Layer) -> None:
        """Push an image, by a second server over the same storage that asks for no password."""
        repository, _, tag = name.partition(":")
        with (
            services.Registry(self.folder / "pushing", storage=self.storage) as server,
            contextlib.closing(pushing.Pusher(server.address)) as pusher,
        ):
            pusher.image(repository, tag, layers)

    def requests(self, mark: int) -> collections.Counter[tuple[str, str]]:
        """How often each layer was asked for since a mark, by method and digest."""
        layers = {each.digest for each in (BASE, TOP, OTHER_TOP, IMPLYING)}
        return collections.Counter(
            (request.method, request.reference)
            for request in self.server.requests(mark)
            if request.kind == "blobs" and request.reference in layers and request.status < 400
        )


@pytest.fixture
def place(tmp_path) -> layout.Layout:
    writer.create(tmp_path / "store")
    return layout.Layout(tmp_path / "store")


@pytest.fixture
def victim(tmp_path):
    tenant = Tenant(tmp_path, "alice")
    tenant.push("team/app:1", BASE, TOP)
    tenant.push("team/app:2", BASE, OTHER_TOP)
    tenant.push("other/app:1", BASE, OTHER_TOP)
    tenant.push("team/implying:1", BASE, IMPLYING)
    with tenant.server:
        yield tenant


@pytest.fixture
def attacker(tmp_path):
    return Tenant(tmp_path, "mallory")


def build(place: layout.Layout, tenant: Tenant, *names: str, **more) -> records.CacheRecord:
    host = tenant.server.address
    return asyncio.run(build_from(place, host, *names, config=tenant.config, **more))


async def build_from(
    place: layout.Layout,
    host: str,
    *names: str,
    config=None,
    cache_id: str = "imc-test",
    others: tuple[str, ...] = (),
) -> records.CacheRecord:
    """Build images of a host, and `others` with theirs."""
    hosts = {host, *(each.partition("/")[0] for each in others)}
    options = connections.Options(plain_http=frozenset(hosts), delays=(0.01,), deadline=10.0)
    named = (*(f"{host}/{name}" for name in names), *others)
    request = cache_build.Request(
        cache_id=cache_id,
        name="test",
        references=tuple(map(images.parse_reference, named)),
        platforms=(builder.own_platform(),),
        capacity=1 << 30,
    )
    configs = () if config is None else (config,)
    settings = builder.Settings(store=place.root, registries=options, docker_configs=configs)
    return await builder.build(settings, request)


def junk_for(layer: pushing.Layer) -> pushing.Layer:
    """What the attacker pushes in place of a layer that they do not have."""
    content = b"junk in place of " + layer.diff_id.encode()
    return dataclasses.replace(
        layer, content=content, digest=pushing.sha256(content), size=len(content)
    )


def record_of(place: layout.Layout, layer: pushing.Layer) -> records.LayerRecord:
    record = direct_reader.Reader(place).layer(layer.diff_id)
    assert record is not None
    return record


def without_sources(place: layout.Layout) -> None:
    """Make all layer records those of an earlier version."""
    for path in place.layer_records.glob("*/*.json"):
        record = json.loads(path.read_bytes())
        del record["sources"], record["public"]
        path.write_text(json.dumps(record))


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "of an earlier version"])
def test_an_image_that_names_the_diff_ids_of_another_gets_no_cache(
    place, victim, attacker, is_old
) -> None:
    build(place, victim, "team/app:1", cache_id="imc-victim")
    if is_old:
        without_sources(place)
    before = [record_of(place, layer) for layer in (BASE, TOP)]
    attacker.push("my/app:1", junk_for(BASE), junk_for(TOP))

    with attacker.server, pytest.raises(errors.PermanentError):
        build(place, attacker, "my/app:1", cache_id="imc-attacker")

    reader = direct_reader.Reader(place)
    assert reader.cache("imc-attacker") is None
    assert reader.image(images.parse_reference(f"{attacker.server.address}/my/app:1")) is None
    assert [record_of(place, layer) for layer in (BASE, TOP)] == before


@pytest.mark.parametrize("is_implying", [False, True], ids=["plain", "variant"])
async def test_a_registry_that_lies_about_what_it_has_gets_no_layer(
    place, victim, is_implying
) -> None:
    """It has a manifest with the true blob digests, and says yes to each HEAD."""
    top, name = (IMPLYING, "team/implying:1") if is_implying else (TOP, "team/app:1")
    await build_from(place, victim.server.address, name, config=victim.config)
    async with LyingRegistry() as fake:
        fake.add_lie([BASE, top], "1")

        with pytest.raises((failures.ImageUnknown, failures.RequestRefused)):
            await build_from(place, fake.host, "my/app:1", cache_id="imc-attacker")

    assert direct_reader.Reader(place).cache("imc-attacker") is None
    assert record_of(place, BASE).sources == [f"{victim.server.address}/{name.partition(':')[0]}"]


async def test_a_registry_that_gave_one_layer_is_not_believed_about_another(place, victim) -> None:
    await build_from(place, victim.server.address, "team/app:1", config=victim.config)
    async with LyingRegistry() as fake:
        fake.add_image([fakes.tar(own=b"own")], "1")
        own = await build_from(place, fake.host, "my/app:1", cache_id="imc-own")
        fake.add_lie([BASE], "2")

        with pytest.raises((failures.ImageUnknown, failures.RequestRefused)):
            await build_from(place, fake.host, "my/app:2", cache_id="imc-attacker")

    assert own.images
    assert f"{fake.host}/my/app" not in (record_of(place, BASE).sources or ())


async def test_a_registry_is_not_believed_about_a_layer_that_another_gave_to_the_same_build(
    place, victim
) -> None:
    """The images of one cache may be of two vendors; this one's HEADs need no credentials."""
    async with LyingRegistry() as fake:
        fake.add_lie([BASE, TOP], "1")

        with pytest.raises((failures.ImageUnknown, failures.RequestRefused)):
            await build_from(
                place,
                victim.server.address,
                "team/app:1",
                config=victim.config,
                others=(f"{fake.host}/my/app:1",),
            )

    base = record_of(place, BASE)
    assert (base.sources, base.public) == ([f"{victim.server.address}/team/app"], False)


@pytest.mark.parametrize("is_damaged", [False, True], ids=["variant", "replaced"])
def test_the_text_that_a_layer_file_is_named_after_is_no_proof_of_the_layer(
    place, victim, attacker, monkeypatch, is_damaged
) -> None:
    """Such names are hashes too, of a text that has nothing secret in it: pushed as a layer, it has
    the name as its diff ID."""
    texts: list[bytes] = []
    digest_of = inheritance._digest
    monkeypatch.setattr(
        inheritance, "_digest", lambda text: (texts.append(text.encode()), digest_of(text))[1]
    )
    build(place, victim, "team/implying:1", cache_id="imc-victim")
    if is_damaged:
        place.layer(IMPLYING.diff_id).write_bytes(b"damage")
        layer_writer.mark_damaged(place, IMPLYING.diff_id, "a test")
        build(place, victim, "team/implying:1", cache_id="imc-victim")
        texts = [f"{IMPLYING.diff_id} replaced 1".encode()]
    text, *_ = (each for each in texts if place.layer(pushing.sha256(each)).exists())
    name = pushing.sha256(text)
    before = direct_reader.Reader(place).layer(name)
    assert before is not None
    attacker.push("my/app:1", pushing.Layer(text, name, len(text), name, 0, PLAIN))

    with attacker.server, pytest.raises(errors.PermanentError):
        build(place, attacker, "my/app:1", cache_id="imc-attacker")

    assert direct_reader.Reader(place).layer(name) == before


class LyingRegistry(fakes.FakeRegistry):
    """Says yes to every HEAD."""

    def add_lie(self, layers: list[pushing.Layer], tag: str) -> None:
        """An image of layers of which there is nothing but what the whole world knows."""
        config = {
            "os": "linux",
            "architecture": builder.own_platform().architecture,
            "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{fakes.OCI}.manifest.v1+json",
            "config": self._described(json.dumps(config).encode(), f"{fakes.OCI}.config.v1+json"),
            "layers": [each.descriptor() for each in layers],
        }
        self.add_manifest(json.dumps(manifest).encode(), f"{fakes.OCI}.manifest.v1+json", tag)

    async def _get(self, request):
        if request.method == "HEAD":
            return fakes.answer(request, b"certainly")
        return await super()._get(request)


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "of an earlier version"])
def test_the_same_image_again_costs_one_head_a_layer(place, victim, is_old) -> None:
    build(place, victim, "team/app:1")
    if is_old:
        without_sources(place)
    mark = victim.server.mark()

    build(place, victim, "team/app:1", cache_id="imc-again")

    assert victim.requests(mark) == {("HEAD", BASE.digest): 1, ("HEAD", TOP.digest): 1}


def test_another_tag_costs_one_head_for_each_layer_that_is_there(place, victim) -> None:
    build(place, victim, "team/app:1")
    mark = victim.server.mark()

    build(place, victim, "team/app:2", cache_id="imc-again")

    assert victim.requests(mark) == {("HEAD", BASE.digest): 1, ("GET", OTHER_TOP.digest): 1}


def test_another_repository_proves_once_that_it_has_a_layer(place, victim) -> None:
    build(place, victim, "team/app:1")
    before = place.layer(BASE.diff_id).stat()
    mark = victim.server.mark()

    build(place, victim, "other/app:1", cache_id="imc-other")
    first = victim.requests(mark)
    mark = victim.server.mark()
    build(place, victim, "other/app:1", cache_id="imc-again")

    assert first == {("GET", BASE.digest): 1, ("GET", OTHER_TOP.digest): 1}
    assert victim.requests(mark) == {("HEAD", BASE.digest): 1, ("HEAD", OTHER_TOP.digest): 1}
    assert place.layer(BASE.diff_id).stat() == before
    host = victim.server.address
    assert record_of(place, BASE).sources == [f"{host}/team/app", f"{host}/other/app"]
    assert not record_of(place, BASE).public
    assert list(integrity.check(place)) == []


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "in the store"])
def test_a_second_name_of_an_image_in_the_same_cache_costs_heads_only(
    place, victim, is_there
) -> None:
    """As UCloud's API has it: an image, and the name in another repository that it was given."""
    victim.server.stop()
    victim.push("alias/app:1", BASE, TOP)
    victim.server.start()
    if is_there:
        build(place, victim, "team/app:1", cache_id="imc-before")
    mark = victim.server.mark()

    build(place, victim, "team/app:1", "alias/app:1")

    first = "HEAD" if is_there else "GET"
    expected = [(first, BASE.digest), (first, TOP.digest)]
    expected += [("HEAD", BASE.digest), ("HEAD", TOP.digest)]
    assert victim.requests(mark) == collections.Counter(expected)
    host = victim.server.address
    assert record_of(place, TOP).sources == [f"{host}/team/app", f"{host}/alias/app"]


def test_the_variant_of_a_layer_has_its_sources(place, victim) -> None:
    victim.server.stop()
    victim.push("other/implying:1", BASE, IMPLYING)
    victim.server.start()
    build(place, victim, "team/implying:1")
    build(place, victim, "other/implying:1", cache_id="imc-other")

    reader = direct_reader.Reader(place)
    host = victim.server.address
    image = reader.image(images.parse_reference(f"{host}/other/implying:1"))
    assert image is not None
    chain = reader.chain(image.platforms[0].layers[1].chain_id)
    assert chain is not None
    assert chain.variant_of == IMPLYING.diff_id
    variant, plain = (
        record_of(place, dataclasses.replace(IMPLYING, diff_id=chain.diff_id)),
        (record_of(place, IMPLYING)),
    )
    assert variant.sources == plain.sources == [f"{host}/team/implying", f"{host}/other/implying"]


def test_a_public_layer_costs_no_request_and_proves_nothing(place, victim, tmp_path) -> None:
    storage = tmp_path / "public"
    with services.Registry(tmp_path / "pushing", storage=storage) as server:
        with contextlib.closing(pushing.Pusher(server.address)) as pusher:
            pusher.image("library/base", "1", [BASE])
        asyncio.run(build_from(place, server.address, "library/base:1", cache_id="imc-base"))
    blobs = record_of(place, BASE).blobs
    mark = victim.server.mark()

    build(place, victim, "team/app:1")

    assert victim.requests(mark) == {("GET", TOP.digest): 1}
    base = record_of(place, BASE)
    assert (base.public, base.sources, base.blobs) == (
        True,
        [f"{server.address}/library/base"],
        blobs,
    )
    assert not record_of(place, TOP).public


def test_an_unproven_blob_of_a_public_layer_is_not_recorded(
    place, victim, attacker, tmp_path
) -> None:
    """Else the record would send the registry's own builds to a blob that it does not have."""
    with services.Registry(tmp_path / "pushing", storage=tmp_path / "public") as server:
        with contextlib.closing(pushing.Pusher(server.address)) as pusher:
            pusher.image("library/base", "1", [BASE])
        asyncio.run(build_from(place, server.address, "library/base:1", cache_id="imc-base"))
    before = record_of(place, BASE)
    attacker.push("my/app:1", junk_for(BASE))

    with attacker.server:
        build(place, attacker, "my/app:1", cache_id="imc-attacker")

    assert record_of(place, BASE) == before


def test_a_layer_whose_registry_is_public_now_becomes_public(place, victim) -> None:
    build(place, victim, "team/app:1")
    victim.server.stop()
    victim.server.users = {}
    with victim.server:
        build(place, victim, "team/app:1", cache_id="imc-again")

    assert record_of(place, BASE).public


async def test_a_layer_that_needs_no_credentials_is_public_although_they_were_sent(
    place, tmp_path
) -> None:
    """As of Docker Hub, with an account there for its limits."""
    async with fakes.FakeRegistry() as fake:
        fake.user, fake.bearer, fake.anonymous = "alice:secret", True, True
        architecture = builder.own_platform().architecture
        fake.add_image([fakes.tar(base=b"base")], "1", architecture=architecture)
        auth = base64.b64encode(fake.user.encode()).decode()
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {fake.host: {"auth": auth}}}))

        record = await build_from(place, fake.host, "library/base:1", config=config)
        fake.anonymous = False
        fake.add_image([fakes.tar(private=b"private")], "2", architecture=architecture)
        other = await build_from(
            place, fake.host, "team/app:2", config=config, cache_id="imc-other"
        )

    reader = direct_reader.Reader(place)
    public, private = (reader.layer(one.images[0].layers[0]) for one in (record, other))
    assert public is not None
    assert private is not None
    assert (public.public, private.public) == (True, False)


def test_a_private_registry_is_asked_once_whether_it_is_public(place, victim) -> None:
    mark = victim.server.mark()

    build(place, victim, "team/app:1")

    refused = [
        one
        for one in victim.server.requests(mark)
        if one.status == 401 and one.reference in (BASE.digest, TOP.digest)
    ]
    assert len(refused) == 1
    assert not record_of(place, BASE).public


def test_who_may_no_longer_read_a_repository_gets_no_new_cache(place, victim) -> None:
    build(place, victim, "team/app:1")
    victim.config.write_text("{}")

    with pytest.raises(failures.AccessDenied):
        build(place, victim, "team/app:1", cache_id="imc-again")


def test_a_blob_that_is_damaged_on_the_way_is_read_once_more(place, victim, tmp_path) -> None:
    build(place, victim, "team/app:1")

    async def other() -> list[str]:
        async with fakes.FakeRegistry() as fake:
            fake.add_image([tars_of(BASE)], "1", architecture=builder.own_platform().architecture)
            (blob,) = [
                name for name, content in fake.blobs.items() if content.data[:2] == b"\x1f\x8b"
            ]
            fake.faults[blob].append(fakes.other_bytes(bytes(len(fake.blobs[blob].data))))
            await build_from(place, fake.host, "my/app:1", cache_id="imc-other")
            return [what for _, what, _ in fake.requests if what == blob]

    assert len(asyncio.run(other())) == 2
    assert record_of(place, BASE).public


def tars_of(layer: pushing.Layer) -> bytes:
    assert isinstance(layer.content, bytes)
    return gzip.decompress(layer.content)


def test_a_blob_that_unpacks_to_more_than_the_layer_is_not_read_on(place, victim, attacker) -> None:
    build(place, victim, "team/app:1")
    bomb = pushing.layer([tars.file("zeros", bytes(64 << 20))])
    attacker.push("my/app:1", dataclasses.replace(bomb, diff_id=TOP.diff_id))

    with attacker.server, pytest.raises(layer_build.LayerMismatch, match="got another layer"):
        build(place, attacker, "my/app:1", cache_id="imc-attacker")


def test_records_of_a_layer_that_two_versions_write_lose_no_right(place, victim) -> None:
    """A builder of an earlier version writes a record without the fields that it does not know."""
    build(place, victim, "team/app:1")
    without_sources(place)
    mark = victim.server.mark()

    build(place, victim, "team/app:2", cache_id="imc-again")

    assert victim.requests(mark) == {("HEAD", BASE.digest): 1, ("GET", OTHER_TOP.digest): 1}
    assert record_of(place, BASE) == msgspec.structs.replace(record_of(place, BASE), sources=None)


def test_sources_that_are_written_during_a_build_get_its_repository(
    place, victim, monkeypatch
) -> None:
    """By `store check --repair`, which has read the images before the build publishes its own."""
    victim.server.stop()
    victim.push("other/implying:1", BASE, IMPLYING)
    victim.server.start()
    build(place, victim, "team/implying:1")
    without_sources(place)
    publish = writer.publish_image

    def publish_late(where: layout.Layout, record: records.ImageRecord) -> None:
        source_migration.write(where)
        publish(where, record)

    monkeypatch.setattr(writer, "publish_image", publish_late)

    build(place, victim, "other/implying:1", cache_id="imc-other")

    files = [f"sha256:{path.stem}" for path in place.layer_records.glob("*/*.json")]
    every = [direct_reader.Reader(place).layer(name) for name in files]
    host = victim.server.address
    expected = {f"{host}/team/implying", f"{host}/other/implying"}
    assert len(every) == 3  # one is the variant
    assert all(set(one.sources or ()) == expected for one in every if one is not None)
