"""Copies under running containers, in `benchmarks.guest.far`'s guest: what they cost, and switches.

The container reads `PACKAGE`, which is in the image's largest layer: that is copied last, and so
is read from the store for as long as anything is.
"""

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

from agent.mounts import mountinfo
from agent.mounts.devices import layer_files, layer_mounting
from agent.store import layout
from benchmarks import spreads, stages
from benchmarks.guest import far_node
from lab import processes
from lab.runtime import cri, nodes

PACKAGE = "/usr/local/lib/python3.13/dist-packages/botocore"
SWITCHES = 1000
_RUNS = 5
_LEAST = 3
_SECONDS = 180.0
_READ = f"find {PACKAGE} -type f -print0 | sort -z | xargs -0 cat"
_TIMED = f"begun=$EPOCHREALTIME; {_READ} >/dev/null; echo $begun $EPOCHREALTIME"
_CHECKED = f"""
set -o pipefail
first=$({_READ} | md5sum) || echo wrong
while true; do
    now=$({_READ} | md5sum) || echo wrong
    if [ "$now" = "$first" ]; then echo read; else echo wrong; fi
done
"""
_DROP_SECONDS = 0.3
_PAUSE_SECONDS = 0.02
"""Between two switches, for the container to read from either file."""


def measure(subject: far_node.Subject, store: pathlib.Path) -> None:
    """All figures of this module; the store is at `store`."""
    subject.restart_agent(UIMGACC_LOCAL_BYTES="90%", UIMGACC_LOCAL_FREE="1%")
    with subject.running(subject.pod("sleep", "1000")) as pod:
        container = pod.containers[0]
        far_node.tell(_copying(subject, container))
        node = subject.node
        far_node.wait_until(lambda: not _from_store(node), node, seconds=_SECONDS)
        print("all layers in use have copies", flush=True)
        # The agent would put the copies back behind the mounts.
        node.agent.end()
        far_node.tell(_switching(subject, layout.Layout(store)))


def _from_store(node: nodes.Node) -> float:
    """Bytes of the layers in use that are read from the store."""
    return node.metric('uimgacc_used_layer_bytes{source="store"}')


def _copying(subject: far_node.Subject, container: cri.Container) -> dict[str, float]:
    """A container's reading, before anything is copied and while it is."""
    node = subject.node

    def copied() -> float:
        return node.metric("uimgacc_local_copied_bytes_total")

    without = _times(subject, container, lambda: copied() == 0)
    far_node.wait_until(copied, node)
    begun = time.monotonic(), copied()
    beside = _times(subject, container, lambda: _from_store(node) > 0)
    speed = (copied() - begun[1]) / (time.monotonic() - begun[0])
    if min(len(without), len(beside)) < _LEAST:
        raise processes.LabError(f"read {len(without)} times without copying, {len(beside)} beside")
    return {
        **spreads.of("far_without_copying_s", without),
        **spreads.of("far_beside_copying_s", beside),
        "far_beside_copying_mib_s": speed / (1 << 20),
    }


def _times(
    subject: far_node.Subject, container: cri.Container, holds: Callable[[], bool]
) -> list[float]:
    """Seconds of some readings, of those at whose end the condition holds.

    Raises LabError where one has asked the server for nothing: it would time the page cache.
    """
    found = []
    for _ in range(_RUNS):
        stages.drop_caches()
        reads = subject.reads()
        code, said = subject.client.execute(container, ["bash", "-c", _TIMED])
        if code:
            raise processes.LabError(said)
        if not holds():
            break
        if subject.reads() == reads:
            raise processes.LabError("what was read was in memory")
        begun, ended = map(float, said.split())
        found.append(ended - begun)
    return found


def _switching(subject: far_node.Subject, store: layout.Layout) -> dict[str, float]:
    """The layer that a container reads is switched to the store and to its copy, again and again.

    Caches are dropped meanwhile, so that the container really reads.
    """
    target, size = _layer(subject.node)
    copy = pathlib.Path(layer_files.copy_of(target, _file_of(target).name))
    source = store.layer(f"sha256:{copy.stem}")
    seconds: dict[pathlib.Path, list[float]] = {source: [], copy: []}
    failures = 0
    with _reader(subject) as reader, _dropped_caches():
        for _ in range(SWITCHES // 2):
            for file, times in seconds.items():
                started = time.monotonic()
                try:
                    layer_mounting.switch_layer(target, str(file), size)
                except OSError as error:
                    print(f"{file}: {error}", flush=True)
                    failures += 1
                times.append(time.monotonic() - started)
                time.sleep(_PAUSE_SECONDS)
        read = reader.output.count("read")
        subject.client.wait_for_output(reader, "read\n" * (read + 1), seconds=_SECONDS)
        said = reader.output.splitlines()
    if not _file_of(target).is_copy(target):
        raise processes.LabError("the last switch has had no effect")
    print(f"the container has read everything {said.count('read')} times", flush=True)
    return {
        **spreads.of("far_switch_ms", [1000 * each for each in seconds[copy]]),
        **spreads.of("far_switch_back_ms", [1000 * each for each in seconds[source]]),
        "far_switches": sum(map(len, seconds.values())),
        "far_switch_errors": failures + said.count("wrong"),
    }


def _layer(node: nodes.Node) -> tuple[str, int]:
    """Mountpoint and bytes of the largest layer that is mounted."""
    targets = [each.target for each in layer_files.mounted_below(f"{node.root}/layers")]
    sizes = {
        target: pathlib.Path(layer_files.copy_of(target, _file_of(target).name)).stat().st_size
        for target in targets
    }
    return max(sizes.items(), key=lambda item: item[1])


def _file_of(target: str) -> layer_files.LayerFile:
    (source,) = [entry.source for entry in mountinfo.read() if entry.target == target]
    return layer_files.read(source)


@contextlib.contextmanager
def _reader(subject: far_node.Subject) -> Iterator[cri.Pod]:
    """A container that reads everything again and again, and says what it has found."""
    with subject.client.pod(subject.pod("bash", "-c", _CHECKED)) as pod:
        subject.client.wait_for_output(pod, "read", seconds=_SECONDS)
        yield pod


@contextlib.contextmanager
def _dropped_caches() -> Iterator[None]:
    """Have nothing stay in memory for long."""
    over = threading.Event()

    def drop() -> None:
        while not over.wait(_DROP_SECONDS):
            stages.drop_caches()

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
