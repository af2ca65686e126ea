"""What a signature vouches for, and when it counts."""

import base64
import datetime

import msgspec
import pytest

from agent.model import records
from agent.store import signatures, signing_keys
from tests.unit.store import making, signing

A, B = making.digest("a"), making.digest("b")
LAYER = records.LayerRecord(
    diff_id=A, size=4096, tar_size=10, sha256=B, blobs=[], mkfs=making.MKFS, implied=["a%20b"]
)
TREE = records.VerityTree(
    root_hash="1" * 64, salt="2" * 64, data_blocks=1, offset=4096, tree_size=8192, sha256=A
)
CHAIN = records.ChainRecord(diff_id=B, parent=A, variant_of=making.digest("c"))
IMAGE = making.image_record(making.REF, [LAYER])
CACHE = records.CacheRecord(
    id="imc-tools",
    name="tools",
    images=[records.CachedImage(ref=making.REF, target=A, size=7, layers=[A, B])],
    size=1,
    capacity=2,
    created="2026-01-01T00:00:00Z",
    namespaces=["team-a"],
)


def test_the_statement_of_a_layer_is_as_documented() -> None:
    assert signatures.of_layer(LAYER).text(signing.STORE).decode().splitlines() == [
        "uimgacc signed 1 layer",
        f"store {signing.STORE}",
        f"name {A}",
        "size 4096",
        f"sha256 {B}",
        "implied a%2520b",
    ]


def test_the_root_of_a_hash_tree_is_signed() -> None:
    statement = signatures.of_layer(msgspec.structs.replace(LAYER, verity=TREE))

    assert ("verity", "1" * 64, "2" * 64, "1", "4096", "8192", A) in statement.lines


def test_the_statement_of_a_chain_is_as_documented() -> None:
    assert signatures.of_chain(A, CHAIN).text(signing.STORE).decode().splitlines() == [
        "uimgacc signed 1 chain",
        f"store {signing.STORE}",
        f"name {A}",
        f"layer {B}",
        f"parent {A}",
        f"variant-of {making.digest('c')}",
    ]


def test_the_statement_of_an_image_is_as_documented() -> None:
    one = IMAGE.platforms[0]
    layer = one.layers[0]

    assert signatures.of_image(IMAGE).text(signing.STORE).decode().splitlines() == [
        "uimgacc signed 1 image",
        f"store {signing.STORE}",
        f"name {making.REF}",
        f"target {IMAGE.target} index 5",
        "platform linux/amd64",
        f"manifest {one.manifest} manifest 5 {one.config}",
        f"layer {layer.chain_id} {layer.diff_id} {layer.digest} layer 1",
    ]


def test_what_an_image_was_made_of_is_signed() -> None:
    artifact = records.Artifact(type="application/vnd.example", manifest=A)
    made = [msgspec.structs.replace(one, artifact=artifact) for one in IMAGE.platforms]
    statement = signatures.of_image(msgspec.structs.replace(IMAGE, platforms=made))

    assert ("artifact", A, "application/vnd.example") in statement.lines


def test_the_statement_of_a_cache_is_as_documented() -> None:
    assert signatures.of_cache(CACHE).text(signing.STORE).decode().splitlines() == [
        "uimgacc signed 1 cache",
        f"store {signing.STORE}",
        "name imc-tools",
        "called tools",
        "namespace team-a",
        f"image {making.REF} {A} 7",
        f"layer {A}",
        f"layer {B}",
    ]


def test_a_value_cannot_look_like_another_line() -> None:
    trick = msgspec.structs.replace(CACHE, name="tools\nall-namespaces", namespaces=[])
    other = msgspec.structs.replace(CACHE, name="tools", namespaces=None)

    assert signatures.of_cache(trick).text("s") != signatures.of_cache(other).text("s")
    assert b"\nall-namespaces" not in signatures.of_cache(trick).text("s")


@pytest.mark.parametrize(
    "change",
    [
        {"diff_id": B},
        {"size": 4097},
        {"sha256": A},
        {"implied": []},
        {"has_whiteouts": True},
        {"verity": TREE},
    ],
)
def test_what_decides_about_a_layer_is_signed(change) -> None:
    changed = msgspec.structs.replace(LAYER, **change)

    assert signatures.of_layer(changed) != signatures.of_layer(LAYER)


@pytest.mark.parametrize(
    "change",
    [{"blobs": [A]}, {"damaged": "why"}, {"replaced_by": B}, {"tar_size": 0}, {"signatures": []}],
)
def test_what_changes_while_a_layer_lives_is_not(change) -> None:
    changed = msgspec.structs.replace(LAYER, **change)

    assert signatures.of_layer(changed) == signatures.of_layer(LAYER)


def test_an_image_that_was_built_again_says_the_same() -> None:
    again = msgspec.structs.replace(IMAGE, created="later", build_seconds=9.0, fetched_bytes=1)

    assert signatures.of_image(again) == signatures.of_image(IMAGE)


@pytest.fixture
def key() -> signing_keys.SigningKey:
    return signing_keys.generate()


def test_a_signature_counts_for_its_statement_only(key) -> None:
    statement = signatures.of_layer(LAYER)
    signature = key.sign(statement, signing.STORE)
    trust = signing.trust(signing.public(key))

    assert trust.has_signed(statement, [signature])
    assert not trust.has_signed(signatures.of_chain(A, CHAIN), [signature])
    assert not trust.has_signed(statement, [])


def test_a_signature_counts_in_its_store_only(key) -> None:
    statement = signatures.of_layer(LAYER)
    elsewhere = key.sign(statement, "another store")

    assert not signing.trust(signing.public(key)).has_signed(statement, [elsewhere])


def test_a_signature_of_another_key_does_not_count(key) -> None:
    statement = signatures.of_layer(LAYER)
    forged = signing_keys.generate().sign(statement, signing.STORE)
    trust = signing.trust(signing.public(key))

    assert not trust.has_signed(statement, [forged])
    assert not trust.has_signed(statement, [msgspec.structs.replace(forged, key=key.id)])


@pytest.mark.parametrize("value", ["", "?", "AAAA", base64.b64encode(bytes(64)).decode()])
def test_what_is_no_signature_does_not_count(key, value: str) -> None:
    trust = signing.trust(signing.public(key))
    signature = records.Signature(key=key.id, value=value)

    assert not trust.has_signed(signatures.of_layer(LAYER), [signature])


@pytest.mark.parametrize(
    ("minutes", "counts"), [(-10, False), (-4, True), (0, True), (59, True), (60, False)]
)
def test_a_key_counts_in_its_time(key, minutes: int, counts: bool) -> None:
    """Clocks of nodes may be five minutes behind the controller's."""
    statement = signatures.of_layer(LAYER)
    public = signing.public(key, not_after=signing.NOW + datetime.timedelta(hours=1))
    trust = signing.trust(public, now=signing.NOW + datetime.timedelta(minutes=minutes))

    assert trust.has_signed(statement, [key.sign(statement, signing.STORE)]) is counts


def test_many_signatures_of_one_key_cost_one_check(key, monkeypatch) -> None:
    checks = []
    monkeypatch.setattr(signatures.PublicKey, "verify", lambda *_: checks.append(1) or False)
    signature = records.Signature(key=key.id, value="")

    signing.trust(signing.public(key)).has_signed(signatures.of_layer(LAYER), [signature] * 9999)

    assert len(checks) == 1


def test_the_digest_of_statements_does_not_depend_on_their_order() -> None:
    both = [signatures.of_layer(LAYER), signatures.of_cache(CACHE)]

    assert signatures.digest_of(both, "s") == signatures.digest_of(both[::-1], "s")
    assert signatures.digest_of(both, "s") != signatures.digest_of(both[:1], "s")
    assert signatures.digest_of(both, "s") != signatures.digest_of(both, "t")


def test_a_key_is_kept_as_openssl_has_it(key) -> None:
    pem = key.pem()

    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert signing_keys.from_pem(pem, "k").id == key.id
    with pytest.raises(signing_keys.KeyUnusable):
        signing_keys.from_pem(b"x", "k")


def test_what_a_builder_attests_is_read_from_its_message() -> None:
    assert signatures.attested_digest(signatures.attestation(A) + "\n") == A
    assert signatures.attested_digest("the build failed: attested") == ""
