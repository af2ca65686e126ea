"""A collection over 100,000 layers of which no cache names half any more: time and memory.

And what it asks of a file server that is far away (benchmarks.store.latency). The store is made up:
tiny layer files with records, as many as 2,500 images of 40 layers have. Each round of the
collector runs in a process of its own, as it does in the controller.
"""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys
import time

from agent.model import digests, images, records
from agent.store import layout
from agent.store.publish import writer
from benchmarks.store import made_up_images

LAYERS = 100_000
PER_IMAGE = 40
FAR = 0.001
"""Seconds for each answer of a server that is far away (a near one needs a third)."""

_MKFS = records.Toolchain(version="1.8", options=[])
_ROUND = """
import json, resource, sys
from agent.control.gc import collector_worker
from benchmarks import latency
root, orders, seconds = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
distance = latency.Distance(root, seconds)
if seconds:
    distance.begin()
kind, outcome = collector_worker.collect(root, [], orders, {"now": 0.0, "grace": 1.0})
assert kind == "done", outcome
used = resource.getrusage(resource.RUSAGE_SELF)
outcome["peak_mib"] = used.ru_maxrss / 1024
outcome["cpu_s"] = used.ru_utime + used.ru_stime
outcome["calls"] = distance.calls.total()
print(json.dumps(outcome))
"""


def run(folder: pathlib.Path) -> dict[str, float]:
    """The figures: rounds that find nothing, and all rounds that delete half of it.

    Then the same with a server that is far away, by which a quarter is deleted.
    """
    place = layout.Layout(folder / "large store")
    writer.create(place.root)
    caches = fill(place)
    idle = _rounds(place, 1)
    unchanged = _rounds(place, 1, seen=idle.seen)
    _delete(place, caches[::2])
    half = _rounds(place, math.inf)
    assert half.layers == LAYERS // 2, half
    far_unchanged = _rounds(place, 1, seen=half.seen, seconds=FAR)
    far_idle = _rounds(place, 1, seconds=FAR)
    _delete(place, caches[1::4])
    far = _rounds(place, math.inf, seconds=FAR)
    assert far.layers == LAYERS // 4, far
    return {
        "collect_layers": LAYERS,
        "collect_idle_s": idle.seconds,
        "collect_idle_cpu_s": idle.cpu,
        "collect_unchanged_s": unchanged.seconds,
        "collect_delete_half_s": half.seconds,
        "collect_delete_half_cpu_s": half.cpu,
        "collect_rss_mib": max(half.peak, idle.peak, far.peak),
        "collect_far_unchanged_calls": far_unchanged.calls,
        "collect_far_idle_s": far_idle.seconds,
        "collect_far_idle_calls_per_layer": far_idle.calls / (LAYERS // 2),
        "collect_far_delete_quarter_s": far.seconds,
        "collect_far_delete_quarter_calls": far.calls,
    }


def fill(place: layout.Layout) -> list[str]:
    """Write caches of one image each; their IDs."""
    return [_image(place, number) for number in range(LAYERS // PER_IMAGE)]


def _delete(place: layout.Layout, caches: list[str]) -> None:
    for cache_id in caches:
        writer.delete_cache(place, cache_id)


@dataclasses.dataclass
class _Rounds:
    """What some rounds took: seconds, of which the processor's, and the highest memory in MiB.

    `calls` are those that a server was asked, `seen` is what the last round saw.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0
    layers: int = 0
    calls: int = 0
    seen: str = ""


def _rounds(place: layout.Layout, limit: float, *, seen: str = "", seconds: float = 0.0) -> _Rounds:
    """Do rounds until nothing is left to do, with a server `seconds` away."""
    total = _Rounds(seen=seen)
    settled: list[str] = []
    done = 0
    while done < limit:
        orders = {"settled": settled, "held": [], "seen": total.seen, "index": False}
        started = time.monotonic()
        text = subprocess.run(
            [sys.executable, "-c", _ROUND, str(place.root), json.dumps(orders), str(seconds)],
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        total.seconds += time.monotonic() - started
        outcome = json.loads(text)
        total.layers += outcome["layers"]
        total.cpu += outcome["cpu_s"]
        total.peak = max(total.peak, outcome["peak_mib"])
        total.calls += outcome["calls"]
        total.seen = outcome["seen"]
        settled = outcome["announced"]
        done += 1
        if not (settled or outcome["waiting"] or outcome["planned"]):
            break
    return total


def _image(place: layout.Layout, number: int) -> str:
    """Write a cache of one image of layers of its own, not durably: this is no builder."""
    ref = f"registry.example.com/made/up-{number % 50}:{number}"
    reference = images.parse_reference(ref)
    diff_ids = [digests.sha256(f"{number}/{at}".encode()) for at in range(PER_IMAGE)]
    chain = digests.chain_ids(diff_ids)
    blobs = [f"{kind} {number}".encode() for kind in ("index", "manifest", "config")]
    target, manifest, config = (digests.sha256(data) for data in blobs)
    for data in blobs:
        _write(place.blob(digests.sha256(data)), data)
    for diff_id, chain_id, parent in zip(diff_ids, chain, [None, *chain], strict=False):
        layer = records.LayerRecord(
            diff_id=diff_id, size=1, tar_size=1, sha256=target, blobs=[diff_id], mkfs=_MKFS
        )
        _write(place.layer(diff_id), b"x")
        _write(place.layer_record(diff_id), records.encode(layer))
        record = records.ChainRecord(diff_id=diff_id, parent=parent)
        _write(place.chain_record(chain_id), records.encode(record))
    image = made_up_images.record(
        reference, diff_ids, target=target, chain_ids=chain, manifest=manifest, config=config
    )
    _write(place.image_record(reference), records.encode(image))
    cached = records.CachedImage(ref=ref, target=target, size=1, layers=list(diff_ids))
    cache = records.CacheRecord(
        id=f"imc-{number:06d}", name=ref, images=[cached], size=1, capacity=1, created=""
    )
    _write(place.cache_record(cache.id), records.encode(cache))
    return cache.id


def _write(path: pathlib.Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
