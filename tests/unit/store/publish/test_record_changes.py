"""Layer records that several builders change at once."""

import pathlib
import subprocess
import sys

import pytest

from agent.store.lookup import direct_reader
from agent.store.publish import record_changes
from tests.unit.store import making

ROOT = pathlib.Path(__file__).parents[4]
BUILDERS, EACH = 4, 25
BUILDER = """
import pathlib, sys
from agent.store import layer_sources, layout
from agent.store.publish import layer_writer
from tests.unit.store import making
place = layout.Layout(pathlib.Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    name = f"registry.io/builder{sys.argv[2]}/app{number}"
    origin = layer_sources.Origin(name, making.digest(name), is_public=False)
    assert layer_writer.add_origin(place, making.layer_record("a"), origin) is not None
"""


PUBLISHER = """
import pathlib, sys
import msgspec
from agent.store import layout
from agent.store.publish import layer_writer
from tests.unit.store import making
place = layout.Layout(pathlib.Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    name = f"layer {number}"
    sources = [f"registry.io/builder{sys.argv[2]}"]
    record = msgspec.structs.replace(making.layer_record(name), sources=sources)
    draft = layer_writer.draft_of(place, record.diff_id)
    draft.write_bytes(making.erofs(name.encode()))
    layer_writer.publish_layer(place, draft, record)
"""


def run(script: str, root: pathlib.Path) -> None:
    """Run a script in some processes at the same time."""
    command = [sys.executable, "-c", script, str(root)]
    builders = [
        subprocess.Popen([*command, str(at), str(EACH)], cwd=ROOT) for at in range(BUILDERS)
    ]
    assert [one.wait() for one in builders] == [0] * BUILDERS


def test_builders_that_publish_the_same_layer_at_once_are_all_its_sources(tmp_path) -> None:
    place = making.store(tmp_path)

    run(PUBLISHER, tmp_path)

    expected = {f"registry.io/builder{at}" for at in range(BUILDERS)}
    reader = direct_reader.Reader(place)
    for number in range(EACH):
        record = reader.layer(making.digest(f"layer {number}"))
        assert record is not None
        assert set(record.sources or ()) == expected


def test_no_source_is_lost_where_builders_add_theirs_at_the_same_time(tmp_path) -> None:
    place = making.store(tmp_path)
    making.layer(place, "a")

    run(BUILDER, tmp_path)

    record = direct_reader.Reader(place).layer(making.digest("a"))
    assert record is not None
    assert len(record.sources or ()) == len(record.blobs) == BUILDERS * EACH + 1


def test_a_change_that_changes_nothing_writes_nothing(tmp_path) -> None:
    place = making.store(tmp_path)
    made = making.layer(place, "a")
    inode = place.layer_record(made.diff_id).stat().st_ino

    assert record_changes.apply(place, made.diff_id, lambda there: there) == made
    assert record_changes.apply(place, making.digest("none"), lambda there: there) is None
    assert place.layer_record(made.diff_id).stat().st_ino == inode
    assert not place.layer_record(making.digest("none")).exists()


def test_a_lock_that_is_never_given_back_is_an_error_that_names_it(tmp_path, monkeypatch) -> None:
    place = making.store(tmp_path)
    made = making.layer(place, "a")
    monkeypatch.setattr(record_changes, "_DEADLINE", 0.1)

    with (
        record_changes.locked(place, made.diff_id),
        pytest.raises(record_changes.RecordsBusy, match=r"locks/[0-9a-f]{2}\.lock"),
    ):
        record_changes.apply(place, made.diff_id, lambda there: there)
