"""The controller's key: made, published, replaced, and what is signed by it."""

import base64
import datetime

import pytest

from agent.clients.kube import rest_client
from agent.control.signing import key_objects, key_ring, key_rounds, signing_worker
from agent.store import layout, signatures, signing_keys, trusted_keys
from agent.store.lookup import direct_reader
from agent.store.publish import record_signing
from tests.fakes import api as fake_api
from tests.unit.store import making, signing

NAMESPACE = "uimgacc-system"


class Pool:
    async def call(self, operation: str, *arguments, deadline: float):
        return signing_worker.OPERATIONS[operation](*arguments)


class World:
    """A store, an API server and a clock."""

    def __init__(self, place: layout.Layout) -> None:
        self.place = place
        self.api = fake_api.Api()
        # Signatures are verified by this machine's clock, too.
        self.now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self.told = 0

    @property
    def identity(self) -> str:
        return direct_reader.open_store(self.place.root).id

    def controller(self) -> key_rounds.Signing:
        return key_rounds.Signing(
            str(self.place.root),
            Pool(),
            self.objects(),
            on_unsigned=self.note,
            clock=lambda: self.now,
        )

    def objects(self) -> key_objects.KeyObjects:
        return key_objects.KeyObjects(self.api, namespace=NAMESPACE)

    def note(self) -> None:
        self.told += 1

    def later(self, **delta: float) -> None:
        self.now += datetime.timedelta(**delta)

    async def published(self) -> trusted_keys.Document:
        body = await self.api.get(
            rest_client.CONFIG_MAPS, key_objects.CONFIG_MAP, namespace=NAMESPACE
        )
        return trusted_keys.decode(body["data"][trusted_keys.NAME].encode(), "x")

    async def is_signed(self, cache_id: str) -> bool:
        """As a node sees it at this time."""
        record = direct_reader.Reader(self.place).cache(cache_id)
        assert record is not None
        keys = trusted_keys.keys_of(await self.published())
        trust = signatures.Trust(keys, lambda: self.now)
        return trust.has_signed(signatures.of_cache(record), record.signatures)

    async def rotate(self) -> None:
        objects = self.objects()
        ring = await objects.read()
        assert ring is not None
        await objects.write(key_ring.rotated(ring, self.now, signing_keys.generate()))

    async def build(self, controller: key_rounds.Signing, cache_id: str, *names: str) -> None:
        cache = making.cache(
            self.place, cache_id, making.image(self.place, *names, ref=f"r.io/{cache_id}:1")
        )
        reader = direct_reader.Reader(self.place)
        image = next(each for each in reader.images() if each.ref == cache.images[0].ref)
        statements = [signatures.of_cache(cache), signatures.of_image(image)]
        for layer in image.platforms[0].layers:
            chain, stored = reader.chain(layer.chain_id), reader.layer(layer.diff_id)
            assert chain is not None
            assert stored is not None
            statements.append(signatures.of_chain(layer.chain_id, chain))
            statements.append(signatures.of_layer(stored))
        wanted = record_signing.Wanted(cache_id=cache_id, images=[image.ref])
        await controller.sign(wanted, signatures.digest_of(statements, self.identity), [])


@pytest.fixture
def world(tmp_path) -> World:
    return World(making.store(tmp_path))


async def started(world: World) -> key_rounds.Signing:
    controller = world.controller()
    await controller.prepare(world.identity)
    return controller


async def test_a_new_store_has_a_key_and_nodes_refuse_what_is_not_signed(world) -> None:
    controller = await started(world)
    document = await world.published()

    assert (document.store, document.unsigned, len(document.keys)) == (world.identity, "refuse", 1)
    assert controller.refuses
    assert trusted_keys.decode(controller.document.encode(), "x") == document


async def test_the_private_key_is_in_the_secret_only(world) -> None:
    await started(world)
    secret = await world.api.get(rest_client.SECRETS, key_objects.SECRET, namespace=NAMESPACE)
    public = await world.api.get(
        rest_client.CONFIG_MAPS, key_objects.CONFIG_MAP, namespace=NAMESPACE
    )

    pems = [name for name in secret["data"] if name.endswith(".pem")]
    assert [name.removesuffix(".pem") for name in pems] == [
        each.id for each in (await world.published()).keys
    ]
    assert b"PRIVATE KEY" in base64.b64decode(secret["data"][pems[0]])
    assert "PRIVATE" not in str(public)


async def test_the_next_leader_has_the_same_key(world) -> None:
    first, second = await started(world), await started(world)

    assert first.document == second.document


async def test_what_a_build_attests_is_signed(world) -> None:
    controller = await started(world)
    await world.build(controller, "imc-one", "a", "b")

    assert await world.is_signed("imc-one")


async def test_what_it_does_not_attest_is_refused(world) -> None:
    controller = await started(world)
    making.cache(world.place, "imc-one", making.image(world.place, "a"))

    wanted = record_signing.Wanted(cache_id="imc-one", images=[making.REF])
    with pytest.raises(key_rounds.SigningFailed):
        await controller.sign(wanted, making.digest("x"), [])


async def test_a_store_of_before_is_accepted_until_all_of_it_is_signed(world) -> None:
    """An upgrade does not stop the acceleration: it says what to do, and waits for that."""
    cache = making.cache(world.place, "imc-old", making.image(world.place, "a"))
    controller = await started(world)
    assert (await world.published()).unsigned == "accept"

    await controller.round()
    assert not controller.has_signed(cache)
    assert not controller.refuses
    assert world.told == 1

    ring = await world.objects().read()
    assert ring is not None
    (key,) = ring.private.values()
    signing.sign(world.place, key)
    await controller.round()
    signed = direct_reader.Reader(world.place).cache("imc-old")
    assert signed is not None
    assert controller.has_signed(signed)
    assert (await world.published()).unsigned == "refuse"


async def test_once_refused_a_store_is_never_accepted_unsigned_again(world) -> None:
    controller = await started(world)
    forged = making.cache(world.place, "imc-forged", making.image(world.place, "a"))
    await controller.round()

    assert not controller.has_signed(forged)
    assert (await world.published()).unsigned == "refuse"


async def test_a_lost_secret_does_not_have_nodes_accept_what_is_not_signed(world) -> None:
    """Else what an attacker has put into the store waits for the day of that mishap."""
    controller = await started(world)
    await world.build(controller, "imc-one", "a")
    making.cache(world.place, "imc-forged", making.image(world.place, "b", ref="r.io/forged:1"))
    del world.api.objects["secrets", NAMESPACE, key_objects.SECRET]

    controller = await started(world)
    await controller.round()
    assert controller.refuses
    assert (await world.published()).unsigned == "refuse"
    await world.build(controller, "imc-one", "a")
    assert await world.is_signed("imc-one")


async def test_a_config_map_that_was_changed_or_deleted_is_put_right(world) -> None:
    controller = await started(world)
    before = await world.published()
    await world.api.patch(
        rest_client.CONFIG_MAPS,
        key_objects.CONFIG_MAP,
        {"data": {trusted_keys.NAME: "{}"}},
        namespace=NAMESPACE,
    )
    await controller.round()
    assert await world.published() == before

    del world.api.objects["configmaps", NAMESPACE, key_objects.CONFIG_MAP]
    await controller.round()
    assert await world.published() == before


async def test_a_rotation_has_no_gap(world) -> None:
    """At every moment, nodes have a key that has signed what is there."""
    controller = await started(world)
    await world.build(controller, "imc-one", "a")
    first = (await world.published()).keys[0].id
    await world.rotate()

    seen = []
    for at in range(40):
        await controller.round()
        assert await world.is_signed("imc-one"), seen
        if at % 5 == 0:
            await world.build(controller, f"imc-new{at}", f"n{at}")
            assert await world.is_signed(f"imc-new{at}")
        keys = [each.id for each in (await world.published()).keys]
        if keys not in seen:
            seen.append(keys)
        world.later(minutes=1)

    assert [len(keys) for keys in seen] == [2, 1]
    assert first in seen[0]
    assert first not in seen[1]
    secret = await world.api.get(rest_client.SECRETS, key_objects.SECRET, namespace=NAMESPACE)
    assert sorted(secret["data"]) == sorted([f"{seen[1][0]}.pem", trusted_keys.NAME])


async def test_a_new_key_signs_only_after_nodes_had_time_to_read_it(world) -> None:
    controller = await started(world)
    first = (await world.published()).keys[0].id
    await world.rotate()
    await controller.round()
    await world.build(controller, "imc-one", "a")
    record = direct_reader.Reader(world.place).cache("imc-one")

    assert record is not None
    assert [each.key for each in record.signatures] == [first]


async def test_a_second_rotation_waits_for_the_first(world) -> None:
    await started(world)
    await world.rotate()
    ring = await world.objects().read()
    assert ring is not None

    assert key_ring.rotated(ring, world.now, signing_keys.generate()) is ring


async def test_the_key_of_another_store_is_not_used(world) -> None:
    """Another folder at the store's place: to sign it would vouch for it."""
    await started(world)

    with pytest.raises(key_objects.KeysDamaged):
        await world.controller().prepare("another")


async def test_a_secret_that_is_damaged_is_named(world) -> None:
    await started(world)
    await world.api.patch(
        rest_client.SECRETS,
        key_objects.SECRET,
        {"data": {trusted_keys.NAME: "?"}},
        namespace=NAMESPACE,
    )

    with pytest.raises(key_objects.KeysDamaged, match=key_objects.SECRET):
        await world.objects().read()


async def test_where_no_cache_has_changed_none_is_read(world, monkeypatch) -> None:
    """Of ten thousand caches, each minute would otherwise read and verify all."""
    controller = world.controller()
    await controller.prepare(world.identity)
    await world.build(controller, "imc-one", "a")
    read: list[str] = []
    kept = signing_worker.unsigned_caches
    monkeypatch.setitem(
        signing_worker.OPERATIONS,
        "unsigned_caches",
        lambda root, keys: (read.append(root), kept(root, keys))[1],
    )

    for _ in range(3):
        await controller.round()
    assert len(read) == 1

    making.cache(world.place, "imc-two", making.image(world.place, "b", ref="r.io/two:1"))
    await controller.round()
    assert len(read) == 2
    world.later(hours=2)
    await controller.round()
    assert len(read) == 3
