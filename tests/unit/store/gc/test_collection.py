"""Deleting from a store: what goes, what stays, and when."""

import math
import pathlib

import msgspec
import pytest

from agent.model import digests, images, records, reports
from agent.store import layout
from agent.store.gc import collection, generations, plans, reachability
from agent.store.lookup import catalog, direct_reader, file_reads
from agent.store.publish import build_claims, writer
from tests.unit.store import making


def round_(place: layout.Layout, outcome: collection.Outcome | None = None, **orders):
    """One round for which everything announced before is settled."""
    settled = outcome.announced if outcome is not None else ()
    return collection.collect(place, collection.Orders(settled=settled, **orders))


def rounds(place: layout.Layout, count: int, **orders) -> collection.Outcome:
    outcome = None
    for _ in range(count):
        outcome = round_(place, outcome, **orders)
    assert outcome is not None
    return outcome


def files_of(place: layout.Layout, *folders: str) -> list[str]:
    return sorted(
        path.name
        for folder in folders or ("sha256", "meta/layers", "meta/chains", "meta/blobs")
        for path in (place.root / folder).rglob("*")
        if path.is_file()
    )


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    """A store with two caches that share the layer `base`."""
    place = making.store(tmp_path)
    making.cache(place, "imc-one", making.image(place, "base", "one", ref="r.io/one:1"))
    making.cache(place, "imc-two", making.image(place, "base", "two", ref="r.io/two:1"))
    return place


def there(place: layout.Layout, name: str) -> bool:
    return place.layer(making.digest(name)).exists()


def test_a_store_whose_caches_want_everything_is_left_alone(place) -> None:
    before = files_of(place, ".")

    outcome = rounds(place, 3, floor=math.inf)

    assert (outcome.announced, outcome.waiting, outcome.planned) == ((), (), 0)
    assert set(files_of(place, ".")) - set(before) <= {"collector.lock"}


def test_what_a_deleted_cache_had_alone_goes_and_what_is_shared_stays(place) -> None:
    writer.delete_cache(place, "imc-one")

    rounds(place, 4, floor=math.inf)

    reader = direct_reader.Reader(place)
    assert [there(place, name) for name in ("base", "one", "two")] == [True, False, True]
    assert reader.image(images.parse_reference("r.io/one:1")) is None
    assert reader.image(images.parse_reference("r.io/two:1")) is not None
    assert reader.layer(making.digest("one")) is None
    assert files_of(place, "meta/retired", "meta/deleted") == []


def test_a_cache_that_is_deleted_during_a_round_is_told_of_as_well(place, monkeypatch) -> None:
    """Its layers are still wanted by that round: the next one retires them, by its name."""
    mark_chains = reachability._mark_chains

    def delete_first(*arguments):
        monkeypatch.undo()
        writer.delete_cache(place, "imc-one")
        return mark_chains(*arguments)

    monkeypatch.setattr(reachability, "_mark_chains", delete_first)
    assert round_(place, floor=0).planned == 0

    rounds(place, 2, floor=0)

    retired = generations.content(place, 1)
    assert retired is not None
    assert retired.caches == ["imc-one"]


def test_everything_goes_when_no_cache_is_left(place) -> None:
    writer.delete_cache(place, "imc-one")
    writer.delete_cache(place, "imc-two")

    rounds(place, 4, floor=math.inf)

    assert files_of(place) == []
    assert files_of(place, "meta/images", "meta/retired") == []


def test_what_belongs_to_a_layer_goes_with_it(place) -> None:
    making.layer(place, "sealed", has_tree=True)
    making.layer_with_tree_beside(place, "beside")
    image = making.image(place, "sealed", "beside", ref="r.io/sealed:1")
    making.cache(place, "imc-three", image)
    for cache in ("imc-one", "imc-two", "imc-three"):
        writer.delete_cache(place, cache)

    rounds(place, 4, floor=math.inf)

    assert files_of(place, "sha256") == []


@pytest.mark.parametrize(("count", "spread"), [(0, 0.0), (10, 0.5), (1000, 50.0)])
def test_the_more_nodes_there_are_the_longer_they_take_to_look(
    place, count: int, spread: float
) -> None:
    known = {f"n{at}": records.KnownNode(acknowledged=0, seen=1.0) for at in range(count)}
    writer.write_record(place, place.nodes_record, records.NodesRecord(nodes=known))
    generations.publish_newest(place, 1)

    published = records.decode(
        place.generation_record.read_bytes(), records.GenerationRecord, "generation.json"
    )
    assert (published.generation, published.spread) == (1, spread)


def test_what_an_earlier_controller_published_has_no_spread() -> None:
    record = records.decode(b'{"generation": 3}', records.GenerationRecord, "generation.json")

    assert record.spread == 0.0


async def test_nodes_are_told_of_it_before_anything_goes(place) -> None:
    class Direct:
        async def call(self, operation, *arguments, deadline):
            return file_reads.OPERATIONS[operation](*arguments)

    found = catalog.Catalog(place, Direct())
    writer.delete_cache(place, "imc-one")

    planned = round_(place, floor=0)
    before = await found.generation(), there(place, "one")
    round_(place, planned, floor=0)

    assert before == (0, True)
    assert await found.generation() == 1
    retired = await found.retired(1)
    assert retired is not None
    assert [layer.diff_id for layer in retired.layers] == [making.digest("one")]
    assert retired.caches == ["imc-one"]
    assert [await found.chain(chain) for chain in retired.layers[0].chains] == [None]
    assert there(place, "one")


def test_files_wait_for_the_last_node(place) -> None:
    writer.delete_cache(place, "imc-one")

    waiting = rounds(place, 6, floor=0)

    assert (waiting.waiting, there(place, "one")) == ((1,), True)
    gone = rounds(place, 2, floor=1)
    assert (gone.waiting, gone.layers, there(place, "one")) == ((), 1, False)
    assert gone.freed > 0


def test_nothing_is_decided_before_it_has_settled(place) -> None:
    writer.delete_cache(place, "imc-one")

    outcomes = [collection.collect(place, collection.Orders(floor=math.inf)) for _ in range(3)]

    assert {len(outcome.announced) for outcome in outcomes} == {1}
    assert direct_reader.Reader(place).image(images.parse_reference("r.io/one:1")) is not None


def test_a_rebuilt_tag_leaves_what_only_the_old_one_needed(place) -> None:
    making.cache(place, "imc-one", making.image(place, "base", "newer", ref="r.io/one:1"))

    rounds(place, 4, floor=math.inf)

    assert [there(place, name) for name in ("base", "one", "newer", "two")] == [
        True,
        False,
        True,
        True,
    ]


def test_a_build_that_wants_what_is_planned_cancels_that(place) -> None:
    writer.delete_cache(place, "imc-one")
    planned = round_(place)

    with build_claims.Claim(place, "imc-new") as claim:
        assert claim.add([making.digest("one")]) is None
        after = round_(place, planned, floor=math.inf)

    assert files_of(place, "meta/retired") == [f"{after.announced[0]}.pending"]  # The rest of it.
    assert rounds(place, 4, floor=math.inf).waiting == ()
    assert [there(place, "one"), there(place, "two")] == [True, True]


def test_a_build_that_wants_what_is_doomed_cancels_that(place) -> None:
    writer.delete_cache(place, "imc-one")
    doomed = rounds(place, 2, floor=math.inf)
    assert [token.partition("-")[0] for token in doomed.announced] == ["1"]

    with build_claims.Claim(place, "imc-new") as claim:
        assert claim.add([making.digest("one")]) is None
        rounds(place, 4, floor=math.inf)

    assert there(place, "one")


def test_a_cache_that_was_ready_before_its_plan_was_seen_stays_whole(place) -> None:
    """Its build looked before the plan was to be seen, and knows of nothing."""
    writer.delete_cache(place, "imc-one")
    planned = round_(place)
    image = making.image(place, "base", "one", ref="r.io/one:1")
    making.cache(place, "imc-one", image)

    round_(place, planned, floor=math.inf)

    reader = direct_reader.Reader(place, on_damage=pytest.fail)
    chains = [reader.chain(layer.chain_id) for layer in image.platforms[0].layers]
    assert reader.image(images.parse_reference("r.io/one:1")) == image
    assert None not in chains
    assert generations.outstanding(place).phases == {}


def test_a_layer_with_a_new_chain_is_not_deleted_before_nodes_are_asked_about_that(place) -> None:
    """A build that died left it, and nodes may have mounted the layer by it."""
    writer.delete_cache(place, "imc-one")
    doomed = rounds(place, 2, floor=math.inf)
    diff_id = making.digest("one")
    chain_id = digests.chain_ids([diff_id])[0]
    writer.publish_chain(place, chain_id, records.ChainRecord(diff_id=diff_id, parent=None))

    planned = round_(place, doomed, floor=1)

    assert there(place, "one")
    round_(place, planned, floor=1)
    record = generations.content(place, 2)
    assert record is not None
    assert record.layers == [records.RetiredLayer(diff_id=diff_id, chains=[chain_id])]


def test_nodes_are_told_when_nothing_leads_to_the_layers_any_more(place, monkeypatch) -> None:
    writer.delete_cache(place, "imc-one")
    planned = round_(place)
    gone = [digests.chain_ids([making.digest("base"), making.digest("one")])[-1]]
    seen = []

    def look(where: layout.Layout, number: int) -> None:
        record = generations.content(where, number)
        seen.append(record is not None and [c for one in record.layers for c in one.chains])
        assert not any(where.chain_record(chain).exists() for chain in gone)

    monkeypatch.setattr(generations, "publish_newest", look)
    round_(place, planned)

    assert seen == [gone]


@pytest.mark.parametrize("step", ["hiding", "deleting"])
def test_a_build_waits_for_what_is_under_way(place, step: str, monkeypatch) -> None:
    writer.delete_cache(place, "imc-one")
    outcome = rounds(place, 1 if step == "hiding" else 2, floor=math.inf)
    name = {"hiding": "_hide", "deleting": "_delete"}[step]
    with monkeypatch.context() as patched:
        patched.setattr(collection, name, lambda *arguments: None)
        round_(place, outcome, floor=math.inf)

    with build_claims.Claim(place, "imc-new") as claim:
        assert claim.add([making.digest("one")]) == 1
        round_(place)
        assert claim.add([]) is None

    assert there(place, "one") is (step == "hiding")


def test_a_cache_that_comes_back_is_taken_off_the_list(place) -> None:
    writer.delete_cache(place, "imc-one")
    rounds(place, 4, floor=0)
    making.cache(place, "imc-one", making.image(place, "base", "one", ref="r.io/one:1"))

    after = rounds(place, 1, floor=0)

    assert (after.waiting, there(place, "one")) == ((), True)


def test_a_layer_that_came_back_by_another_chain_stays_listed_with_all_its_chains(place) -> None:
    """A node may hold it by the chain that is hidden: nobody else knows of that any more."""
    writer.delete_cache(place, "imc-one")
    rounds(place, 2, floor=0)
    first = generations.content(place, 1)
    making.cache(place, "imc-new", making.image(place, "one", ref="r.io/new:1"))
    back = rounds(place, 2, floor=0)
    writer.delete_cache(place, "imc-new")

    rounds(place, 3, floor=0)

    assert back.waiting == (1,)
    second = generations.content(place, 2)
    assert generations.content(place, 1) is None
    assert first is not None
    assert second is not None
    chains = {chain for layer in second.layers for chain in layer.chains}
    assert {chain for layer in first.layers for chain in layer.chains} < chains


@pytest.mark.parametrize("tagged", [False, True])
def test_what_a_node_holds_does_not_keep_the_rest(place, tagged: bool) -> None:
    """Agents of earlier versions report diff IDs, later ones tags."""
    one = making.digest("one")
    reported = reports.layer_tag(direct_reader.open_store(place.root).id, one) if tagged else one
    writer.delete_cache(place, "imc-one")
    rounds(place, 2, floor=0)
    writer.delete_cache(place, "imc-two")

    after = rounds(place, 6, floor=0, held=[reported])

    held = generations.content(place, max(after.waiting))
    assert held is not None
    assert [layer.diff_id for layer in held.layers] == [making.digest("one")]
    assert len(after.waiting) == 2
    rounds(place, 2, floor=max(after.waiting) - 1, held=[reported])
    assert [there(place, name) for name in ("one", "two", "base")] == [True, False, False]
    assert rounds(place, 4, floor=0, held=[reported]).waiting == after.waiting[-1:]


def test_two_collectors_do_not_work_at_the_same_time(place) -> None:
    with generations.locked(place), pytest.raises(generations.CollectorBusy):
        round_(place)

    round_(place)


def test_a_dead_builds_claim_ends(place, monkeypatch) -> None:
    with build_claims.Claim(place, "imc-dead") as claim:
        claim.add([making.digest("one")])
    writer.delete_cache(place, "imc-one")
    rounds(place, 4, floor=math.inf)
    kept = there(place, "one")

    monkeypatch.setattr(build_claims, "EXPIRES", -1.0)
    rounds(place, 4, floor=math.inf)

    assert (kept, there(place, "one")) == (True, False)
    with pytest.raises(build_claims.ClaimLost):
        claim.check()


def test_a_finished_builds_claim_stays_for_a_while(place) -> None:
    with build_claims.Claim(place, "imc-new") as claim:
        claim.add([making.digest("a")])
        claim.finish()

    found = list(build_claims.standing(place))

    assert [record.finished for record in found] == [True]


def test_what_is_young_waits(place) -> None:
    writer.delete_cache(place, "imc-one")

    outcome = rounds(place, 2, floor=math.inf, min_age=3600.0)

    assert (outcome.announced, outcome.complete) == ((), False)
    assert files_of(place, "meta/deleted") == ["imc-one.json"]


@pytest.mark.parametrize(
    "victim",
    [
        lambda place: next(place.cache_records.glob("imc-two.json")),
        lambda place: place.image_record(images.parse_reference("r.io/two:1")),
        lambda place: next(place.chain_records.glob("*/*.json")),
    ],
)
@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff"])
def test_nothing_goes_while_a_record_is_damaged(place, victim, damage: bytes) -> None:
    writer.delete_cache(place, "imc-one")
    victim(place).write_bytes(damage)
    before = files_of(place)

    with pytest.raises(generations.CollectionRefused, match="store check"):
        rounds(place, 6, floor=math.inf)

    assert files_of(place) == before


@pytest.mark.parametrize("missing", ["image", "chain"])
def test_nothing_goes_while_something_that_a_cache_needs_is_missing(place, missing: str) -> None:
    reference = images.parse_reference("r.io/two:1")
    record = direct_reader.Reader(place).image(reference)
    assert record is not None
    if missing == "image":
        place.image_record(reference).unlink()
    else:
        place.chain_record(record.platforms[0].layers[-1].chain_id).unlink()
    writer.delete_cache(place, "imc-one")

    with pytest.raises(generations.CollectionRefused, match="missing"):
        rounds(place, 6, floor=math.inf)

    assert there(place, "one")


def test_many_layers_make_several_generations(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(records, "MAX_RETIRED_LAYERS", 4)
    place = making.store(tmp_path)
    for number in range(10):
        making.layer(place, f"stray {number}")

    hidden = rounds(place, 2, floor=0)

    assert hidden.waiting == (1, 2, 3)
    rounds(place, 3, floor=math.inf)
    assert files_of(place) == []


def test_layers_with_many_chains_make_several_generations(tmp_path, monkeypatch) -> None:
    """Nodes read no more of a record than 16 MiB: a larger one would hold up all deletions."""
    monkeypatch.setattr(plans, "_MAX_CHAINS", 4)
    place = making.store(tmp_path)
    for number in range(6):
        making.image(place, "base", f"top {number}", ref=f"r.io/app:{number}")
    rounds(place, 1)

    pending = generations.outstanding(place).pending
    planned = [generations.planned(place, token) for token in pending]
    chains = [sum(len(layer.chains) for layer in one.layers) for one in planned if one]
    assert len(chains) > 1
    assert sum(chains) == 7
    assert max(chains) <= 4


def test_a_store_in_which_nothing_has_changed_is_not_gone_through_again(place, monkeypatch) -> None:
    writer.delete_cache(place, "imc-one")
    announced = round_(place, floor=0)

    with monkeypatch.context() as patched:
        patched.setattr(reachability, "mark", lambda *_: pytest.fail("it was"))
        again = round_(place, floor=0, seen=announced.seen)
        assert round_(place, floor=0, seen=again.seen).seen == again.seen

    assert again.announced == announced.announced
    retired = round_(place, again, floor=0, seen=again.seen)
    assert (retired.unchanged, retired.waiting) == (False, (1,))
    waiting = round_(place, retired, floor=0, seen=retired.seen)
    assert (waiting.unchanged, waiting.waiting) == (True, (1,))
    doomed = round_(place, floor=1, seen=waiting.seen)
    assert (doomed.unchanged, len(doomed.announced)) == (True, 1)
    assert round_(place, floor=1, seen=doomed.seen).announced == doomed.announced
    gone = round_(place, doomed, floor=1, seen=doomed.seen)
    assert (gone.unchanged, gone.layers) == (False, 1)


def _rebuild(place: layout.Layout) -> None:
    making.cache(place, "imc-one", making.image(place, "base", ref="r.io/one:1"))


def _claim(place: layout.Layout) -> None:
    with build_claims.Claim(place, "imc-new"):
        pass


def _claim_more(place: layout.Layout) -> None:
    path = next(place.claims.iterdir())
    record = build_claims.read(path)
    path.write_bytes(records.encode(msgspec.structs.replace(record, names=[making.digest("a")])))


@pytest.mark.parametrize(
    "change",
    [
        lambda place: writer.delete_cache(place, "imc-one"),
        _rebuild,
        _claim,
        _claim_more,
        lambda place: next(place.claims.iterdir()).unlink(),
    ],
)
def test_a_change_is_seen(place, change) -> None:
    _claim(place)
    before = round_(place)
    assert round_(place, seen=before.seen).unchanged

    change(place)

    assert not round_(place, seen=before.seen).unchanged
    assert not round_(place, seen=before.seen, held=[making.digest("one")]).unchanged


def test_what_is_young_is_looked_at_again(place) -> None:
    writer.delete_cache(place, "imc-one")

    assert rounds(place, 1, min_age=3600.0).seen == ""


def test_what_is_known_of_deleted_caches_only_tells_people(place) -> None:
    """All caches that had a layer are named; a damaged record and one that is back go."""
    making.cache(place, "imc-same", making.image(place, "base", "one", ref="r.io/one:1"))
    for cache_id in ("imc-one", "imc-same"):
        writer.delete_cache(place, cache_id)
    deleted = place.deleted_caches
    (deleted / "imc-two.json").write_bytes((deleted / "imc-one.json").read_bytes())
    (deleted / "imc-odd.json").write_bytes(b"{")

    rounds(place, 2, floor=0)

    record = generations.content(place, 1)
    assert record is not None
    assert record.caches == ["imc-one", "imc-same"]
    assert files_of(place, "meta/deleted") == []
