"""Ten thousand caches: what they cost the controller, and a pod that looks for its own.

Everything is measured with a hundred caches first, so that a part which grows faster than their
number shows. The API server is the tests' (a real kube-apiserver with KUBEBUILDER_ASSETS; kmock
itself takes most of the time otherwise). Nothing stands between a real one and the controller:
requests are counted by the server, its own among them, those that apply the objects taken away.
Objects are applied on connections that stay, as kubectl applies a file with many. On a machine of
two processors the server shares them with both. The store's server is one millisecond away for
look-ups (benchmarks.store.latency): each call that asks it is counted and delayed, nothing is kept
from one look-up to the next.
"""

import collections
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable

from agent.store import layout
from agent.store.index import index_files
from agent.store.publish import writer
from benchmarks import processes
from benchmarks.cluster import control
from benchmarks.store import filling
from tests.kube import apis, servers

COUNTS = (100, 10_000)
"""The second is what is promised, the first what it is compared with."""

DISTANCE = 0.001
_SECONDS = 1800.0
_AT_ONCE = 8
"""Objects that are applied at once."""

_LOOK_SECONDS = 1.0
"""Between two looks at the controller's metrics: each look costs it some milliseconds."""

_LOOKS = {
    "hit": filling.APP,
    "other_tag": "registry.example.com/team/app-{at}:2",
    "miss": "registry.example.com/team/none-{at}:1",
    "digest": "registry.example.com/team/app-{at}@{target}",
}
"""What pods look for: an image of a cache, another tag of it, one of no cache, one by digest."""


def run(folder: pathlib.Path) -> dict[str, float]:
    """The figures of both numbers, and what the large one costs for each of the small one's."""
    flat: dict[str, float] = {}
    few, many = COUNTS
    for count in COUNTS:
        print(f"           {count} caches", flush=True)
        for part in (_store, _controller):
            figures = part(folder, count)
            # At once: a controller that gives up on a busy machine takes nothing else with it.
            print(json.dumps(figures), flush=True)
            flat |= {f"caches_{count}_{name}": each for name, each in figures.items()}
    for name in ("hit_s", "miss_s", "hit_calls", "miss_calls", "adopt_requests"):
        flat[f"caches_ratio_{name}"] = flat[f"caches_{many}_{name}"] / flat[f"caches_{few}_{name}"]
    for name in ("adopt_s", "adopt_cpu_s", "restart_cpu_s"):
        each = flat[f"caches_{many}_{name}"] / many, flat[f"caches_{few}_{name}"] / few
        flat[f"caches_ratio_{name}_each"] = each[0] / each[1]
    return flat


def _store(folder: pathlib.Path, count: int) -> dict[str, float]:
    """Look-ups in a store of so many caches, and how long its index takes to make."""
    place = layout.Layout(folder / f"store of {count}")
    writer.create(place.root)
    for number in range(count):
        filling.cache(place, number)
    place.index_mark.unlink()
    started = time.monotonic()
    index_files.complete(place)
    flat = {"index_s": time.monotonic() - started}
    for kind, name in _LOOKS.items():
        wanted = [_name(name, number) for number in range(0, count, count // 10)]
        text = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.store.filling"),
                *(str(place.root), json.dumps(wanted), str(DISTANCE)),
            ],
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        looks = json.loads(text)
        expected = {"hit": "hit", "digest": "hit", "other_tag": "partial", "miss": "miss"}[kind]
        assert {outcome for *_, outcome in looks} == {expected}, (kind, looks)
        flat[f"{kind}_s"] = statistics.median(seconds for seconds, *_ in looks)
        flat[f"{kind}_slowest_s"] = max(seconds for seconds, *_ in looks)
        flat[f"{kind}_calls"] = max(calls for _, calls, _ in looks)
    return flat


def _name(text: str, number: int) -> str:
    return text.format(at=number, target=filling.target(number))


def _controller(folder: pathlib.Path, count: int) -> dict[str, float]:
    """So many objects whose images are in the store, applied while a controller runs; a restart."""
    with control.joined(folder / f"controller of {count}") as plane:
        for number in range(count):
            filling.cache(plane.place, number)
        index_files.complete(plane.place)
        direct = servers.is_real()
        mark = plane.requests
        with control.Controller(plane, direct=direct) as controller:
            _wait_until(lambda: controller.figure("uimgacc_leading") == 1)
            started, before = time.monotonic(), processes.cpu_seconds(controller.pid)
            _apply(plane, count)
            applied = time.monotonic() - started
            _wait_until(lambda: controller.ready() >= count)
            flat = {
                "apply_s": applied,
                "adopt_s": time.monotonic() - started,
                "after_apply_s": time.monotonic() - started - applied,
                "adopt_requests": (plane.requests - mark) / count - (1 if direct else 0),
                "adopt_cpu_s": processes.cpu_seconds(controller.pid) - before,
                "adopt_rss_mib": processes.peak_mib(controller.pid),
                "adopt_tree_pss_mib": processes.tree_pss_mib(controller.pid),
            }
        mark = plane.requests
        with control.Controller(plane, direct=direct) as controller:
            started = time.monotonic()
            _wait_until(lambda: controller.steps() >= count)
            return flat | {
                "restart_s": time.monotonic() - started,
                "restart_requests": (plane.requests - mark) / count,
                "restart_cpu_s": processes.cpu_seconds(controller.pid),
                "rss_mib": max(flat["adopt_rss_mib"], processes.peak_mib(controller.pid)),
                "tree_pss_mib": processes.tree_pss_mib(controller.pid),
            }


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about within {_SECONDS:g} s"
        time.sleep(_LOOK_SECONDS)


def _apply(plane: control.Plane, count: int) -> None:
    """Create so many objects, some at once."""
    parts = [range(at, count, _AT_ONCE) for at in range(_AT_ONCE)]
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
        collections.deque(threads.map(lambda part: _create(plane, part), parts), maxlen=0)


def _create(plane: control.Plane, numbers: Iterable[int]) -> None:
    """Create objects one after the other, on one connection."""
    access = plane.access
    host = urllib.parse.urlsplit(access.server).netloc
    connection = (
        http.client.HTTPSConnection(host, timeout=60, context=access.tls)
        if access.tls
        else http.client.HTTPConnection(host, timeout=60)
    )
    headers = {"Content-Type": "application/json", "Authorization": access.authorization}
    with contextlib.closing(connection):
        for number in numbers:
            body = json.dumps(_object(number)).encode()
            connection.request("POST", control.RESOURCE.path(), body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == http.client.CREATED, text


def _object(number: int) -> apis.Object:
    reference = _name(_LOOKS["hit"], number)
    return {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": f"made-{number}"},
        "spec": {"images": [reference], "imageCacheSize": 20},
    }
