"""Sources for the layer records of earlier versions, from the image records of the store.

A record without sources counts as what the image records prove (agent.store.layer_sources).
Written down once, that is one file less to read for each pull.

Builds may publish images meanwhile. A build that uses a layer without sources looks at its record
again after it has published its image; here the images are read again after the records were
written. So the repository of an image that is published in between is added by one of the two.
"""

import pathlib
from collections.abc import Iterator

import msgspec

from agent.model import images, records
from agent.store import decoding, layer_sources, layout
from agent.store.lookup import direct_reader, file_reads
from agent.store.publish import record_changes


def unrecorded(place: layout.Layout) -> Iterator[pathlib.Path]:
    """The layer records that have no sources; those that cannot be read are left out."""
    for path in sorted(place.layer_records.glob("*/*.json")):
        try:
            data = file_reads.read(str(path), file_reads.LOOKUP_LIMIT)
            record = decoding.layer(data, f"sha256:{path.stem}")
        except (OSError, records.RecordError):
            continue
        if record.sources is None:
            yield path


def write(place: layout.Layout) -> int:
    """Write the sources of all layer records that have none; returns how many were written.

    Raises RecordsBusy and StoreFull.
    """
    names = [f"sha256:{path.stem}" for path in unrecorded(place)]
    for _ in range(2):
        repositories = _repositories(place) if names else {}
        for name in names:
            record_changes.apply(place, name, _Adding(repositories.get(name, {})))
    return len(names)


class _Adding:
    """The change that adds some repositories to the sources of a record."""

    def __init__(self, repositories: dict[str, None]) -> None:
        self._repositories = list(repositories)

    def __call__(self, there: records.LayerRecord | None) -> records.LayerRecord | None:
        if there is None:
            return None
        known = there if there.sources is not None else msgspec.structs.replace(there, sources=[])
        return layer_sources.with_sources(known, self._repositories)


def _repositories(place: layout.Layout) -> dict[str, dict[str, None]]:
    """By the name of each layer file, the repositories of the images that have it."""
    reader = direct_reader.Reader(place)
    repositories: dict[str, dict[str, None]] = {}
    for image in reader.images():
        name = images.parse_reference(image.ref).name
        for layer in (layer for one in image.platforms for layer in one.layers):
            chain = reader.chain(layer.chain_id)
            # A variant's file, or one that replaces a damaged one, is named by the chain alone.
            files = {layer.diff_id, chain.diff_id if chain is not None else layer.diff_id}
            for file in files:
                repositories.setdefault(file, {})[name] = None
    return repositories
