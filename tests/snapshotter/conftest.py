"""The real `uimgacc snapshotter` command, driven over its socket; needs root."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import grpc
import pytest

from agent._proto.containerd import snapshots_pb2 as pb
from agent._proto.containerd import snapshots_pb2_grpc
from agent.mounts import mountinfo, syscalls

COMMAND = pathlib.Path(sys.executable).with_name("uimgacc")
"""The installed command, beside the interpreter that runs the tests."""


class Process:
    """A snapshotter process and a client of it."""

    command = (str(COMMAND),)
    options: tuple[str, ...] = ()

    def __init__(
        self, folder: pathlib.Path, store: pathlib.Path | None = None, *, lookup_seconds: float = 10
    ) -> None:
        self.root = folder / "r"
        self.socket = folder / "s"
        self.store = store
        self._lookup_seconds = lookup_seconds
        """Enough for a busy machine: what is tested is what comes of a look-up, not how quick."""
        self.mountpoints = folder / "m"
        self.mountpoints.mkdir(exist_ok=True)
        self._log = folder / "log"
        self.start()

    def start(self) -> None:
        """Start the process and wait until its socket accepts."""
        arguments = ["--root", str(self.root), "--address", str(self.socket), *self.options]
        if self.store:
            arguments += ["--store", str(self.store), f"--lookup-seconds={self._lookup_seconds}"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "snapshotter", *arguments],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 100),
            # Else the connection to the process before is taken over, with its troubles.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.channel = grpc.insecure_channel(f"unix://{self.socket}", options)
        try:
            self._wait_until_ready()
        except AssertionError:
            self.kill()
            raise
        self.client = snapshots_pb2_grpc.SnapshotsStub(self.channel)

    def _wait_until_ready(self) -> None:
        ready = grpc.channel_ready_future(self.channel)
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(grpc.FutureTimeoutError):
                ready.result(timeout=0.2)
                return
            status = self.process.poll()
            assert status is None, f"the snapshotter ended at its start ({status}):\n{self.log}"
            assert time.monotonic() < deadline, f"the snapshotter is not ready:\n{self.log}"

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.channel.close()
        self.process.terminate()
        return self.process.wait(timeout=20)

    def kill(self) -> None:
        """kill -9."""
        self.channel.close()
        self.process.kill()
        self.process.wait(timeout=20)

    @property
    def log(self) -> str:
        """All that the process has logged."""
        return self._log.read_text()

    def prepare(self, key: str, parent: str = "", labels: dict[str, str] | None = None) -> list:
        request = pb.PrepareSnapshotRequest(key=key, parent=parent, labels=labels or {})
        return list(self.client.Prepare(request, timeout=30).mounts)

    def view(self, key: str, parent: str = "") -> list:
        return list(self.client.View(pb.ViewSnapshotRequest(key=key, parent=parent)).mounts)

    def mounts(self, key: str) -> list:
        return list(self.client.Mounts(pb.MountsRequest(key=key), timeout=30).mounts)

    def commit(self, name: str, key: str, labels: dict[str, str] | None = None) -> None:
        self.client.Commit(pb.CommitSnapshotRequest(name=name, key=key, labels=labels or {}))

    def remove(self, key: str) -> None:
        self.client.Remove(pb.RemoveSnapshotRequest(key=key))

    def stat(self, key: str):
        return self.client.Stat(pb.StatSnapshotRequest(key=key)).info

    def walk(self, *filters: str) -> dict:
        pages = self.client.List(pb.ListSnapshotsRequest(filters=filters))
        return {info.name: info for page in pages for info in page.info}

    def update(self, info, *paths: str):
        request = pb.UpdateSnapshotRequest(info=info)
        request.update_mask.paths.extend(paths)
        return self.client.Update(request).info

    def usage(self, key: str) -> tuple[int, int]:
        answer = self.client.Usage(pb.UsageRequest(key=key))
        return answer.size, answer.inodes

    def cleanup(self) -> None:
        self.client.Cleanup(pb.CleanupRequest())

    @contextlib.contextmanager
    def mounted(self, mounts: list) -> Iterator[pathlib.Path]:
        """Mount what the snapshotter answered, as containerd would."""
        (mount,) = mounts
        target = self.mountpoints / str(time.monotonic_ns())
        target.mkdir()
        if mount.type == "bind":
            bind = 0x1000
            syscalls.mount(mount.source, str(target), "none", bind | 0x4000)
            if "ro" in mount.options:
                syscalls.mount("none", str(target), "none", bind | 0x20 | syscalls.MS_RDONLY)
        else:
            data = ",".join(mount.options)
            if len(data) > 4000:  # as containerd does: relative to the common folder
                self._mount_relative(mount, target)
            else:
                syscalls.mount("overlay", str(target), "overlay", 0, data)
        try:
            yield target
        finally:
            syscalls.unmount(str(target))

    def _mount_relative(self, mount, target: pathlib.Path) -> None:
        options = []
        for option in mount.options:
            key, _, value = option.partition("=")
            if key == "lowerdir":
                value = value.replace(f"{self.root}/", "")
            options.append(f"{key}={value}" if value else key)
        script = (
            "import sys; sys.path[:0]=[sys.argv[4]]; import os; os.chdir(sys.argv[1]);"
            "from agent.mounts import syscalls;"
            "syscalls.mount('overlay', sys.argv[2], 'overlay', 0, sys.argv[3])"
        )
        project = pathlib.Path(__file__).parents[2]
        subprocess.run(
            [sys.executable, "-c", script, self.root, target, ",".join(options), project],
            check=True,
        )


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A short folder on the local disk (socket paths end at 107 bytes), nothing mounted after."""
    if os.geteuid() != 0:
        pytest.skip("needs root for mount(2)")
    path = pathlib.Path(tempfile.mkdtemp(prefix="uim"))
    try:
        yield path
    finally:
        for entry in reversed(mountinfo.read()):
            if entry.target.startswith(f"{path}/"):
                syscalls.unmount(entry.target, syscalls.MNT_DETACH)
        shutil.rmtree(path)


@pytest.fixture
def snapshotter(folder: pathlib.Path) -> Iterator[Process]:
    """A snapshotter without a store."""
    process = Process(folder)
    try:
        yield process
    finally:
        process.kill()
