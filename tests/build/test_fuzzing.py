"""Registries that answer anything: a build ends with a sentence, and writes nothing elsewhere."""

import asyncio
import contextlib
import copy
import json
import pathlib
import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import errors
from agent.clients.registry import connections, distribution
from agent.model import images
from agent.store import integrity, layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from tests.build.conftest import Bench
from tests.fakes import registry as fakes

pytestmark = pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="needs mkfs.erofs")

PATHS = st.sampled_from(["../../../../escaped", "/escaped", "sha256:../../escaped", "a/../../b"])
DIGESTS = st.sampled_from([f"sha256:{'0' * 64}", "sha512:" + "0" * 128, "sha256:" + "A" * 64])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30)
    | PATHS
    | DIGESTS
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
MANY = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a document."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            found += places(inner, (*path, key))
    return found


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another value in one place."""
    made = copy.deepcopy(document)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


async def build(mutate: Any) -> None:
    """Build an image from a registry whose content `mutate` has changed; look at what is left."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        around = pathlib.Path(name)
        writer.create(around / "in" / "store")
        async with fakes.FakeRegistry() as fake:
            fake.add_image([fakes.tar(a=b"1"), fakes.tar(b=b"2")], "1")
            mutate(fake)
            bench = Bench(around / "in" / "store", fake)
            with contextlib.suppress(errors.AgentError):
                await bench.build()
        place = layout.Layout(around / "in" / "store")
        outside = [path for path in around.rglob("*") if not path.is_relative_to(place.root)]
        assert outside == [around / "in"]
        assert [
            each for each in integrity.check(place) if each.kind is integrity.Kind.DAMAGED
        ] == []
        for cache in direct_reader.Reader(place).caches():
            assert [image.ref for image in cache.images] == [str(bench.reference())]


def manifest_of(fake: fakes.FakeRegistry) -> dict[str, Any]:
    return dict(json.loads(fake.manifests["1"].data))


def config_of(fake: fakes.FakeRegistry) -> dict[str, Any]:
    return dict(json.loads(fake.blobs[manifest_of(fake)["config"]["digest"]].data))


def put_manifest(fake: fakes.FakeRegistry, document: Any) -> None:
    media_type = fake.manifests["1"].media_type
    fake.add_manifest(json.dumps(document).encode(), media_type, "1")


@MANY
@given(st.data())
def test_a_manifest_may_say_anything(data: st.DataObject) -> None:
    def mutate(fake: fakes.FakeRegistry) -> None:
        document = manifest_of(fake)
        path = data.draw(st.sampled_from(places(document)))
        put_manifest(fake, changed(document, path, data.draw(JSON)))

    asyncio.run(build(mutate))


@MANY
@given(st.data())
def test_a_config_may_say_anything(data: st.DataObject) -> None:
    def mutate(fake: fakes.FakeRegistry) -> None:
        document = config_of(fake)
        path = data.draw(st.sampled_from(places(document)))
        body = json.dumps(changed(document, path, data.draw(JSON))).encode()
        manifest = manifest_of(fake)
        described = {**manifest["config"], "digest": fake.add_blob(body), "size": len(body)}
        put_manifest(fake, {**manifest, "config": described})

    asyncio.run(build(mutate))


@MANY
@given(st.data())
def test_an_index_may_say_anything(data: st.DataObject) -> None:
    def mutate(fake: fakes.FakeRegistry) -> None:
        fake.add_index({"linux/amd64": fakes.digest(fake.manifests["1"].data)}, "1")
        document = manifest_of(fake)
        path = data.draw(st.sampled_from(places(document)))
        put_manifest(fake, changed(document, path, data.draw(JSON)))

    asyncio.run(build(mutate))


@MANY
@given(st.binary(max_size=300), st.sampled_from(["application/json", "", "text/html", "\u00e9"]))
def test_a_manifest_may_be_any_bytes(body: bytes, media_type: str) -> None:
    def mutate(fake: fakes.FakeRegistry) -> None:
        fake.add_manifest(body, media_type, "1")

    asyncio.run(build(mutate))


@MANY
@given(st.binary(max_size=2000))
def test_a_layer_may_be_any_bytes(body: bytes) -> None:
    """Of the right digest: the registry is consistent, and its image is nonsense."""

    def mutate(fake: fakes.FakeRegistry) -> None:
        manifest = manifest_of(fake)
        described = {**manifest["layers"][0], "digest": fake.add_blob(body), "size": len(body)}
        put_manifest(fake, {**manifest, "layers": [described, manifest["layers"][1]]})

    asyncio.run(build(mutate))


@MANY
@given(st.dictionaries(st.sampled_from(["realm", "scope", "service", "x"]), st.text(max_size=20)))
def test_a_challenge_may_say_anything(fields: dict[str, str]) -> None:
    said = "Bearer " + ",".join(f'{key}="{value}"' for key, value in fields.items())
    header = said.encode("ascii", "backslashreplace").decode().replace("\r", "").replace("\n", "")

    async def refuse(request: Any, _data: bytes) -> Any:
        return fakes.web.Response(status=401, headers={"WWW-Authenticate": header[:500]})

    async def ask() -> None:
        async with fakes.FakeRegistry() as fake:
            fake.add_image([fakes.tar(a=b"1")], "1")
            fake.faults["1"] += [refuse] * 3
            options = connections.Options(
                plain_http=frozenset({fake.host}), delays=(0.01,), deadline=0.2, read_timeout=1.0
            )
            async with distribution.Client(Nobody(), options) as client:
                with contextlib.suppress(errors.AgentError):
                    await client.manifest(images.parse_reference(f"{fake.host}/team/app:1"))

    asyncio.run(ask())


class Nobody:
    """Who has no credentials."""

    async def credentials(self, reference: images.Reference) -> list[Any]:
        return []
