"""The tables of snapshots: their queries and changes, run by agent.snapshotter.state_db.

Parents are held by id, so that a key can be renamed by Commit and used again after Remove.
`diff_id` is set for a layer of the store. Such a snapshot may have more of them below its
own, in `lower_layers`: a whole image in one snapshot.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.model import keys
from agent.snapshotter import filters, metadata

_PAGE = 200
_CHAINS = 64
"""Chains that are remembered."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshots(id),
    kind INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    labels TEXT NOT NULL,
    ref TEXT,
    diff_id TEXT,
    layer_size INTEGER,
    size INTEGER,
    inodes INTEGER
);
CREATE INDEX IF NOT EXISTS by_ref ON snapshots(ref) WHERE ref IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_parent ON snapshots(parent);
CREATE INDEX IF NOT EXISTS by_diff_id ON snapshots(diff_id) WHERE diff_id IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS remote
    ON snapshots(ref, coalesce(parent, 0)) WHERE diff_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS lower_layers (
    snapshot INTEGER NOT NULL REFERENCES snapshots(id) ON DELETE CASCADE,
    depth INTEGER NOT NULL,
    chain_id TEXT NOT NULL,
    diff_id TEXT NOT NULL,
    layer_size INTEGER NOT NULL,
    PRIMARY KEY (snapshot, depth)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lower_by_diff_id ON lower_layers(diff_id);
CREATE INDEX IF NOT EXISTS lower_by_chain_id ON lower_layers(chain_id);
CREATE TABLE IF NOT EXISTS id_maps (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots(id) ON DELETE CASCADE,
    maps TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS readable (version INTEGER PRIMARY KEY, since INTEGER NOT NULL);
"""

VERSION = 3
"""Of the tables, in SQLite's user_version. 2 has `lower_layers`, which 1 would not look at. 3 has
`id_maps`, without which 2 serves all but pods in user namespaces."""

READABLE_SINCE = 2
"""The oldest version of the tables whose snapshotter may work with these: it reads right what it
knows, and loses nothing of the rest. In the table `readable`, for snapshotters that do not know
these tables."""


def make(connection: sqlite3.Connection) -> None:
    """Create the tables, or bring those of an earlier version up to date."""
    connection.executescript(SCHEMA)
    row = (VERSION, READABLE_SINCE)
    connection.execute("INSERT OR REPLACE INTO readable VALUES (?, ?)", row)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the tables of a database; 0 of an empty one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_readable(connection: sqlite3.Connection) -> bool:
    """Whether a snapshotter of this version may work with tables of a later one."""
    query = "SELECT since FROM readable WHERE version = ?"
    try:
        row = connection.execute(query, (version_of(connection),)).fetchone()
    except sqlite3.OperationalError:
        return False
    return row is not None and int(row[0]) <= VERSION


_SELECT = (
    "SELECT s.id, s.name, coalesce(p.name, ''), s.kind, s.created, s.updated, s.labels,"
    " s.diff_id, s.layer_size, s.size, s.inodes FROM snapshots s"
    " LEFT JOIN snapshots p ON p.id = s.parent "
)

_CHAIN = """
WITH RECURSIVE chain(id, parent, diff_id, layer_size, depth) AS (
    SELECT id, parent, diff_id, layer_size, 0 FROM snapshots WHERE id = ?
    UNION ALL
    SELECT s.id, s.parent, s.diff_id, s.layer_size, depth + 1
    FROM snapshots s JOIN chain ON s.id = chain.parent
)
SELECT id, diff_id, layer_size, m.maps, depth, 0 AS lower
FROM chain LEFT JOIN id_maps m ON m.snapshot = chain.id
UNION ALL
SELECT id, l.diff_id, l.layer_size, NULL, chain.depth, l.depth
FROM chain JOIN lower_layers l ON l.snapshot = chain.id
ORDER BY depth, lower
"""

_STANDING = """
WITH RECURSIVE standing(id) AS (
    SELECT id FROM snapshots WHERE diff_id = :layer
    UNION SELECT snapshot FROM lower_layers WHERE diff_id = :layer
    UNION SELECT s.id FROM snapshots s JOIN standing ON s.parent = standing.id
)
SELECT s.id, s.name FROM snapshots s JOIN standing ON s.id = standing.id
"""


def _snapshot(row: tuple[Any, ...]) -> metadata.Snapshot:
    values: list[Any] = list(row)
    values[6] = json.loads(values[6])
    return metadata.Snapshot(*values)


class Reader:
    """Queries; all of them touch the database only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._chains: dict[int, tuple[metadata.Link, ...]] = {}

    def has(self, name: str) -> bool:
        """Whether there is a snapshot of that key or name."""
        query = "SELECT 1 FROM snapshots WHERE name = ?"
        return self._connection.execute(query, (name,)).fetchone() is not None

    def find(self, name: str) -> metadata.Snapshot | None:
        """The snapshot of that key or name."""
        row = self._connection.execute(_SELECT + "WHERE s.name = ?", (name,)).fetchone()
        return _snapshot(row) if row else None

    def get(self, name: str) -> metadata.Snapshot:
        """The snapshot of that key or name; raises NotFoundError."""
        snapshot = self.find(name)
        if snapshot is None:
            raise metadata.NotFoundError(name)
        return snapshot

    def chain(self, name: str) -> tuple[metadata.Link, ...]:
        """The snapshot itself and all below it, topmost first; empty if there is none.

        That never changes while the snapshot exists, and no id is given twice: what was
        read is remembered. A hundred containers of one image read it once.
        """
        query = "SELECT id FROM snapshots WHERE name = ?"
        row = self._connection.execute(query, (name,)).fetchone()
        if row is None:
            return ()
        known = self._chains.get(row[0])
        if known is None:
            known = tuple(metadata.Link(*row[:4]) for row in self._connection.execute(_CHAIN, row))
            while len(self._chains) >= _CHAINS:
                del self._chains[next(iter(self._chains))]
            self._chains[row[0]] = known
        return known

    def id_maps(self, id_: int) -> str | None:
        """The maps of the user namespace that a snapshot was made for."""
        row = self._connection.execute(
            "SELECT maps FROM id_maps WHERE snapshot = ?", (id_,)
        ).fetchone()
        return row[0] if row else None

    def lower(self, id_: int) -> list[metadata.LowerLayer]:
        """The layers of the store below a snapshot's own, topmost first."""
        rows = self._connection.execute(
            "SELECT chain_id, diff_id, layer_size FROM lower_layers WHERE snapshot = ?"
            " ORDER BY depth",
            (id_,),
        )
        return [metadata.LowerLayer(*row) for row in rows]

    def within(self, chain_id: str) -> list[metadata.LowerLayer]:
        """The layers of a chain, topmost first, that a snapshot of more layers has below its own.

        Empty where none has it.
        """
        rows = self._connection.execute(
            "SELECT chain_id, diff_id, layer_size FROM lower_layers JOIN"
            " (SELECT snapshot AS of, depth AS top FROM lower_layers WHERE chain_id = ? LIMIT 1)"
            " ON snapshot = of AND depth >= top ORDER BY depth",
            (chain_id,),
        )
        return [metadata.LowerLayer(*row) for row in rows]

    def remote(self, ref: str, parent: str) -> metadata.Snapshot | None:
        """The store's layer recorded for a chain ID on a given backend parent."""
        row = self._connection.execute(
            _SELECT + "WHERE s.ref = ? AND s.diff_id IS NOT NULL AND coalesce(p.name, '') = ?",
            (ref, parent),
        ).fetchone()
        return _snapshot(row) if row else None

    def walk(
        self, wanted: Sequence[tuple[filters.Selector, ...]]
    ) -> Iterator[list[metadata.Snapshot]]:
        """Snapshots that match the filters, in pages; the store's layers first.

        Each page is a query of its own, so that a slow receiver holds nothing. A
        filter that names a snapshot.ref or a name is answered from an index.
        """
        narrow = self._narrow(wanted)
        last = -1
        while True:
            condition, arguments = narrow
            rows = self._connection.execute(
                _SELECT + "WHERE s.id > ? AND " + condition + " ORDER BY s.id LIMIT ?",
                (last, *arguments, _PAGE),
            ).fetchall()
            page = [_snapshot(row) for row in rows]
            matching = [one for one in page if filters.any_matches(wanted, one.field)]
            matching.sort(key=lambda one: one.diff_id is None)
            if matching:
                yield matching
            if len(page) < _PAGE:
                return
            last = page[-1].id

    @staticmethod
    def _narrow(wanted: Sequence[tuple[filters.Selector, ...]]) -> tuple[str, tuple[str, ...]]:
        if len(wanted) == 1:
            for column, field, key in (
                ("s.ref", "labels", keys.SNAPSHOT_REF),
                ("s.name", "name", ""),
            ):
                value = filters.required(wanted[0], field, key)
                if value is not None:
                    return f"{column} = ?", (value,)
        return "1", ()

    def diff_ids(self) -> set[str]:
        """The layers of the store that snapshots refer to."""
        rows = self._connection.execute(
            "SELECT diff_id FROM snapshots WHERE diff_id IS NOT NULL"
            " UNION SELECT diff_id FROM lower_layers"
        )
        return {row[0] for row in rows}

    def has_layer(self, diff_id: str) -> bool:
        """Whether a snapshot refers to this layer of the store."""
        row = self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM snapshots WHERE diff_id = :layer)"
            " OR EXISTS (SELECT 1 FROM lower_layers WHERE diff_id = :layer)",
            {"layer": diff_id},
        ).fetchone()
        return bool(row[0])

    def ids(self) -> set[int]:
        """The ids of all snapshots."""
        return {row[0] for row in self._connection.execute("SELECT id FROM snapshots")}

    def last_id(self) -> int:
        """The highest id that was ever given."""
        row = self._connection.execute(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'snapshots'"
        ).fetchone()
        return int(row[0]) if row else 0


class Transaction(Reader):
    """Changes; each is all done or not at all."""

    def add(
        self,
        name: str,
        *,
        id_: int,
        parent: str,
        kind: int,
        labels: Mapping[str, str],
        diff_id: str | None = None,
        layer_size: int | None = None,
        lower: Sequence[metadata.LowerLayer] = (),
        id_maps: str | None = None,
    ) -> metadata.Snapshot:
        """Record a new snapshot. Raises ExistsError, NotFoundError (the parent), InvalidError."""
        parent_id = None
        if parent:
            query = "SELECT id, kind FROM snapshots WHERE name = ?"
            row = self._connection.execute(query, (parent,)).fetchone()
            if row is None:
                raise metadata.NotFoundError(parent)
            parent_id, parent_kind = row
            if parent_kind != metadata.COMMITTED:
                raise metadata.InvalidError(f"parent {parent} is not a committed snapshot")
        now = time.time_ns()
        values = (id_, name, parent_id, kind, now, now, json.dumps(dict(labels)))
        try:
            self._connection.execute(
                "INSERT INTO snapshots (id, name, parent, kind, created, updated, labels,"
                " ref, diff_id, layer_size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, labels.get(keys.SNAPSHOT_REF), diff_id, layer_size),
            )
        except sqlite3.IntegrityError as error:
            raise metadata.ExistsError(name) from error
        self._connection.executemany(
            "INSERT INTO lower_layers VALUES (?, ?, ?, ?, ?)",
            [(id_, depth, *layer) for depth, layer in enumerate(lower, 1)],
        )
        if id_maps is not None:
            self._connection.execute("INSERT INTO id_maps VALUES (?, ?)", (id_, id_maps))
        return metadata.Snapshot(
            id_, name, parent, kind, now, now, dict(labels), diff_id, layer_size, None, None
        )

    def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Turn the active snapshot `key` into the committed `name` with just these labels."""
        snapshot = self.get(key)
        if snapshot.kind != metadata.ACTIVE:
            raise metadata.StateError(
                f"snapshot {key} is not active: only what was prepared can be committed"
            )
        if self.find(name) is not None:
            raise metadata.ExistsError(name)
        now = time.time_ns()
        self._connection.execute(
            "UPDATE snapshots SET name = ?, kind = ?, created = ?, updated = ?, labels = ?, ref = ?"
            " WHERE id = ?",
            (
                name,
                metadata.COMMITTED,
                now,
                now,
                json.dumps(dict(labels)),
                labels.get(keys.SNAPSHOT_REF),
                snapshot.id,
            ),
        )

    def remove(self, key: str) -> metadata.Snapshot:
        """Forget a snapshot; raises NotFoundError, StateError while others stand on it."""
        snapshot = self.get(key)
        child = self._connection.execute(
            "SELECT name FROM snapshots WHERE parent = ? LIMIT 1", (snapshot.id,)
        ).fetchone()
        if child is not None:
            raise metadata.StateError(f"cannot remove snapshot {key}: {child[0]} stands on it")
        self._connection.execute("DELETE FROM snapshots WHERE id = ?", (snapshot.id,))
        return snapshot

    def forget_layer(self, diff_id: str) -> list[str]:
        """Forget all snapshots that stand on a layer of the store; their keys or names."""
        rows = self._connection.execute(_STANDING, {"layer": diff_id}).fetchall()
        places = ", ".join("?" for _ in rows)
        # By one statement: snapshots refer to their parents.
        self._connection.execute(
            f"DELETE FROM snapshots WHERE id IN ({places})",  # noqa: S608 - question marks
            [row[0] for row in rows],
        )
        return [row[1] for row in rows]

    def relabel(self, name: str, labels: Mapping[str, str]) -> metadata.Snapshot:
        """Replace a snapshot's labels."""
        self.get(name)
        self._connection.execute(
            "UPDATE snapshots SET labels = ?, ref = ?, updated = ? WHERE name = ?",
            (json.dumps(dict(labels)), labels.get(keys.SNAPSHOT_REF), time.time_ns(), name),
        )
        return self.get(name)

    def set_usage(self, id_: int, size: int, inodes: int) -> None:
        """Remember what a committed snapshot occupies."""
        self._connection.execute(
            "UPDATE snapshots SET size = ?, inodes = ? WHERE id = ? AND kind = ?",
            (size, inodes, id_, metadata.COMMITTED),
        )
