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


def test_no_source_is_lost_where_builders_add_theirs_at_the_same_time(tmp_path) -> None:
    place = making.store(tmp_path)
    making.layer(place, "a")
    command = [sys.executable, "-c", BUILDER, str(tmp_path)]
    builders = [
        subprocess.Popen([*command, str(at), str(EACH)], cwd=ROOT) for at in range(BUILDERS)
    ]

    assert [one.wait() for one in builders] == [0] * BUILDERS
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
