"""A store that hangs: a FUSE file system (bindfs) whose process is stopped, then goes on.

To the kernel this is what a dead NFS server on a hard mount is: calls block until
it is back.
"""

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
from lab import processes
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
    yield from conftest.opened(conftest.Node("2", folder, registry, hanging.path))


def test_pulls_fall_back_within_the_deadline_and_recover_by_themselves(node, hanging) -> None:
    assert node.pull("lab/layers2:1") == 0
    node.forget("lab/layers2:1")
    hanging.stop()
    started = time.monotonic()
    assert node.pull("lab/layers40:1") == 40
    waited = time.monotonic() - started
    # Not forty deadlines of one second: after the first the store is left alone.
    assert waited < 20
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
    assert node.run("lab/layers2:1", "echo", "warm") == "warm\n"
    hanging.stop()
    slowest, collected = 0.0, 0
    for index in range(50):
        started = time.monotonic()
        node.snapshotter.prepare(f"ordinary-{index}")
        node.snapshotter.walk("kind==active")
        try:
            node.snapshotter.usage(f"ordinary-{index}")
            node.snapshotter.remove(f"ordinary-{index}")
        except grpc.RpcError as error:
            # containerd collects what it does not know of, once, after the container above.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            collected += 1
        slowest = max(slowest, time.monotonic() - started)
    # A deadline of the store is a second; none of these may have waited for one.
    assert slowest < 1
    assert collected <= 1
    hanging.go_on()


def test_a_reading_container_waits_and_goes_on_without_an_error(node, hanging) -> None:
    node.pull("lab/layers40:1")
    answers: list[str] = []

    def read() -> None:
        answers.append(
            node.run("lab/layers40:1", "sh", "-c", "find /layers -type f -exec cat {} + | wc -c")
        )

    whole = threading.Thread(target=read)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    hanging.stop()
    whole.start()
    time.sleep(1.5)
    hanging.go_on()
    whole.join(timeout=60)

    assert int(answers[0]) > 0


def test_the_snapshotter_starts_and_ends_while_the_store_hangs(node, hanging) -> None:
    node.pull("lab/layers2:1")
    hanging.stop()
    assert node.snapshotter.stop() == 0
    node.snapshotter.start()
    assert len(node.snapshotter.walk()) == 2
    with pytest.raises(processes.LabError):
        node.containerd.ctr("images", "pull", "--snapshotter", "uimgacc", "127.0.0.1:1/none:1")
    hanging.go_on()
