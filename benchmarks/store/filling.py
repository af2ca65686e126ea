"""Made-up caches for measurements, and a pod's look-up among them.

`python -m benchmarks.store.filling STORE IMAGES SECONDS` looks each of the images (a JSON list) up
as a node does that knows nothing yet, with a server that is so far away (benchmarks.store.latency),
and prints for each its seconds, the calls that it took, and the outcome.
"""

import asyncio
import json
import pathlib
import sys
import time

from agent.matching import decisions
from agent.model import caches, digests, images, keys, pods, records
from agent.node.pods import decide as pod_decisions
from agent.store import layout
from agent.store.lookup import catalog, file_reads, local_pool
from benchmarks.store import latency, made_up_images

APP = "registry.example.com/team/app-{at}:1"
"""The image of each cache."""

LAYERS = 100
"""Of each cache: ten thousand have a million names."""

_BASE = digests.sha256(b"the bottom layer of all images")


def target(number: int) -> str:
    """The target of a cache's image."""
    return digests.sha256(f"target {number}".encode())


def cache(place: layout.Layout, number: int) -> None:
    """Write a cache of one image, without entries, and not durably: this is no builder."""
    reference = images.parse_reference(APP.format(at=number))
    own = [digests.sha256(f"{number}/{at}".encode()) for at in range(LAYERS - 1)]
    diff_ids = [_BASE, *own]
    image = made_up_images.record(reference, diff_ids, target=target(number))
    name = f"made-{number}"
    cached = records.CachedImage(
        ref=str(reference), target=target(number), size=1, layers=diff_ids, bottoms=[diff_ids[0]]
    )
    record = records.CacheRecord(
        id=caches.id_of_name(name),
        name=name,
        images=[cached],
        size=1,
        capacity=20 << 30,
        created="2026-01-01T00:00:00Z",
    )
    _write(place.image_record(reference), records.encode(image))
    _write(place.cache_record(record.id), records.encode(record))


def _write(path: pathlib.Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def decide(store: pathlib.Path, image: str) -> decisions.Decision:
    """The decision for a pod with an image, by a node that has just started."""
    pool = local_pool.LocalPool(file_reads.OPERATIONS)
    shelf = catalog.Catalog(layout.Layout(store), pool)
    node = pod_decisions.Node(platform=images.parse_platform("linux/amd64"))
    pod = pods.Pod(
        namespace="team",
        name="pod",
        annotations={keys.CACHE: "auto"},
        containers=(pods.Container(name="c", image=image),),
        runtime_class="uimgacc",
    )
    return await pod_decisions.Decider(shelf, node).decide(pod)


def main() -> None:
    """Look images up, one after the other."""
    store, wanted, seconds = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
    distance = latency.Distance(str(store), seconds)
    distance.begin()
    looks = []
    for image in wanted:
        before, started = distance.calls.total(), time.monotonic()
        decision = asyncio.run(decide(store, image))
        took = time.monotonic() - started
        looks.append([took, distance.calls.total() - before, decision.outcome.value])
    print(json.dumps(looks))


if __name__ == "__main__":
    main()
