"""Hash trees for layers that were published without one, by versions that made none.

A layer file never changes, so the tree gets a file of its own beside it. A tree vouches for what
it is made of, so that is compared with the layer's record first. In the hours that a store takes, a
layer may be deleted and built again: what was read then says nothing about it.
"""

import dataclasses
import functools
import pathlib
import secrets
from collections.abc import Callable, Iterator

import msgspec

from agent import errors
from agent.kits import files
from agent.model import digests, records
from agent.store import hash_tree, layout
from agent.store.lookup import direct_reader
from agent.store.publish import layer_writer, record_changes, writer

_REBUILT = "it was deleted, or built again, meanwhile"

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """One layer that had no tree: its size; `fault` says why it still has none, "" where it has."""

    diff_id: str
    size: int
    fault: str = ""


def make(place: layout.Layout, *, progress: Progress = lambda *_: None) -> Iterator[Made]:
    """Make the tree of each layer that has none; what is damaged is marked, and gets none.

    Raises NotAStore, UnknownFormat, and StoreFull.
    """
    direct_reader.open_store(place.root)
    lacking = [record for record in _layers(place) if record.verity is None]
    total = sum(record.size for record in lacking)
    done = 0
    for record in lacking:
        yield _made(place, record, functools.partial(_advance, progress, done, total))
        done += record.size
        progress(done, total)


def _advance(progress: Progress, before: int, total: int, count: int) -> None:
    progress(before + count, total)


def _layers(place: layout.Layout) -> Iterator[records.LayerRecord]:
    reader = direct_reader.Reader(place)
    for path in sorted(place.layer_records.glob("*/*.json")):
        diff_id = f"sha256:{path.stem}"
        record = reader.layer(diff_id) if digests.is_digest(diff_id) else None
        # A replaced layer is there under its own name as well.
        if record is not None and record.diff_id == diff_id:
            yield record


def _made(
    place: layout.Layout, record: records.LayerRecord, on_bytes: Callable[[int], None]
) -> Made:
    diff_id = record.diff_id
    files.make_folder(place.tmp)
    draft = place.tmp / f"{digests.hex_of(diff_id)}.{secrets.token_hex(6)}{layout.TREE}"
    try:
        with writer.translated(draft):
            chosen = hash_tree.Parameters.of(diff_id)
            sealed = hash_tree.beside(place.layer(diff_id), draft, chosen, on_bytes=on_bytes)
            if not _is_of(direct_reader.Reader(place).layer(diff_id), record):
                return Made(diff_id, record.size, _REBUILT)
            if sealed.digest != record.sha256:
                fault = "its bytes do not have the sha256 of its record"
                layer_writer.mark_damaged(place, diff_id, fault)
                return Made(diff_id, record.size, fault)
            _publish(place, draft, record, sealed.verity)
    except (FileNotFoundError, records.RecordError):
        return Made(diff_id, record.size, _REBUILT)
    except OSError as error:
        return Made(diff_id, record.size, error.strerror or str(error))
    finally:
        draft.unlink(missing_ok=True)
    return Made(diff_id, record.size)


def _is_of(there: records.LayerRecord | None, record: records.LayerRecord) -> bool:
    """Whether the record that is in the store now is of the same file."""
    return there is not None and (there.size, there.sha256) == (record.size, record.sha256)


def _publish(
    place: layout.Layout,
    draft: pathlib.Path,
    record: records.LayerRecord,
    verity: records.VerityTree,
) -> None:
    """Bring a tree to its place, then name it in the record as that is by now."""
    diff_id = record.diff_id
    tree = place.layer_tree(diff_id)
    files.publish(draft, tree)

    def with_tree(there: records.LayerRecord | None) -> records.LayerRecord:
        if there is None or not _is_of(there, record):
            raise records.RecordError(f"of layer {diff_id}", _REBUILT)
        return msgspec.structs.replace(there, verity=verity)

    try:
        record_changes.apply(place, diff_id, with_tree)
    except errors.AgentError:
        tree.unlink(missing_ok=True)
        raise
