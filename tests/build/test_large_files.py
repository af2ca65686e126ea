"""Large files, written beside mkfs.erofs: what a kernel reads of them, and their memory."""

import asyncio
import contextlib
import os
import random
import stat
import subprocess
import sys

import pytest

from agent.build.bulk import extents, grafting, spool
from agent.store import integrity
from benchmarks import processes
from lab import processes as programs
from lab.samples import tars
from tests.fakes import registry as fakes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")

SOURCE = random.Random(3)
NOISE = SOURCE.randbytes(3 << 20)
MIXED = b"".join(SOURCE.choice([bytes(50_000), SOURCE.randbytes(50_000)]) for _ in range(60))
TEXT = b"".join(b"line %d\n" % number for number in range(200_000))
LITTLE = (NOISE[:100_000] + NOISE[68_928:100_000]) * 18 + NOISE[:200_000] + bytes(150_000)
"""Extents that compress, in a file that as a whole does not save enough."""
ODD = "SCHILY.xattr.user.k"


def entries() -> list[tars.Entry]:
    return [
        tars.folder("d/"),
        tars.file("d/small", b"small"),
        tars.file("d/noise", NOISE, uid=5, gid=6, mode=0o4750, mtime=0),
        tars.file("d/mixed", MIXED, mtime=7, pax={ODD: b"v"}),
        tars.file("d/little", LITTLE),
        tars.link("d/link", "d/mixed"),
        tars.file("d/replaced", NOISE[1:]),
        tars.file("d/replaced", b"by a small one"),
        tars.file("d/was small", b"small"),
        tars.file("d/was small", TEXT),
        tars.file("d/" + "long" * 40, TEXT[1:], uid=3_000_000, pax={"mtime": b"9.5"}),
        tars.file("d/exact", NOISE[: 2 * extents.SIZE] * 8),
    ]


CONTENTS = {
    "small": b"small",
    "noise": NOISE,
    "mixed": MIXED,
    "little": LITTLE,
    "link": MIXED,
    "replaced": b"by a small one",
    "was small": TEXT,
    "long" * 40: TEXT[1:],
    "exact": NOISE[: 2 * extents.SIZE] * 8,
}


@pytest.mark.root
@pytest.mark.parametrize("front", [spool.FRONT, 8 << 20, extents.BLOCK], ids=["16M", "8M", "4K"])
async def test_large_files_are_read_as_they_were(bench, tmp_path, monkeypatch, front: int) -> None:
    monkeypatch.setattr(spool, "FRONT", front)
    monkeypatch.setattr(grafting, "_BATCH", 3)
    layer = tars.archive(entries())
    bench.fake.add_image([layer], "1", compress=fakes.gzipped)

    await bench.build()

    assert list(integrity.check(bench.place)) == []
    file = bench.place.layer(fakes.digest(layer))
    subprocess.run(["fsck.erofs", file], check=True, stdout=subprocess.DEVNULL)
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-oro,loop", file, place], check=True)
    try:
        found = {path.name: path.read_bytes() for path in (place / "d").iterdir()}
        assert {name: data == CONTENTS[name] for name, data in found.items()} == dict.fromkeys(
            CONTENTS, True
        )
        noise, mixed = (place / "d/noise").stat(), (place / "d/mixed").stat()
        assert (noise.st_uid, noise.st_gid, stat.S_IMODE(noise.st_mode)) == (5, 6, 0o4750)
        # A hard link in a tar gives its times to the file.
        assert (noise.st_mtime, mixed.st_mtime, mixed.st_nlink) == (0, tars.EPOCH, 2)
        assert (place / "d/link").stat().st_ino == mixed.st_ino
        assert os.getxattr(place / "d/mixed", "user.k") == b"v"
        long = (place / "d" / ("long" * 40)).stat()
        assert (long.st_uid, long.st_mtime) == (3_000_000, 9.5)
    finally:
        programs.unmount_below(tmp_path)


async def test_a_layer_with_large_files_is_the_same_again(bench) -> None:
    layer = tars.archive(entries())
    bench.fake.add_image([layer], "1")
    await bench.build()
    path = bench.place.layer(fakes.digest(layer))
    before = path.read_bytes()
    path.unlink()

    await bench.build()

    assert path.read_bytes() == before
    assert list(bench.place.tmp.iterdir()) == []


SIZE = 256 << 20
MOST = 160
"""MiB; mkfs.erofs alone had 226 for this file."""


async def test_a_file_that_does_not_compress_takes_little_memory(bench) -> None:
    entry = tars.file("weights", b"")
    layer = tars.header(entry, SIZE) + os.urandom(SIZE) + bytes(2 * tars.BLOCK)
    bench.fake.add_image([layer], "1", compress=bytes)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from agent.cli.entry import main; main()"),
        *("create", "big", "--image", f"{bench.fake.host}/team/app:1", "--json"),
        *("--platform", "linux/amd64", "--plain-http", bench.fake.host),
        *("--store", str(bench.place.root)),
        stdout=subprocess.DEVNULL,
    )
    most = 0.0
    while process.returncode is None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.05)
        most = max(most, processes.tree_pss_by_program(process.pid).total())

    assert process.returncode == 0
    assert 20 < most < MOST
    (file,) = bench.place.layer_files.glob("*/*.erofs")
    assert file.stat().st_size > SIZE
