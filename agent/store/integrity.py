"""Is everything in the store what its record says? Reads every byte, and deletes nothing.

Findings are yielded as they are made, so a person sees the first at once.
"""

import dataclasses
import enum
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

from agent import errors
from agent.model import digests, images, records
from agent.model.starts import profile_codec
from agent.store import decoding, hash_tree, layer_file, layout, profile_files, signatures
from agent.store.gc import generations
from agent.store.index import index_files
from agent.store.lookup import direct_reader, file_reads
from agent.store.publish import build_claims, layer_writer, source_migration, writer

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


class Kind(enum.Enum):
    """What is wrong with a thing."""

    DAMAGED = "damaged"
    MISSING = "missing"
    ORPHANED = "orphaned"
    LEFTOVER = "leftover"
    NO_SOURCES = "no sources"
    UNSIGNED = "unsigned"
    NO_INDEX = "no index"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, why, and what to do about it."""

    kind: Kind
    path: pathlib.Path
    reason: str
    fix: str


_REBUILD = "create the caches that use it again: a build makes what is missing or damaged anew"
_RECORD = (
    "harmless: the image records decide who may have it; `uimgacc store check --repair` writes it"
    " down"
)
_NO_INDEX = (
    "harmless where caches are few: nodes read all of them for each pod. The controller makes the"
    " index, and so does `uimgacc store check --repair`"
)
_NO_ENTRY = (
    "nodes do not find this cache for some pods, which pull as usual: run"
    " `uimgacc store check --repair`"
)
_UNMARKED = (
    "the layer could not be marked as damaged: run `uimgacc store check` where the store can be"
    " written, then create the caches that use it again"
)
_PROFILE = "harmless: remove it by hand; the next first start of the image makes another"
_PRUNE = "harmless; the controller frees the space, or `uimgacc store prune` without a cluster"
_SURPLUS = "of a build or a deletion that was cut off: remove it by hand once no build runs"
_SIGN = (
    "nodes that have these keys do not use it: create the caches that use it again, or run"
    " `uimgacc store sign` where you trust what is in the store"
)
_STANDS = (
    "nothing is deleted from the store until this file is gone: move it away once no build runs"
    " (a claim), or restore it (anything else)"
)


def check(
    place: layout.Layout,
    *,
    content: bool = True,
    mark: bool = False,
    progress: Progress | None = None,
    trust: signatures.Trust | None = None,
) -> Iterator[Finding]:
    """Verify a store; `content=False` leaves out the reading of the layer files.

    With `trust` every record that a node would ask a signature for must have one.

    With `mark` the record of each damaged layer file says so from then on: then no node
    serves the layer, and the next build makes it anew. Nothing else is ever changed.

    Raises NotAStore and UnknownFormat.
    """
    direct_reader.open_store(place.root)
    damage: list[Finding] = []
    reader = direct_reader.Reader(
        place,
        on_damage=lambda name, reason: damage.append(
            Finding(Kind.DAMAGED, pathlib.Path(name), reason, _REBUILD)
        ),
    )
    verifier = _Verifier(place, reader, mark=mark, trust=trust)
    yield from verifier.layers(content=content, progress=progress or (lambda *_: None))
    damage.clear()
    for step in (verifier.chains, verifier.blobs, verifier.images, verifier.caches):
        yield from step()
        yield from damage
        damage.clear()
    yield from _check_profiles(place)
    yield from _check_deletions(place)
    yield from _check_tmp(place)


def without_sources(place: layout.Layout) -> Iterator[Finding]:
    """The layer records that do not say which repositories the layer came from."""
    for path in source_migration.unrecorded(place):
        reason = "a record of an earlier version: it names no repository that the layer came from"
        yield Finding(Kind.NO_SOURCES, path, reason, _RECORD)


def index_faults(place: layout.Layout) -> Iterator[Finding]:
    """What is wrong with the entries by which nodes find caches."""
    if not index_files.is_complete(place):
        reason = "the index of caches is not complete"
        yield Finding(Kind.NO_INDEX, place.index_mark, reason, _NO_INDEX)
        return
    for cache_id in index_files.lacking(place):
        reason = "the index of caches lacks entries for it"
        yield Finding(Kind.MISSING, place.cache_record(cache_id), reason, _NO_ENTRY)


class _Verifier:
    """One look at all of a store; damaged records are reported by `reader`."""

    def __init__(
        self,
        place: layout.Layout,
        reader: direct_reader.Reader,
        *,
        mark: bool,
        trust: signatures.Trust | None,
    ) -> None:
        self._place = place
        self._reader = reader
        self._mark = mark
        self._trust = trust
        self._needed = writer.referenced(reader)
        self._replaced: set[str] = set()

    def layers(self, *, content: bool, progress: Progress) -> Iterator[Finding]:
        place = self._place
        layer_files = sorted(place.layer_files.glob("*/*"))
        total = sum(path.stat().st_size for path in layer_files) if content else 0
        done = 0
        for path in layer_files:
            size = path.stat().st_size
            if (layer := _companion_of(place, path)) is not None:
                if not layer.exists():
                    yield Finding(Kind.LEFTOVER, path, f"{layer.name} is not there", _SURPLUS)
            elif path != _own_place(place, path):
                reason = "not the name of a layer file"
                yield Finding(Kind.ORPHANED, path, reason, "remove it by hand")
            else:
                yield from self._layer(path, content=content)
            done += size
            progress(done, total)
        for path in sorted(place.layer_records.glob("*/*.json")):
            if not place.layer(f"sha256:{path.stem}").exists():
                reason = "the record is there, the layer file is not"
                yield Finding(Kind.MISSING, place.layer(f"sha256:{path.stem}"), reason, _REBUILD)

    def _layer(self, path: pathlib.Path, *, content: bool) -> Iterator[Finding]:
        diff_id = f"sha256:{path.stem}"
        record_path = self._place.layer_record(diff_id)
        try:
            data = file_reads.read(str(record_path), file_reads.LOOKUP_LIMIT)
            record = decoding.layer(data, diff_id)
        except FileNotFoundError:
            yield self._without_layer(path, path.stem, "a layer file without a record")
            return
        except OSError as error:
            yield Finding(Kind.DAMAGED, record_path, error.strerror or str(error), _REBUILD)
            return
        except records.RecordError as error:
            yield Finding(Kind.DAMAGED, record_path, error.reason, _REBUILD)
            return
        if record.damaged and self._reader.layer(diff_id) is not None:
            self._replaced.add(diff_id)
        elif record.damaged:
            yield Finding(Kind.DAMAGED, path, record.damaged, _REBUILD)
        elif fault := self._fault(path, record, content=content):
            fix = _REBUILD if not self._mark or self._marked(diff_id, fault) else _UNMARKED
            yield Finding(Kind.DAMAGED, path, fault, fix)
        else:
            yield from self._signed(record_path, signatures.of_layer(record), record.signatures)

    def _signed(
        self,
        path: pathlib.Path,
        statement: signatures.Statement,
        present: Sequence[records.Signature],
    ) -> Iterator[Finding]:
        if self._trust is not None and not self._trust.has_signed(statement, present):
            keys = ", ".join(each.key for each in present)
            reason = f"its signatures (of {keys}) do not count" if keys else "it has no signature"
            yield Finding(Kind.UNSIGNED, path, reason, _SIGN)

    def _fault(
        self, path: pathlib.Path, record: records.LayerRecord, *, content: bool
    ) -> str | None:
        """What is wrong with a layer file or its hash tree; None when nothing is."""
        if (size := path.stat().st_size) != record.size:
            return f"has {size} bytes, its record says {record.size}"
        if (fault := layer_file.superblock_fault(path)) is not None:
            return fault
        if content and layer_file.sha256_of(path) != record.sha256:
            return "its bytes do not have the sha256 of its record"
        if not content or record.verity is None:
            return None
        tree = path if record.verity.offset else self._place.layer_tree(record.diff_id)
        try:
            return hash_tree.fault(tree, record.verity)
        except FileNotFoundError:
            return "its hash tree is missing"

    def _marked(self, diff_id: str, reason: str) -> bool:
        try:
            layer_writer.mark_damaged(self._place, diff_id, reason)
        except (OSError, errors.AgentError):
            return False
        return True

    def _without_layer(self, path: pathlib.Path, name: str, reason: str) -> Finding:
        """A thing whose layer, or whose record of one, is not in the store."""
        if name in self._needed:
            return Finding(Kind.MISSING, path, reason, _REBUILD)
        return Finding(Kind.ORPHANED, path, reason, _PRUNE)

    def chains(self) -> Iterator[Finding]:
        place = self._place
        for path in _records_below(place.chain_records):
            chain_id = f"sha256:{path.stem}"
            record = self._reader.chain(chain_id)
            if record is None:
                continue
            statement = signatures.of_chain(chain_id, record)
            yield from self._signed(path, statement, record.signatures)
            if not place.layer_record(record.diff_id).exists():
                reason = f"its layer {record.diff_id} is not in the store"
                yield self._without_layer(path, path.stem, reason)
            elif record.diff_id in self._replaced:
                reason = f"its layer {record.diff_id} is damaged, and was made anew for others"
                yield Finding(Kind.DAMAGED, path, reason, _REBUILD)
            if record.parent is not None and not place.chain_record(record.parent).exists():
                reason = f"the chain below, {record.parent}, is not in the store"
                yield self._without_layer(path, path.stem, reason)

    def blobs(self) -> Iterator[Finding]:
        for path in sorted(self._place.blobs.glob("*/*")):
            if digests.is_digest(digest := f"sha256:{path.name}"):
                self._reader.blob(digest)
            else:
                yield Finding(Kind.ORPHANED, path, "not the name of a blob", "remove it by hand")

    def images(self) -> Iterator[Finding]:
        for record in self._reader.images():
            places = self._place.image_places(images.parse_reference(record.ref))
            path = next((each for each in places if each.exists()), places[0])
            yield from self._signed(path, signatures.of_image(record), record.signatures)
            for file, what in _needs(self._place, record).items():
                if not file.exists():
                    reason = f"{record.ref} needs {what}, which is not in the store"
                    yield Finding(Kind.MISSING, file, reason, _REBUILD)
            if not any(path.exists() for path in places):
                reason = f"the record of {record.ref} is not where it belongs"
                yield Finding(Kind.ORPHANED, places[0], reason, _REBUILD)

    def caches(self) -> Iterator[Finding]:
        for record in self._reader.caches():
            own = self._place.cache_record(record.id)
            yield from self._signed(own, signatures.of_cache(record), record.signatures)
            for image in record.images:
                places = self._place.image_places(images.parse_reference(image.ref))
                if not any(path.exists() for path in places):
                    reason = f"cache {record.id} names {image.ref}, which has no record"
                    yield Finding(Kind.MISSING, places[0], reason, _REBUILD)


def _needs(place: layout.Layout, record: records.ImageRecord) -> dict[pathlib.Path, str]:
    """The files that an image needs, and what each is."""
    needed = {place.blob(record.target): "its target"}
    for one in record.platforms:
        needed |= {place.blob(index): f"an index of {one.platform}" for index in one.indexes}
        if one.artifact is not None:
            needed[place.blob(one.artifact.manifest)] = "the artifact that it was made of"
        needed[place.blob(one.manifest)] = f"the manifest of {one.platform}"
        needed[place.blob(one.config)] = f"the config of {one.platform}"
        for layer in one.layers:
            needed[place.chain_record(layer.chain_id)] = f"the chain {layer.chain_id}"
    return needed


def _companion_of(place: layout.Layout, path: pathlib.Path) -> pathlib.Path | None:
    """The layer file that a file belongs to by its name."""
    layer = path.with_suffix("")
    is_companion = path.suffix in layout.BESIDE
    return layer if is_companion and layer == _own_place(place, layer) else None


def _own_place(place: layout.Layout, path: pathlib.Path) -> pathlib.Path | None:
    try:
        return place.layer(f"sha256:{path.stem}")
    except digests.DigestError:
        return None


def _check_deletions(place: layout.Layout) -> Iterator[Finding]:
    """Whether what deletions go by can be read: one damaged record and nothing is deleted."""
    deletions = generations.outstanding(place)
    checks: list[tuple[pathlib.Path, Callable[[], object]]] = [
        (place.generation_record, lambda: generations.newest(place)),
        (place.nodes_record, lambda: generations.nodes(place)),
    ]
    for token in deletions.pending:
        path = generations.marker(place, token, "pending")
        checks.append((path, functools.partial(generations.planned, place, token)))
    for number, phase in deletions.phases.items():
        if phase is generations.Phase.HIDING:
            path = generations.marker(place, number, "list")
            checks.append((path, functools.partial(generations.decided, place, number)))
        path = place.retired_record(number)
        checks.append((path, functools.partial(generations.content, place, number)))
    checks += [
        (path, functools.partial(build_claims.read, path))
        for path in sorted(place.claims.glob("*.json"))
    ]
    for path, read in checks:
        try:
            read()
        except generations.CollectionRefused as error:
            yield Finding(Kind.DAMAGED, path, error.reason, _STANDS)


def _check_profiles(place: layout.Layout) -> Iterator[Finding]:
    """Start profiles: advice, so that nothing is worse for a damaged one."""
    for path in profile_files.everything(place.profile_records):
        try:
            data = file_reads.read(str(path), profile_files.LIMIT)
            record = records.decode(data, records.ProfileRecord, str(path))
            reference = images.parse_reference(record.ref)
            for each in record.profiles:
                profile_codec.decode(each.profile)
        except OSError as error:
            yield Finding(Kind.DAMAGED, path, error.strerror or str(error), _PROFILE)
        except errors.AgentError as error:
            yield Finding(Kind.DAMAGED, path, str(error), _PROFILE)
        else:
            if path not in profile_files.paths(place.profile_records, reference):
                yield Finding(Kind.ORPHANED, path, f"it is of {record.ref}", _PROFILE)
            elif not any(each.exists() for each in place.image_places(reference)):
                reason = f"start profiles of {record.ref}, which is not there"
                yield Finding(Kind.LEFTOVER, path, reason, _PROFILE)


def _check_tmp(place: layout.Layout) -> Iterator[Finding]:
    for path in sorted(place.tmp.iterdir()) if place.tmp.is_dir() else ():
        fix = "of a build that runs, or that ended badly: swept by a build after a day"
        yield Finding(Kind.LEFTOVER, path, f"{path.stat().st_size} bytes in tmp", fix)


def _records_below(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("*/*.json") if not path.name.startswith("."))
