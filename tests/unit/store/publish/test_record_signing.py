"""Signed is what a builder vouches for, and nothing that came in between."""

import msgspec
import pytest

from agent.model import images, records
from agent.store import integrity, layout, signatures, signing_keys
from agent.store.gc import generations
from agent.store.lookup import direct_reader
from agent.store.publish import record_signing, writer
from tests.unit.store import making, signing

Result = record_signing.Result
CACHE = "imc-one"
WANTED = record_signing.Wanted(cache_id=CACHE, images=[making.REF])


@pytest.fixture
def place(tmp_path) -> layout.Layout:
    place = making.store(tmp_path)
    making.cache(place, CACHE, making.image(place, "a", "b"))
    return place


@pytest.fixture
def key() -> signing_keys.SigningKey:
    return signing_keys.generate()


def identity(place: layout.Layout) -> str:
    return direct_reader.open_store(place.root).id


def signer(place: layout.Layout, key: signing_keys.SigningKey, **more) -> record_signing.Signer:
    return record_signing.Signer(key=key, store=identity(place), **more)


def unsigned(place: layout.Layout, *keys: signing_keys.SigningKey) -> int:
    trust = signatures.Trust(tuple(signing.public(key, identity(place)) for key in keys))
    findings = integrity.check(place, content=False, trust=trust)
    return sum(each.kind is integrity.Kind.UNSIGNED for each in findings)


def attested(place: layout.Layout, cache_id: str = CACHE) -> record_signing.Attested:
    """What the builder of a cache of the layers a and b reports."""
    reader = direct_reader.Reader(place)
    cache = reader.cache(cache_id)
    assert cache is not None
    statements = [signatures.of_cache(cache)]
    for cached in cache.images:
        image = reader.image(images.parse_reference(cached.ref))
        assert image is not None
        statements.append(signatures.of_image(image))
        for layer in image.platforms[0].layers:
            chain, stored = reader.chain(layer.chain_id), reader.layer(layer.diff_id)
            assert chain is not None
            assert stored is not None
            statements.append(signatures.of_chain(layer.chain_id, chain))
            statements.append(signatures.of_layer(stored))
    return record_signing.Attested(signatures.digest_of(statements, identity(place)))


def test_all_records_of_a_store_are_signed(place, key) -> None:
    assert unsigned(place, key) == 6
    results = record_signing.sign_all(place, signer(place, key))

    assert results == {Result.SIGNED: 6}
    assert unsigned(place, key) == 0
    assert unsigned(place, signing_keys.generate()) == 6
    assert list(place.tmp.iterdir()) == []


def test_what_is_signed_already_is_not_written_again(place, key) -> None:
    record_signing.sign_all(place, signer(place, key))

    assert record_signing.sign_all(place, signer(place, key)) == {Result.KEPT: 6}


def test_a_build_is_signed(place, key) -> None:
    assert record_signing.sign_build(place, WANTED, attested(place), signer(place, key)) == 6
    assert unsigned(place, key) == 0


def test_other_layers_of_a_build_are_signed_with_it(place, key) -> None:
    """Of some layers an image uses a variant, and the next build the layer itself."""
    plain = making.layer(place, "plain")
    both = attested(place)
    named = record_signing.Attested(both.digest, [plain.diff_id])
    with pytest.raises(record_signing.SigningRefused):
        record_signing.sign_build(place, WANTED, named, signer(place, key))
    assert unsigned(place, key) == 7


def exchange_layer(place: layout.Layout) -> None:
    path = place.layer_record(making.digest("a"))
    record = records.decode(path.read_bytes(), records.LayerRecord, "x")
    forged = msgspec.structs.replace(record, sha256=making.digest("evil"))
    path.write_bytes(records.encode(forged))


def exchange_chain(place: layout.Layout) -> None:
    """The chain of a is that of b, which is a sound layer of the same build."""
    diff_id = making.digest("a")
    chain = records.ChainRecord(diff_id=making.digest("b"), parent=None, variant_of=diff_id)
    place.chain_record(diff_id).write_bytes(records.encode(chain))


def exchange_image(place: layout.Layout) -> None:
    evil = making.image(place, "a", "c", ref="registry.io/evil/app:1")
    forged = msgspec.structs.replace(evil, ref=making.REF)
    writer.write_record(place, place.image_record(images.parse_reference(making.REF)), forged)


def exchange_namespaces(place: layout.Layout) -> None:
    cache = direct_reader.Reader(place).cache(CACHE)
    assert cache is not None
    forged = msgspec.structs.replace(cache, namespaces=["evil"])
    writer.write_record(place, place.cache_record(CACHE), forged)


def remove_layer(place: layout.Layout) -> None:
    place.layer_record(making.digest("a")).unlink()


@pytest.mark.parametrize(
    "attack", [exchange_layer, exchange_chain, exchange_image, exchange_namespaces, remove_layer]
)
def test_what_was_exchanged_between_build_and_signature_is_not_signed(place, key, attack) -> None:
    before = attested(place)
    attack(place)

    with pytest.raises(record_signing.SigningRefused):
        record_signing.sign_build(place, WANTED, before, signer(place, key))
    for path in place.root.glob("meta/**/*.json"):
        assert key.id.encode() not in path.read_bytes()


def take_another_reference(place: layout.Layout) -> None:
    """What others will pull by that name is what this build has made."""
    cache = direct_reader.Reader(place).cache(CACHE)
    assert cache is not None
    evil = making.image(place, "a", "b", ref="docker.io/library/nginx:latest")
    named = [*cache.images, msgspec.structs.replace(cache.images[0], ref=evil.ref)]
    forged = msgspec.structs.replace(cache, images=named)
    writer.write_record(place, place.cache_record(CACHE), forged)


@pytest.mark.parametrize("attack", [exchange_namespaces, take_another_reference])
def test_a_builder_that_was_taken_over_vouches_for_its_own_cache_only(place, key, attack) -> None:
    """Its digest is that of what it has written: it may say what it likes."""
    attack(place)
    own = attested(place)

    with pytest.raises(record_signing.SigningRefused, match="other"):
        record_signing.sign_build(place, WANTED, own, signer(place, key))
    for path in place.root.glob("meta/**/*.json"):
        assert key.id.encode() not in path.read_bytes()


def test_what_is_exchanged_while_it_is_signed_is_overwritten_or_refused(
    place, key, monkeypatch
) -> None:
    """Between the comparison and the writing of the signature."""
    before = attested(place)
    signed = record_signing.Signer.signed

    def attacked(self, record, statement):
        exchange_chain(place)
        return signed(self, record, statement)

    monkeypatch.setattr(record_signing.Signer, "signed", attacked)
    with pytest.raises(record_signing.SigningRefused):
        record_signing.sign_build(place, WANTED, before, signer(place, key))
    monkeypatch.undo()

    chain = direct_reader.Reader(place).chain(making.digest("a"))
    assert chain is not None
    statement = signatures.of_chain(making.digest("a"), chain)
    trust = signing.trust(signing.public(key, identity(place)))
    assert not trust.has_signed(statement, chain.signatures)


def test_a_rotation_signs_only_what_was_signed(place, key) -> None:
    record_signing.sign_all(place, signer(place, key))
    exchange_chain(place)
    new = signing_keys.generate()
    trust = signatures.Trust((signing.public(key, identity(place)),))
    results = record_signing.sign_all(place, signer(place, new, trust=trust))

    assert results == {Result.SIGNED: 5, Result.UNTRUSTED: 1}
    assert unsigned(place, new) == 1


def test_during_a_rotation_both_keys_count(place, key) -> None:
    new = signing_keys.generate()
    for each in (key, new):
        record_signing.sign_all(place, signer(place, each))
    assert unsigned(place, key) == unsigned(place, new) == 0

    retired = frozenset([key.id])
    record_signing.sign_all(place, signer(place, new, retired=retired))
    assert unsigned(place, key) == 6
    assert unsigned(place, new) == 0


def test_a_build_that_changes_nothing_keeps_the_signatures(place, key) -> None:
    """Else an image that is refreshed would not be served until it is signed again."""
    record_signing.sign_all(place, signer(place, key))
    making.cache(place, CACHE, making.image(place, "a", "b"))
    assert unsigned(place, key) == 0

    making.cache(place, CACHE, making.image(place, "a", "c"))
    # Layer and chain of c, image and cache.
    assert unsigned(place, key) == 4


def test_a_record_that_changes_at_the_same_moment_is_left(place, key, monkeypatch) -> None:
    diff_id = making.digest("a")
    record = direct_reader.Reader(place).layer(diff_id)
    assert record is not None
    signed = record_signing.Signer.signed

    def busy(self, each, statement):
        if statement.name == diff_id and statement.kind == "layer":
            more = msgspec.structs.replace(record, blobs=[making.digest("more")])
            writer.write_record(place, place.layer_record(diff_id), more)
        return signed(self, each, statement)

    monkeypatch.setattr(record_signing.Signer, "signed", busy)
    results = record_signing.sign_all(place, signer(place, key))

    assert results[Result.CHANGED] == 1
    after = direct_reader.Reader(place).layer(diff_id)
    assert after is not None
    assert after.blobs == [making.digest("more")]


def test_damage_is_counted_and_left(place, key) -> None:
    place.chain_record(making.digest("a")).write_text("{")

    assert record_signing.sign_all(place, signer(place, key))[Result.UNREADABLE] == 1


def test_no_record_comes_back_that_the_collector_takes_away(place, key) -> None:
    with generations.locked(place), pytest.raises(generations.CollectorBusy):
        record_signing.sign_all(place, signer(place, key))


def test_signatures_of_other_clusters_stay(place, key) -> None:
    others = [signing_keys.generate() for _ in range(2)]
    for each in (*others, key):
        record_signing.sign_all(place, signer(place, each))

    assert [unsigned(place, each) for each in others] == [0, 0]
