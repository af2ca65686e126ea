"""The database: one bad change harms no other, and damage is noticed."""

import asyncio
import pathlib
import shutil
import sqlite3

import pytest

from agent.snapshotter import metadata, state_db, tables


async def outcome(database: state_db.Database, change) -> object:
    try:
        return await database.write(change)
    except (ValueError, sqlite3.Error) as error:
        return error


async def test_a_change_that_fails_harms_no_other_of_its_batch(tmp_path: pathlib.Path) -> None:
    def fail(change: tables.Transaction) -> None:
        change.add("gone", id_=5, parent="", kind=metadata.COMMITTED, labels={})
        raise ValueError("no")

    def add(name: str, id_: int, parent: str = ""):
        return lambda change: change.add(
            name, id_=id_, parent=parent, kind=metadata.COMMITTED, labels={}
        )

    database = state_db.Database(tmp_path / "db")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(outcome(database, add("k", 1)))
        failed = group.create_task(outcome(database, fail))
        last = group.create_task(outcome(database, add("l", 2, "k")))
    assert isinstance(first.result(), metadata.Snapshot)
    assert isinstance(failed.result(), ValueError)
    assert isinstance(last.result(), metadata.Snapshot)
    assert database.read.ids() == {1, 2}
    database.close()


def test_an_index_that_lies_is_damage(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "db"
    connection = state_db._open(path)
    connection.executemany(
        "INSERT INTO snapshots (id, name, kind, created, updated, labels)"
        " VALUES (?, ?, 3, 1, 1, '{}')",
        [(number, f"n{number:09d}") for number in range(1, 500)],
    )
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    for page in range(0, len(data), 4096):
        found = data.find(b"n000000300", page, page + 4096)
        if data[page] == 0x0A and found > 0:  # a leaf of an index
            data[found : found + 10] = b"n000000299"
    path.write_bytes(data)

    fresh = state_db._open_or_replace(path)

    assert fresh.execute("SELECT count(*) FROM snapshots").fetchone() == (0,)
    fresh.close()
    assert len(list(tmp_path.glob("db.damaged-*"))) == 1


def test_a_database_that_is_locked_is_not_damaged(tmp_path: pathlib.Path, monkeypatch) -> None:
    """Only damage may cost what is remembered: not a full disk, not a lock."""

    def locked(path: pathlib.Path) -> sqlite3.Connection:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    monkeypatch.setattr(state_db, "_open", locked)

    with pytest.raises(sqlite3.OperationalError):
        state_db._open_or_replace(tmp_path / "db")
    assert list(tmp_path.iterdir()) == []


async def test_the_layers_below_a_snapshots_own_come_and_go_with_it(tmp_path) -> None:
    def add(change: tables.Transaction) -> None:
        lower = [metadata.LowerLayer("c2", "d2", 2), metadata.LowerLayer("c1", "d1", 1)]
        change.add(
            "whole", id_=1, parent="", kind=3, labels={}, diff_id="d3", layer_size=3, lower=lower
        )
        change.add("middle", id_=2, parent="whole", kind=3, labels={})
        change.add("top", id_=3, parent="middle", kind=3, labels={})

    database = state_db.Database(tmp_path / "db")
    await database.write(add)
    assert [link.diff_id for link in database.read.chain("top")] == [None, None, "d3", "d2", "d1"]
    assert database.read.diff_ids() == {"d1", "d2", "d3"}
    assert database.read.has_layer("d1")
    assert [layer.chain_id for layer in database.read.lower(1)] == ["c2", "c1"]

    for name in ("top", "middle", "whole"):
        await database.write(lambda change, name=name: change.remove(name))
    assert database.read.diff_ids() == set()
    assert not database.read.has_layer("d1")
    database.close()


async def test_a_database_of_the_version_before_is_taken_over(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "db"
    database = state_db.Database(path)
    await database.write(lambda change: change.add("k", id_=1, parent="", kind=3, labels={}))
    database.close()
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE lower_layers; PRAGMA user_version = 1;")
    connection.close()
    database = state_db.Database(path)

    assert database.read.get("k").id == 1
    assert database.read.lower(1) == []
    database.close()


async def test_a_database_of_a_later_version_is_refused_and_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "db"
    state_db.Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(state_db.NewerError, match="newer uimgacc"):
        state_db.Database(path)
    assert [entry.name for entry in tmp_path.glob("db.damaged*")] == []


def make_later(path: pathlib.Path, *, readable_since: int) -> None:
    """What a later version leaves: another column, which may be empty, and its versions."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "ALTER TABLE snapshots ADD COLUMN later TEXT; PRAGMA user_version = 99;"
            f"INSERT INTO readable VALUES (99, {readable_since});"
        )
    connection.close()


async def test_a_database_that_this_version_may_use_is_used_and_keeps_its_version(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "db"
    database = state_db.Database(path)
    await database.write(lambda change: change.add("old", id_=1, parent="", kind=3, labels={}))
    database.close()
    make_later(path, readable_since=tables.VERSION)
    database = state_db.Database(path)
    await database.write(lambda change: change.add("new", id_=2, parent="", kind=3, labels={}))

    assert database.read.ids() == {1, 2}
    database.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)
        assert connection.execute("SELECT count(*), count(later) FROM snapshots").fetchone() == (
            2,
            0,
        )
    connection.close()


async def test_a_database_that_this_version_may_not_use_is_refused_with_what_to_do(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "db"
    state_db.Database(path).close()
    make_later(path, readable_since=tables.VERSION + 1)

    with pytest.raises(state_db.NewerError, match=r"go back to the newer version; or move db\*"):
        state_db.Database(path)


@pytest.mark.parametrize("lost", ["db", "db-wal", "replaced"])
async def test_nothing_is_called_durable_that_the_next_start_does_not_find(
    tmp_path: pathlib.Path, lost: str
) -> None:
    """SQLite itself goes on with the file that it has open, whether that has a name or not."""

    def add(name: str, id_: int):
        return lambda change: change.add(
            name, id_=id_, parent="", kind=metadata.COMMITTED, labels={}
        )

    database = state_db.Database(tmp_path / "db")
    await database.write(add("before", 1))
    if lost == "replaced":
        (tmp_path / "db").rename(tmp_path / "aside")
        shutil.copy(tmp_path / "aside", tmp_path / "db")
    else:
        (tmp_path / lost).unlink()

    with pytest.raises(sqlite3.Error, match="deleted or replaced") as caught:
        await database.write(add("after", 2))
    database.report(caught.value)
    with pytest.raises(sqlite3.Error, match="deleted or replaced"):
        await database.wait_failed()
    database.close()


async def test_all_that_stands_on_a_layer_is_forgotten_at_once(tmp_path: pathlib.Path) -> None:
    """Directly, below an image that is one snapshot, and below others; nothing else."""
    layer, other = "sha256:" + "a" * 64, "sha256:" + "b" * 64

    def fill(change: tables.Transaction) -> None:
        def add(name: str, id_: int, parent: str = "", *, kind=metadata.COMMITTED, **more) -> None:
            change.add(name, id_=id_, parent=parent, kind=kind, labels={}, **more)

        add("on", 1, diff_id=layer, layer_size=1)
        add("above", 2, "on")
        add("container", 3, "above", kind=metadata.ACTIVE)
        lower = [metadata.LowerLayer("c", layer, 1)]
        add("whole", 4, diff_id=other, layer_size=1, lower=lower)
        add("whole container", 5, "whole", kind=metadata.ACTIVE)
        add("apart", 6)
        add("apart container", 7, "apart", kind=metadata.ACTIVE)

    database = state_db.Database(tmp_path / "db")
    await database.write(fill)

    forgotten = await database.write(lambda change: change.forget_layer(layer))

    assert sorted(forgotten) == ["above", "container", "on", "whole", "whole container"]
    assert database.read.ids() == {6, 7}
    assert not database.read.has_layer(layer)
    assert database.read.chain("container") == ()
    assert await database.write(lambda change: change.forget_layer(layer)) == []
    database.close()
