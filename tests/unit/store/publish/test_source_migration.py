"""Sources for the layer records of earlier versions."""

import msgspec

from agent.model import records
from agent.store import integrity, layer_sources, layout
from agent.store.lookup import direct_reader
from agent.store.publish import layer_writer, source_migration, writer
from tests.unit.store import making

APP, OTHER = "registry.io/team/app", "registry.io/other/app"


def forget(place: layout.Layout, *names: str) -> None:
    """Make layer records those of an earlier version."""
    for name in names:
        record = sources_record(place, name)
        old = msgspec.structs.replace(record, sources=None)
        writer.write_record(place, place.layer_record(record.diff_id), old)


def sources_record(place: layout.Layout, name: str) -> records.LayerRecord:
    record = direct_reader.Reader(place).layer(making.digest(name))
    assert record is not None
    return record


def test_the_images_of_a_store_give_the_sources_of_their_layers(tmp_path) -> None:
    place = making.store(tmp_path)
    making.image(place, "base", "app", ref=f"{APP}:1")
    making.image(place, "base", ref=f"{OTHER}:1")
    making.image(place, "base", ref=f"{OTHER}:2")
    making.layer(place, "alone")
    making.layer(place, "known")
    forget(place, "base", "app", "alone")

    found = list(integrity.without_sources(place))
    assert source_migration.write(place) == len(found) == 3

    def sources(name: str) -> list[str] | None:
        return sources_record(place, name).sources

    assert set(sources("base") or ()) == {APP, OTHER}
    assert sources("app") == [APP]
    assert sources("alone") == []
    assert sources("known") == [making.SOURCE]
    assert list(integrity.without_sources(place)) == []
    assert source_migration.write(place) == 0


def test_a_file_that_replaces_a_damaged_one_gets_the_sources_of_its_layer(tmp_path) -> None:
    place = making.store(tmp_path)
    making.layer(place, "a")
    layer_writer.mark_damaged(place, making.digest("a"), "its bytes")
    place.layer(making.digest("a")).write_bytes(b"other")
    image = making.image(place, "a", ref=f"{APP}:1")
    chain = direct_reader.Reader(place).chain(image.platforms[0].layers[0].chain_id)
    assert chain is not None
    forget(place, "a")

    source_migration.write(place)

    assert chain.variant_of == making.digest("a")
    assert sources_record(place, "a").sources == [APP]


def test_an_image_that_is_published_between_reading_and_writing_counts(
    tmp_path, monkeypatch
) -> None:
    place = making.store(tmp_path)
    making.image(place, "base", ref=f"{APP}:1")
    forget(place, "base")
    read = source_migration._repositories

    def read_then_publish(where: layout.Layout) -> dict[str, dict[str, None]]:
        repositories = read(where)
        if direct_reader.Reader(place).image(direct_reader.images.parse_reference(OTHER)) is None:
            making.image(place, "base", ref=f"{OTHER}:latest")
            forget(place, "base")
        return repositories

    monkeypatch.setattr(source_migration, "_repositories", read_then_publish)

    source_migration.write(place)

    assert set(sources_record(place, "base").sources or ()) == {APP, OTHER}


def test_a_build_that_published_meanwhile_adds_its_repository(tmp_path) -> None:
    place = making.store(tmp_path)
    record = making.layer(place, "a")
    forget(place, "a")
    origin = layer_sources.Origin(OTHER, record.blobs[0], is_public=False)
    old = sources_record(place, "a")
    assert layer_writer.add_origin(place, old, origin) == old
    source_migration.write(place)

    layer_writer.add_origin_anew(place, old.diff_id, origin)

    assert sources_record(place, "a").sources == [OTHER]
