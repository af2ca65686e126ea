"""A store that hangs: a FUSE file system (bindfs) whose process is stopped, then goes on.

To the kernel this is what a dead NFS server on a hard mount is: calls block until
it is back.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from agent.mounts import syscalls
from lab import places, processes
from tests import waiting
from tests.containerd import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]


class Hanging:
    """A folder shown again at `path` by a process that can be stopped."""

    def __init__(self, source: pathlib.Path, path: pathlib.Path) -> None:
        self.path = path
        path.mkdir()
        self.process = subprocess.Popen(
            ["bindfs", "-f", "--no-allow-other", source, path], stdin=subprocess.DEVNULL
        )
        while not (path / "store.json").exists():
            assert self.process.poll() is None
            time.sleep(0.02)

    def stop(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        syscalls.unmount(str(self.path), syscalls.MNT_DETACH)
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture
def hanging(folder, pristine) -> Iterator[Hanging]:
    served = Hanging(pristine, folder / "fuse")
    try:
        yield served
    finally:
        served.close()


@pytest.fixture
def node(folder, registry, hanging) -> Iterator[conftest.Node]:
    yield from conftest.opened(
        conftest.Node(places.NEWEST, folder, registry, hanging.path, lookup_seconds=3)
    )


def test_pulls_fall_back_within_the_deadline_and_recover_by_themselves(node, hanging) -> None:
    assert node.pull("lab/layers2:1") == 0
    node.forget("lab/layers2:1")
    hanging.stop()
    started = time.monotonic()
    assert node.pull("lab/layers40:1") == 40
    waited = time.monotonic() - started
    # Not forty deadlines of three seconds each: after the first the store is left alone.
    assert waited < 30
    assert node.run("lab/layers40:1", "echo", "runs") == "runs\n"
    assert "the store does not answer" in node.snapshotter.log
    hanging.go_on()
    for _ in range(60):
        if node.pull("lab/layers2:1") == 0:
            break
        node.forget("lab/layers2:1")
        time.sleep(0.25)
    else:
        raise AssertionError("the store was never asked again")


def test_what_is_mounted_works_on_and_requests_stay_quick(node, hanging) -> None:
    node.pull("lab/layers2:1")
    reading = ("sh", "-c", "find /layers -type f -exec cat {} + | sha256sum")
    before = node.run("lab/layers2:1", *reading)
    hanging.stop()
    # A new container on mounted layers, and what the kernel has of their files.
    assert node.run("lab/layers2:1", *reading) == before
    slowest, collected = 0.0, 0
    for index in range(50):
        started = time.monotonic()
        node.snapshotter.prepare(f"ordinary-{index}")
        node.snapshotter.walk("kind==active")
        try:
            node.snapshotter.usage(f"ordinary-{index}")
            node.snapshotter.remove(f"ordinary-{index}")
        except grpc.RpcError as error:
            # containerd removes what it does not know of whenever it collects garbage: after
            # the pull and after each container above, perhaps more than once.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            collected += 1
        slowest = max(slowest, time.monotonic() - started)
    # Four requests, of which none may have waited for the store: a deadline is three seconds, and
    # one that had waited for every deadline of the fifty would be seen.
    assert slowest < 10
    assert collected < 25
    hanging.go_on()


def test_a_reading_container_waits_and_goes_on_without_an_error(node, hanging) -> None:
    node.pull("lab/layers40:1")
    reading = ("sh", "-c", "find /layers -type f -exec sha256sum {} + | sort")
    undisturbed = node.run("lab/layers40:1", *reading)
    answers: list[str] = []
    reader = threading.Thread(
        target=lambda: answers.append(node.run("lab/layers40:1", *reading)), daemon=True
    )
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    hanging.stop()
    reader.start()
    reader.join(timeout=1.5)
    assert answers == []
    hanging.go_on()
    reader.join(timeout=60)

    assert len(undisturbed.splitlines()) >= 39
    assert answers == [undisturbed]


def test_the_snapshotter_starts_and_ends_while_the_store_hangs(node, hanging) -> None:
    node.pull("lab/layers2:1")
    assert node.run("lab/layers2:1", "echo", "warm") == "warm\n"
    node.wait_until_collected()
    hanging.stop()
    assert node.snapshotter.stop() == 0
    node.start_snapshotter()
    assert len(node.snapshotter.walk()) == 2
    assert node.run("lab/layers2:1", "echo", "mounted") == "mounted\n"
    # All but the lowest of the layers, which is mounted.
    assert node.pull("lab/layers40:1") == 39
    assert node.run("lab/layers40:1", "echo", "pulled") == "pulled\n"
    hanging.go_on()


def test_a_container_whose_layers_are_not_mounted_waits_for_one_deadline_not_for_forty(
    node, hanging
) -> None:
    """As after a reboot, with a store that does not answer."""
    node.pull("lab/layers40:1")
    snapshots = node.snapshotter.walk()
    (top,) = snapshots.keys() - {info.parent for info in snapshots.values()}
    node.snapshotter.stop()
    processes.unmount_below(node.snapshotter.root / "layers")
    hanging.stop()
    node.snapshotter.options = ("--mount-seconds", "1")
    node.snapshotter.start()
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(node.snapshotter.prepare, f"c{number}", top) for number in range(4)]
        while not all(each.done() for each in asked):
            # Whoever needs nothing of the store is answered meanwhile.
            assert len(node.snapshotter.walk("kind==committed")) == 40
            node.snapshotter.prepare(f"ordinary-{time.monotonic_ns()}")
            time.sleep(0.05)
    assert time.monotonic() - started < 20
    for each in asked:
        error = each.exception()
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "cannot be mounted" in error.details()
    hanging.go_on()

    def is_prepared() -> bool:
        # The kernel ends the mounts that were given up a little later.
        with contextlib.suppress(grpc.RpcError):
            return bool(node.snapshotter.prepare(f"again-{time.monotonic_ns()}", top))
        return False

    waiting.wait_until(is_prepared)
    assert node.run("lab/layers40:1", "echo", "runs") == "runs\n"
