"""Where things are in a store, format 1: arithmetic on paths, no I/O.

The path of a layer is what containerd >= 2.4 expects of a `layer_content_caches`
folder (internal/erofsutils), so one store serves a stock containerd, too: it is
never renamed. Everything that becomes part of a path has been parsed first.
"""

import dataclasses
import hashlib
import pathlib

from agent.model import digests, records, reports
from agent.model import images as image_values

BESIDE = SIDECAR, TREE = ".dmverity", ".verity"
"""What is added to the name of a layer file for the names of the files that belong to it."""
REPORT = ".build"
"""The end of the name of a build's progress report."""
_SUFFIX = ".json"
_ESCAPED = "%2Ejson"
"""In place of `.json` at the end of a part of a repository's name: the folder of
`team/app/1.0.json` is not where the record of `team/app:1.0` is. No repository has a percent sign
in its name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The paths of the store whose root folder is `root`."""

    root: pathlib.Path

    @property
    def store_record(self) -> pathlib.Path:
        """`store.json`."""
        return self.root / "store.json"

    @property
    def layer_files(self) -> pathlib.Path:
        """The folder of all layer files."""
        return self.root / "sha256"

    @property
    def tmp(self) -> pathlib.Path:
        """Work in progress; swept after a day."""
        return self.root / "tmp"

    def build_report(self, job: str) -> pathlib.Path:
        """The progress report of a Job's builder. In tmp/: swept where it is not removed."""
        if not reports.is_job(job):
            raise records.RecordError(job[:80], "no name of a Job")
        return self.tmp / f"{job}{REPORT}"

    @property
    def tags_record(self) -> pathlib.Path:
        """When the tags of caches were last confirmed."""
        return self.root / "meta" / "tags.json"

    @property
    def cache_records(self) -> pathlib.Path:
        """The folder of the cache records."""
        return self.root / "meta" / "caches"

    @property
    def index(self) -> pathlib.Path:
        """The folder of the entries by which caches are found (agent.store.index)."""
        return self.root / "meta" / "index" / "1"

    @property
    def index_mark(self) -> pathlib.Path:
        """It is there once all caches have their entries: before that, the index is not used."""
        return self.root / "meta" / "index" / "1.complete"

    def index_folder(self, subject: str) -> pathlib.Path:
        """The folder of the entries for a subject of agent.store.index.cache_entries."""
        name = hashlib.sha256(subject.encode()).hexdigest()
        return self.index / name[:2] / name

    @property
    def image_records(self) -> pathlib.Path:
        """The folder of the image records."""
        return self.root / "meta" / "images"

    @property
    def profile_records(self) -> pathlib.Path:
        """The folder of the images' start profiles, laid out as that of the image records."""
        return self.root / "meta" / "profiles"

    @property
    def generation_record(self) -> pathlib.Path:
        """The newest generation of deletions."""
        return self.root / "meta" / "generation.json"

    @property
    def retired_records(self) -> pathlib.Path:
        """The folder of what each generation retires."""
        return self.root / "meta" / "retired"

    @property
    def claims(self) -> pathlib.Path:
        """The folder of what builds that run count on."""
        return self.root / "meta" / "claims"

    @property
    def deleted_caches(self) -> pathlib.Path:
        """The folder of deleted caches' records, until their layers are retired."""
        return self.root / "meta" / "deleted"

    @property
    def nodes_record(self) -> pathlib.Path:
        """The nodes that the collector waits for."""
        return self.root / "meta" / "nodes.json"

    @property
    def collector_lock(self) -> pathlib.Path:
        """Locked by the collector that works: one at a time."""
        return self.root / "meta" / "collector.lock"

    @property
    def record_locks(self) -> pathlib.Path:
        """The folder of the locks under which layer records are changed."""
        return self.root / "meta" / "locks"

    def record_lock(self, diff_id: str) -> pathlib.Path:
        """The lock of a layer's record, and of others in its folder."""
        return self.record_locks / f"{digests.hex_of(diff_id)[:2]}.lock"

    def retired_record(self, generation: int) -> pathlib.Path:
        """What one generation retires."""
        return self.retired_records / f"{generation}.json"

    @property
    def layer_records(self) -> pathlib.Path:
        """The folder of the layer records."""
        return self.root / "meta" / "layers"

    @property
    def chain_records(self) -> pathlib.Path:
        """The folder of the chain records."""
        return self.root / "meta" / "chains"

    @property
    def blobs(self) -> pathlib.Path:
        """The folder of manifests, indexes and configs."""
        return self.root / "meta" / "blobs" / "sha256"

    def layer(self, diff_id: str) -> pathlib.Path:
        """The EROFS file of a layer."""
        name = digests.hex_of(diff_id)
        return self.layer_files / name[:2] / f"{name}.erofs"

    def layer_sidecar(self, diff_id: str) -> pathlib.Path:
        """Where containerd 2.4 reads what it needs to verify a layer."""
        return self.layer(diff_id).with_suffix(f".erofs{SIDECAR}")

    def layer_tree(self, diff_id: str) -> pathlib.Path:
        """The hash tree of a layer that was published without one."""
        return self.layer(diff_id).with_suffix(f".erofs{TREE}")

    def companions(self, diff_id: str) -> tuple[pathlib.Path, pathlib.Path]:
        """The files that may be beside a layer file, and go with it."""
        return self.layer_sidecar(diff_id), self.layer_tree(diff_id)

    def layer_record(self, diff_id: str) -> pathlib.Path:
        """The record of a layer."""
        name = digests.hex_of(diff_id)
        return self.root / "meta" / "layers" / name[:2] / f"{name}.json"

    def chain_record(self, chain_id: str) -> pathlib.Path:
        """The record of a chain ID."""
        name = digests.hex_of(chain_id)
        return self.root / "meta" / "chains" / name[:2] / f"{name}.json"

    def blob(self, digest: str) -> pathlib.Path:
        """A manifest, index or config, byte for byte."""
        name = digests.hex_of(digest)
        return self.root / "meta" / "blobs" / "sha256" / name[:2] / name

    def image_record(self, reference: image_values.Reference) -> pathlib.Path:
        """The record of an image; under its digest when the reference has one."""
        return named_after(self.image_records, reference)

    def image_places(self, reference: image_values.Reference) -> tuple[pathlib.Path, ...]:
        """Where the record of an image may be: `image_record`, then that of earlier versions."""
        place = self.image_record(reference)
        folder = self.image_records / reference.registry / reference.repository
        former = folder / f"{reference.version}.json"
        return (place,) if former == place else (place, former)

    def cache_record(self, cache_id: str) -> pathlib.Path:
        """The record of a Ready cache."""
        if not records.is_cache_id(cache_id):
            raise records.RecordError(cache_id[:80], "a cache ID is imc- and 3 to 59 of a-z 0-9 -")
        return self.cache_records / f"{cache_id}.json"


def named_after(folder: pathlib.Path, reference: image_values.Reference) -> pathlib.Path:
    """The file of an image below a folder that has one of each."""
    of_repository = folder / reference.registry / _folder_of(reference.repository)
    return of_repository / f"{reference.version}.json"


def _folder_of(repository: str) -> str:
    """A repository as a path that no record of another repository has."""
    first, *rest = repository.split("/")
    escaped = (
        f"{part.removesuffix(_SUFFIX)}{_ESCAPED}" if part.endswith(_SUFFIX) else part
        for part in rest
    )
    return "/".join((first, *escaped))
