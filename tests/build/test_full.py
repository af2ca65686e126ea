"""A file system that is full: a real small one under a real mkfs.erofs."""

import os
import pathlib
from collections.abc import Iterator

import pytest

from agent.build import mkfs_erofs
from agent.mounts import syscalls
from agent.store import integrity
from agent.store.publish import writer
from tests.build import conftest
from tests.fakes import registry as fakes

pytestmark = pytest.mark.root

SMALL, ENOUGH = "2m", "32m"


class Disk:
    """A file system of a few megabytes at `path`."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        path.mkdir()
        self._mount(SMALL, 0)

    def grow(self) -> None:
        """Make room."""
        ms_remount = 0x20
        self._mount(ENOUGH, ms_remount)

    def _mount(self, size: str, flags: int) -> None:
        syscalls.mount("tmpfs", str(self.path), "tmpfs", flags, f"size={size}")

    def close(self) -> None:
        syscalls.unmount(str(self.path), syscalls.MNT_DETACH)


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("needs root for mount(2)")
    made = Disk(tmp_path / "disk")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("what", "failure", "words"),
    [
        ("scratch", mkfs_erofs.DiskFull, r"no space left in .*/disk/scratch .*set TMPDIR"),
        ("store", writer.StoreFull, r"no space left in the store .*delete caches"),
        ("both", mkfs_erofs.DiskFull, r"no space left in .*/disk/store/tmp"),
    ],
)
async def test_a_full_disk_is_told_leaves_nothing_and_needs_only_room(
    tmp_path: pathlib.Path, disk: Disk, what: str, failure: type[Exception], words: str
) -> None:
    store = (tmp_path if what == "scratch" else disk.path) / "store"
    scratch = (tmp_path if what == "store" else disk.path) / "scratch"
    scratch.mkdir()
    writer.create(store)
    async with fakes.FakeRegistry() as fake:
        fake.add_image([fakes.tar(big=os.urandom(6_000_000))], "1")
        bench = conftest.Bench(store, fake)
        bench.scratch = scratch

        with pytest.raises(failure, match=words):
            await bench.build()

        assert bench.files() == []
        assert list(scratch.iterdir()) == []
        disk.grow()
        await bench.build()
        assert list(integrity.check(bench.place)) == []
