"""What `uimgacc profile` does: in a folder of profiles, of a store or of this machine."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

from agent.cli import output
from agent.kits import units
from agent.local import copy_paths
from agent.model import images, records
from agent.model.starts import profile_codec, start_profiles
from agent.mounts.pages import page_cache
from agent.node.images import registration_plan
from agent.store import layout, profile_files
from agent.store.lookup import direct_reader
from agent.store.publish import start_reports


def _folders(
    store: pathlib.Path | None, root: pathlib.Path | None
) -> Iterator[tuple[str, pathlib.Path]]:
    """The folders of profiles that the flags name, each with a word for it."""
    if store is None and root is None:
        raise output.UsageError("say where: --store DIR, --root DIR, or both")
    if store is not None:
        direct_reader.open_store(store)
        yield "store", layout.Layout(store).profile_records
    if root is not None:
        yield "node", pathlib.Path(copy_paths.of(str(root)).profiles)


def _reference(image: str) -> images.Reference:
    try:
        return images.parse_reference(image)
    except images.ImageReferenceError as error:
        raise output.UsageError(str(error)) from error


def show(
    image: str, *, store: pathlib.Path | None, root: pathlib.Path | None, as_json: bool
) -> None:
    """Show profiles; NotFound where an image is named that has none."""
    found = [
        _described(where, record, each)
        for where, folder in _folders(store, root)
        for record in _records(folder, image)
        for each in record.profiles
    ]
    if image and not found:
        raise output.NotFound(f"there is no start profile of {image}", name=image)
    if as_json:
        output.show_json(found)
        return
    table = output.table("IMAGE", "FROM", "PLATFORM", "SIZE", "PIECES", "LAYERS")
    for row in found:
        bad = row.get("problem", "")
        counts = (units.size(row["bytes"]), str(row["pieces"]), str(len(row["layers"])))
        table.add_row(
            row["image"], row["from"], row["platform"], *((bad, "", "") if bad else counts)
        )
    output.console().print(table)
    if image:
        layers = output.table("LAYER", "FROM", "SIZE", "PIECES")
        for row in found:
            for layer in row["layers"]:
                size = units.size(layer["bytes"])
                layers.add_row(layer["layer"], row["from"], size, str(layer["pieces"]))
        output.console().print(layers)


def _records(folder: pathlib.Path, image: str) -> list[records.ProfileRecord]:
    if image:
        record = profile_files.read(folder, _reference(image))
        return [record] if record is not None else []
    return list(profile_files.read_each(folder))


def _described(
    where: str, record: records.ProfileRecord, stored: records.PlatformProfile
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image": record.ref,
        "from": where,
        "platform": stored.platform,
        "manifest": stored.manifest,
        "bytes": 0,
        "pieces": 0,
        "layers": [],
    }
    try:
        profile = profile_codec.decode(stored.profile)
    except start_profiles.ProfileError as error:
        return row | {"problem": error.reason}
    layers = [
        {
            "layer": layer,
            "bytes": sum(piece.length for piece in of_layer) * start_profiles.UNIT,
            "pieces": len(of_layer),
        }
        for at, layer in enumerate(profile.layers)
        for of_layer in [[piece for piece in profile.pieces if piece.layer == at]]
    ]
    return row | {"bytes": profile.size, "pieces": len(profile.pieces), "layers": layers}


def record(image: str, *, store: pathlib.Path, root: pathlib.Path | None, as_json: bool) -> None:
    """Make a profile from what is in memory now, in place of the one that is there."""
    reference = _reference(image)
    direct_reader.open_store(store)
    reader = direct_reader.Reader(layout.Layout(store))
    found = reader.image(reference)
    if found is None:
        raise output.NotFound(f"{image} is not in the store", name=image)
    made = _for_machine(found)
    sizes = start_reports.sizes_of(reader, made)
    paths = [str(reader.layout.layer(name)) for name in sizes]
    seen = {
        name: [unit for unit in range(8 * len(bits)) if bits[unit >> 3] >> (unit & 7) & 1]
        for name, (_, bits) in zip(sizes, page_cache.units_in_memory(paths), strict=True)
    }
    profile, _ = profile_codec.encode_looks([seen])
    if not profile.pieces:
        raise output.UsageError(f"nothing of {image} is in memory: start it first")
    ((where, folder),) = _folders(None if root else store, root)
    tmp = folder if root else reader.layout.tmp
    profile_files.remove(folder, images.parse_reference(found.ref))
    start_reports.put(folder, found.ref, made, profile, tmp=tmp)
    if as_json:
        output.show_json({"image": found.ref, "to": where, "bytes": profile.size})
    else:
        pieces = len(profile.pieces)
        print(f"{found.ref}: {units.size(profile.size)} in {pieces} pieces, kept by the {where}")


def _for_machine(found: records.ImageRecord) -> records.PlatformImage:
    platform = images.platform_of_machine(os.uname().machine)
    made = registration_plan.for_platform(found, platform)
    if made is None:
        raise output.NotFound(f"{found.ref} is not there for {platform}", name=found.ref)
    return made


def forget(
    image: str, *, store: pathlib.Path | None, root: pathlib.Path | None, as_json: bool
) -> None:
    """Remove profiles; NotFound where there are none."""
    reference = _reference(image)
    gone = [
        where for where, folder in _folders(store, root) if profile_files.remove(folder, reference)
    ]
    if not gone:
        raise output.NotFound(f"there is no start profile of {image}", name=image)
    if as_json:
        output.show_json({"image": str(reference), "forgotten": gone})
    else:
        print(f"{reference}: forgotten by the {' and the '.join(gone)}")
