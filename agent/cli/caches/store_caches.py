"""`uimgacc get` and `uimgacc delete`: the caches of a store."""

import pathlib
from typing import TYPE_CHECKING

import msgspec

from agent.cli import output
from agent.kits import units
from agent.model import images, records, times
from agent.store import layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer

if TYPE_CHECKING:
    import rich.table


def reader_of(store: pathlib.Path) -> direct_reader.Reader:
    """Look-ups in a store; damaged records are named on stderr. Raises NotAStore."""
    direct_reader.open_store(store)
    return direct_reader.Reader(
        layout.Layout(store),
        on_damage=lambda name, reason: output.say(f"damaged record {name}: {reason}"),
    )


def show_all(store: pathlib.Path, *, as_json: bool) -> None:
    """Print all caches."""
    stored = list(reader_of(store).caches())
    if as_json:
        output.show_json([msgspec.to_builtins(cache) for cache in stored])
        return
    if not stored:
        output.say(f"no caches in {store}")
        return
    now = times.now()
    made = output.table("CACHEID", "NAME", "IMAGES", "SIZE", "NAMESPACES", "AGE")
    for cache in stored:
        made.add_row(
            cache.id,
            cache.name,
            str(len(cache.images)),
            units.size(cache.size),
            "*" if cache.namespaces is None else ",".join(cache.namespaces),
            output.age(cache.created, now),
        )
    output.console().print(made)


def show_one(store: pathlib.Path, name: str, *, as_json: bool) -> None:
    """Print a cache and its images."""
    reader = reader_of(store)
    cache = find(reader, name)
    if as_json:
        output.show_json(msgspec.to_builtins(cache))
        return
    console = output.console()
    keep = "for ever" if cache.retention_days is None else f"{cache.retention_days} days"
    who = "every namespace" if cache.namespaces is None else ", ".join(cache.namespaces)
    lines = {
        "Cache": cache.id,
        "Name": cache.name,
        "Created": cache.created,
        "In store": f"{units.size(cache.size)} of at most {units.size(cache.capacity)}",
        "Built in": f"{cache.build_seconds:.1f} s",
        "Kept": keep,
        "Serves": who,
    }
    for title, value in lines.items():
        console.print(f"{title + ':':<10} {value}")
    console.print()
    console.print(images_table(reader, cache))


def delete(store: pathlib.Path, name: str, *, as_json: bool) -> None:
    """Delete a cache."""
    reader = reader_of(store)
    cache_id = name
    if not records.is_cache_id(name):
        cache_id = find(reader, name).id
    cache = reader.cache(cache_id)
    try:
        writer.delete_cache(layout.Layout(store), cache_id)
    except writer.NoSuchCache as error:
        raise output.NotFound(str(error), name=name) from error
    named = {image.ref for other in reader.caches() for image in other.images}
    gone = [image.ref for image in cache.images if image.ref not in named] if cache else []
    if as_json:
        output.show_json({"id": cache_id, "images": gone})
        return
    print(f"deleted {cache_id}")
    if gone:
        output.say(
            f"{len(gone)} images are named by no cache any more; they and their layers stay until"
            " the controller has freed them, or without a cluster until"
            f" `uimgacc store prune --store {store}`"
        )


def find(reader: direct_reader.Reader, name: str) -> records.CacheRecord:
    """The cache with an ID or a name; raise NotFound, or UsageError where several have it."""
    cache = reader.cache(name)
    if cache is not None:
        return cache
    named = [cache for cache in reader.caches() if cache.name == name]
    if not named:
        raise output.NotFound(f"no cache {name} in {reader.layout.root}", name=name)
    if len(named) > 1:
        ids = ", ".join(cache.id for cache in named)
        raise output.UsageError(f"several caches are called {name}; give the ID: {ids}")
    return named[0]


def images_table(reader: direct_reader.Reader, cache: records.CacheRecord) -> "rich.table.Table":
    """The images of a cache with their sizes; what the store lost is marked."""
    made = output.table("IMAGE", "PLATFORM", "LAYERS", "PULLED", "IN STORE", "DIGEST")
    for image in cache.images:
        record = reader.image(images.parse_reference(image.ref))
        if record is None:
            missing = ("missing in the store", str(len(image.layers)), units.size(image.size))
            made.add_row(image.ref, *missing, "-", image.target[:19])
            continue
        for one in record.platforms:
            layers = {layer.diff_id: layer for layer in one.layers}
            made.add_row(
                image.ref,
                one.platform,
                str(len(one.layers)),
                units.size(sum(layer.size for layer in one.layers)),
                units.size(sum(layer.erofs_size for layer in layers.values())),
                record.target[:19],
            )
    return made
