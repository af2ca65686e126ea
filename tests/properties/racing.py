"""The processes of a race for a few layers: builders, a checker that damages, a collector.

`python -m tests.properties.racing ROLE STORE SEED ROUNDS`; a process that sees something wrong says
so and ends with 1.
"""

import contextlib
import os
import pathlib
import random
import sys
import time

from agent.model import digests, records
from agent.store import layer_file, layout
from agent.store.gc import generations, prune_now
from agent.store.lookup import direct_reader
from agent.store.publish import build_claims, layer_writer, writer
from tests.unit.store import making

LAYERS = [f"layer {number}" for number in range(6)]


def names_of(name: str) -> list[str]:
    """The files that a layer may have: its own, and those that replace it."""
    diff_id = making.digest(name)
    return [
        diff_id,
        *(digests.replacement_id(diff_id, at) for at in range(1, digests.MAX_REPLACEMENTS)),
    ]


def build(place: layout.Layout, rng: random.Random, rounds: int) -> None:
    """Publish caches of two layers each, and delete them again, as builds and people do."""
    for number in range(rounds):
        names = rng.sample(LAYERS, 2)
        cache_id = f"imc-{os.getpid()}-{number % 2}"
        ref = f"registry.io/team/app{os.getpid()}:{number % 2}"
        with build_claims.Claim(place, cache_id, heartbeat=1e9) as claim:
            wanted = [file for name in names for file in names_of(name)]
            chains = digests.chain_ids([making.digest(name) for name in names])
            blobs = [digests.sha256(data) for data in making.blobs(ref)]
            while claim.add([*wanted, *chains, *blobs], [ref]) is not None:
                time.sleep(0.001)
            try:
                image = making.image(place, *names, ref=ref)
            except layer_writer.NoPlaceLeft:
                claim.withdraw()
                continue
            making.cache(place, cache_id, image)
            claim.finish()
            # It counts for ten minutes, for machines that see the cache later: none does here.
            claim._path.unlink()
        if rng.random() < 0.7:
            with contextlib.suppress(writer.NoSuchCache):
                writer.delete_cache(place, cache_id)


def check(place: layout.Layout, rng: random.Random, rounds: int) -> None:
    """Damage layers and mark them; no damaged file may be taken for sound afterwards."""
    for _ in range(rounds):
        diff_id = making.digest(rng.choice(LAYERS))
        record = direct_reader.Reader(place, on_damage=lambda *_: None).layer(diff_id)
        if record is None:
            time.sleep(0.002)
            continue
        path = place.layer(record.diff_id)
        # Twenty of each in all: a layer may be damaged sixteen times.
        fate = rng.random() * rounds
        with contextlib.suppress(FileNotFoundError, records.RecordError):
            if fate < 20:
                with path.open("r+b") as file:
                    file.seek(-1, 2)
                    file.write(b"~")
            if fate < 40:
                layer_writer.mark_damaged(place, record.diff_id, "its bytes")
        for _ in range(5):
            require_sound(place, diff_id)
            time.sleep(0.001)


def require_sound(place: layout.Layout, diff_id: str) -> None:
    """End with 1 where a layer is served whose bytes are not those of its record."""
    reader = direct_reader.Reader(place, on_damage=lambda *_: None)
    record = reader.layer(diff_id)
    if record is None:
        return
    with contextlib.suppress(FileNotFoundError):
        actual = layer_file.sha256_of(place.layer(record.diff_id))
        # Another record meanwhile: the file that was read may have been a later one.
        if actual != record.sha256 and reader.layer(diff_id) == record:
            sys.exit(f"{record.diff_id} is served, and is not what its record says")


def collect(place: layout.Layout, log: pathlib.Path, stop: pathlib.Path) -> None:
    """Delete what no cache names, for ever; each layer file that goes is logged before."""
    remove = generations.remove

    def logged(path: object, *, folder: int | None = None) -> bool:
        if str(path).endswith(".erofs"):
            with log.open("a") as file:
                file.write(f"{path}\n")
        return remove(path, folder=folder)  # type: ignore[arg-type]

    generations.remove = logged
    while not stop.exists():
        with contextlib.suppress(generations.CollectionRefused):
            prune_now.prune(place, min_age=0.0)
        time.sleep(0.005)


def main() -> None:
    """Play one role."""
    role, root, seed, rounds = sys.argv[1:]
    place = layout.Layout(pathlib.Path(root))
    rng = random.Random(int(seed))
    if role == "build":
        build(place, rng, int(rounds))
    elif role == "check":
        check(place, rng, int(rounds))
    else:
        collect(place, place.root.parent / "deleted", place.root.parent / "stop")


if __name__ == "__main__":
    main()
