"""The layer files of a store, and the records that vouch for them.

A layer file that is there is never replaced: nodes may have it mounted, and on NFS a
rename over a file that another client reads takes it away from that client (ESTALE).
So layers are published with link(2), which fails where something is. A file there with
the same bytes is kept; beside one with other bytes, which is damaged then, the new one is
published under another name, and the chains that a build writes name that one.
"""

import contextlib
import logging
import os
import pathlib
import secrets
from collections.abc import Callable, Collection

import msgspec

from agent import errors
from agent.kits import files
from agent.model import digests, records
from agent.store import decoding, hash_tree, layer_file, layer_sources, layout, signatures
from agent.store.lookup import direct_reader
from agent.store.publish import record_changes, writer

logger = logging.getLogger(__name__)


class NoPlaceLeft(errors.PermanentError):
    """A layer was found damaged again and again. `diff_id` is the layer."""

    def __init__(self, diff_id: str) -> None:
        super().__init__(
            f"layer {diff_id} was damaged {digests.MAX_REPLACEMENTS} times:"
            " is the store's server sound?"
        )
        self.diff_id = diff_id


def draft_of(place: layout.Layout, diff_id: str) -> pathlib.Path:
    """A new path in tmp/ for the making of a layer file."""
    files.make_folder(place.tmp)
    return place.tmp / f"{digests.hex_of(diff_id)}.{secrets.token_hex(6)}.erofs"


Believes = Callable[[records.LayerRecord], bool]
"""Whether a record that is in the store already may be used."""


def believe_all(record: records.LayerRecord) -> bool:
    """Use every record: where nothing is signed."""
    return True


def publish_layer(
    place: layout.Layout,
    draft: pathlib.Path,
    record: records.LayerRecord,
    believes: Believes = believe_all,
) -> records.LayerRecord:
    """Bring a finished layer file to its place, then write its record.

    Returns the record that is in the store afterwards: another builder's where that
    one was faster, and is believed. Where a file with other bytes is at its place, that one
    stays: the new one is published under another name, which is the `diff_id` of the
    returned record. The draft is gone in any case. Raises RecordTooLarge, StoreFull and
    NoPlaceLeft.
    """
    try:
        # What is too large is refused before anything is published.
        writer.encoded(place.layer_record(record.diff_id), record)
        with writer.translated(place.layer(record.diff_id)):
            return _publish_layer(place, draft, record, believes)
    finally:
        draft.unlink(missing_ok=True)


def _publish_layer(
    place: layout.Layout, draft: pathlib.Path, record: records.LayerRecord, believes: Believes
) -> records.LayerRecord:
    if (there := _publish_as(place, draft, record, believes)) is not None:
        return there
    for number in range(1, digests.MAX_REPLACEMENTS):
        name = digests.replacement_id(record.diff_id, number)
        renamed = msgspec.structs.replace(record, diff_id=name)
        there = _publish_as(place, draft, renamed, believes)
        if there is not None:
            noted = _note_replacement(place, record, name)
            return add_origins_of(place, there, noted)
    raise NoPlaceLeft(record.diff_id)


def _publish_as(
    place: layout.Layout, draft: pathlib.Path, record: records.LayerRecord, believes: Believes
) -> records.LayerRecord | None:
    """Publish a layer under the name in its record; None where a file with other bytes is there."""
    there = _believed(place, record, believes)
    if there is None:
        _write_sidecar(place, record)
        try:
            is_there = _link_layer(draft, place.layer(record.diff_id), record.sha256)
        except OSError:
            if not place.layer(record.diff_id).exists():
                place.layer_sidecar(record.diff_id).unlink(missing_ok=True)
            raise
        if is_there:
            _correct_sidecar(place, record)
        # Another builder may have written its record meanwhile.
        there = _believed(place, record, believes)
        if there is None and not is_there:
            return None
    if there is None:
        return record_changes.apply(
            place, record.diff_id, lambda old: _joined(record, old, believes)
        )
    return add_origins_of(place, there, record)


def _joined(
    record: records.LayerRecord, there: records.LayerRecord | None, believes: Believes
) -> records.LayerRecord:
    """The record of a file that is in its place, where `there` is what stands in its record."""
    if there is None:
        return record
    has_same_bytes = (there.size, there.sha256) == (record.size, record.sha256)
    if not there.damaged and has_same_bytes and believes(there):
        return layer_sources.merged(there, record)
    return layer_sources.merged(record, there)


def _believed(
    place: layout.Layout, record: records.LayerRecord, believes: Believes
) -> records.LayerRecord | None:
    """The record that is in the store, if it may be used."""
    there = direct_reader.Reader(place).layer(record.diff_id)
    return there if there is not None and believes(there) else None


def _write_sidecar(place: layout.Layout, record: records.LayerRecord) -> None:
    """For containerd 2.4, which looks for it once the layer is there.

    Where another file has the layer's place already, that one may need another sidecar, or none.
    Where another builder is about to take that place, it may have written its own: see
    _correct_sidecar.
    """
    if record.verity is None or place.layer(record.diff_id).exists():
        return
    data = hash_tree.sidecar(record.verity)
    writer.write_once(place, place.layer_sidecar(record.diff_id), data)


def _correct_sidecar(place: layout.Layout, record: records.LayerRecord) -> None:
    """Have the sidecar be that of the file which has the layer's place.

    Of builders that make different bytes, one may have written the sidecar before another got
    the place. None writes one later: this is done by the one whose file it is.
    """
    if record.verity is None:
        return
    path, data = place.layer_sidecar(record.diff_id), hash_tree.sidecar(record.verity)
    try:
        is_correct = path.read_bytes() == data
    except FileNotFoundError:
        is_correct = False
    if not is_correct:
        files.write(path, data, tmp=place.tmp)


def _note_replacement(
    place: layout.Layout, record: records.LayerRecord, name: str
) -> records.LayerRecord:
    """Write into a layer's record that another file replaces its own; returns that record."""
    logger.warning(
        "a layer file is not what a build makes; it stays, and the new one is beside it",
        extra={"layer": record.diff_id, "new": name},
    )
    reason = "a build made other bytes of this layer"

    def noted(there: records.LayerRecord | None) -> records.LayerRecord:
        joined = record if there is None else layer_sources.merged(record, there)
        return msgspec.structs.replace(joined, damaged=reason, replaced_by=name)

    return record_changes.apply(place, record.diff_id, noted) or record


def mark_damaged(place: layout.Layout, diff_id: str, reason: str) -> None:
    """Have a layer not served any more, and made anew by the next build that needs it.

    For a layer whose record can be read; one whose record cannot is like that already.
    """

    def marked(there: records.LayerRecord | None) -> records.LayerRecord:
        if there is None:
            raise records.RecordError(f"of layer {diff_id}", "it cannot be read")
        return msgspec.structs.replace(there, damaged=reason, replaced_by=None)

    record_changes.apply(place, diff_id, marked)


def add_origin(
    place: layout.Layout, record: records.LayerRecord, origin: layer_sources.Origin
) -> records.LayerRecord | None:
    """Record where a stored layer was given to a build; nothing is written where that is known.

    Returns the record that is there afterwards: None where it went meanwhile.
    """
    if layer_sources.with_origin(record, origin) is record:
        return record
    return add_origin_anew(place, record.diff_id, origin)


def add_origin_anew(
    place: layout.Layout, diff_id: str, origin: layer_sources.Origin
) -> records.LayerRecord | None:
    """The same, from the record as it is now."""
    return record_changes.apply(
        place,
        diff_id,
        lambda there: None if there is None else layer_sources.with_origin(there, origin),
    )


def add_origins_of(
    place: layout.Layout, record: records.LayerRecord, other: records.LayerRecord
) -> records.LayerRecord:
    """Give the record of a stored layer the origins of another record of the same layer."""
    if layer_sources.merged(record, other) is record:
        return record
    written = record_changes.apply(
        place, record.diff_id, lambda there: layer_sources.merged(there or record, other)
    )
    if written is None or signatures.of_layer(written) != signatures.of_layer(record):
        return record  # `record` was made or verified by the caller; what was read here was not
    return written


def take_back(
    place: layout.Layout, diff_ids: Collection[str], others: Callable[[], Collection[str]]
) -> None:
    """Remove layers that a build has just made and that no image needs.

    `others` returns what other builds count on. A build claims a layer before it looks for
    its record: so either it finds none, or `others`, asked after the record is gone, has it.
    A build that finds none makes the layer anew, while this one may stand still: so the file is
    moved aside first, and what is at its place afterwards is left alone.
    """
    needed = writer.referenced(direct_reader.Reader(place))
    going: dict[str, tuple[bytes, pathlib.Path]] = {}
    for diff_id in diff_ids:
        if digests.hex_of(diff_id) not in needed:
            path = place.layer_record(diff_id)
            with (
                record_changes.locked(place, diff_id),
                contextlib.suppress(FileNotFoundError),
            ):
                data = path.read_bytes()
                path.unlink()
                going[diff_id] = data, _moved_aside(place, diff_id)
    claimed = others() if going else ()
    for diff_id, (data, aside) in going.items():
        if diff_id in claimed:
            _put_back(place, decoding.layer(data, diff_id), aside)
        aside.unlink(missing_ok=True)


def _moved_aside(place: layout.Layout, diff_id: str) -> pathlib.Path:
    """Take a layer file from its place, with what is beside it; returns where it is."""
    aside = draft_of(place, diff_id)
    with contextlib.suppress(FileNotFoundError):
        place.layer(diff_id).rename(aside)
    for path in place.companions(diff_id):
        path.unlink(missing_ok=True)
    return aside


def _put_back(place: layout.Layout, record: records.LayerRecord, aside: pathlib.Path) -> None:
    """Have a layer be there again; where another build has made it meanwhile, that one stays."""
    _write_sidecar(place, record)
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        place.layer(record.diff_id).hardlink_to(aside)
        files.sync_folder(place.layer(record.diff_id).parent)
    record_changes.apply(
        place,
        record.diff_id,
        lambda there: record if there is None else layer_sources.merged(there, record),
    )


def _link_layer(draft: pathlib.Path, target: pathlib.Path, digest: str) -> bool:
    """Bring a layer file to its place; whether a file with its bytes is there now.

    A file that is there is never replaced, whatever its record says: nodes may have it mounted.
    """
    files.make_folder(target.parent)
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        target.hardlink_to(draft)
    except FileExistsError:
        if not _has_bytes(target, draft, digest):
            return False
    files.sync_folder(target.parent)
    return True


def _has_bytes(target: pathlib.Path, draft: pathlib.Path, digest: str) -> bool:
    return target.stat().st_size == draft.stat().st_size and layer_file.sha256_of(target) == digest
