"""The write side of the store."""

import errno
import os
import time

import pytest

from agent.model import images, records
from agent.store import decoding, layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from tests.unit.store import making


def test_a_new_store_says_its_format_and_compression(tmp_path) -> None:
    made = writer.create(tmp_path / "store", compression="none")

    assert (made.format, made.compression) == (1, "none")
    assert direct_reader.open_store(tmp_path / "store") == made


def test_creating_a_store_again_opens_it(tmp_path) -> None:
    assert writer.create(tmp_path) == writer.create(tmp_path)


def test_a_store_has_one_compression(tmp_path) -> None:
    writer.create(tmp_path, compression="lz4")

    with pytest.raises(writer.StoreMismatch, match="lz4, not none"):
        writer.create(tmp_path, compression="none")


def test_a_folder_with_other_things_does_not_become_a_store(tmp_path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(decoding.NotAStore, match="not empty"):
        writer.create(tmp_path)


def test_an_unknown_format_is_refused_with_a_reason(tmp_path) -> None:
    writer.create(tmp_path)
    (tmp_path / "store.json").write_text('{"format": 2, "id": "x"}')

    with pytest.raises(decoding.UnknownFormat, match="format 2, this uimgacc knows format 1"):
        writer.create(tmp_path)


def test_a_full_store_says_what_to_do(tmp_path, monkeypatch) -> None:
    place = making.store(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)

    with pytest.raises(writer.StoreFull, match="delete caches"):
        making.layer(place, "a")
    assert list(place.tmp.iterdir()) == []


def test_deleting_a_cache_keeps_what_another_names(tmp_path) -> None:
    place = making.store(tmp_path)
    shared = making.image(place, "a", ref="registry.io/shared:1")
    own = making.image(place, "b", ref="registry.io/own:1")
    making.cache(place, "imc-one", shared, own)
    making.cache(place, "imc-two", shared)

    writer.delete_cache(place, "imc-one")

    reader = direct_reader.Reader(place)
    assert reader.cache("imc-one") is None
    assert reader.image(images.parse_reference("registry.io/own:1")) == own
    assert reader.image(images.parse_reference("registry.io/shared:1")) == shared
    assert reader.layer(making.digest("b")) is not None


def test_deleting_what_is_not_there_says_so(tmp_path) -> None:
    with pytest.raises(writer.NoSuchCache, match="imc-none"):
        writer.delete_cache(making.store(tmp_path), "imc-none")


def test_sweeping_takes_only_what_is_old(tmp_path) -> None:
    place = making.store(tmp_path)
    old, new = place.tmp / "old", place.tmp / "new"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))

    assert writer.sweep(place) == [old]
    assert list(place.tmp.iterdir()) == [new]


@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_is_wrong_makes_nothing_old(tmp_path, monkeypatch, days) -> None:
    """Files have the time of the store's server, which is not this machine's."""
    place = making.store(tmp_path)
    old, new = place.tmp / "old", place.tmp / "new"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    skewed = time.time() + days * writer.DAY
    monkeypatch.setattr(time, "time", lambda: skewed)

    assert writer.sweep(place) == [old]
    assert list(place.tmp.iterdir()) == [new]


def test_records_are_replaced_atomically(tmp_path) -> None:
    place = making.store(tmp_path)
    record = making.cache(place, "imc-one", making.image(place, "a"))

    writer.publish_cache(place, records.CacheRecord(**{**_fields(record), "name": "new"}))

    found = direct_reader.Reader(place).cache("imc-one")
    assert found is not None
    assert found.name == "new"
    assert [path.name for path in place.cache_records.iterdir()] == ["imc-one.json"]


def _fields(record: records.CacheRecord) -> dict:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_layout_paths_are_those_of_containerds_layer_cache(tmp_path) -> None:
    diff_id = making.digest("a")
    name = diff_id.removeprefix("sha256:")

    assert layout.Layout(tmp_path).layer(diff_id) == (
        tmp_path / "sha256" / name[:2] / f"{name}.erofs"
    )
