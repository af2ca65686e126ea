"""Layers that take far more than they are: a builder refuses each, in bounded memory.

Each is built by the command in a process of its own, which may have 1.2 GiB of memory. What it
and mkfs.erofs really take is measured by the kernel.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from agent import errors
from agent.build import limits
from agent.store import integrity, layout
from agent.store.publish import writer
from lab import bombs
from tests.build.test_real_registry import MEASURE
from tests.fakes import registry as fakes

pytestmark = [
    pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="needs mkfs.erofs"),
    pytest.mark.timeout(450),
]

LONG = os.environ.get("UIMGACC_LONG", "") == "1"
"""Whether those that go on for long are built, too: `UIMGACC_LONG=1`."""

MEMORY = 1200 << 20
MOST = 700 << 20
"""Bytes that no process of a build exceeds: a half of what these builders have."""


class Serving:
    """A registry in a thread of its own, so that a test can wait for a process."""

    def __init__(self) -> None:
        self.fake = fakes.FakeRegistry()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.fake.__aenter__(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.fake.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def add(self, bomb: bombs.Bomb, tag: str) -> None:
        """Serve an image of one layer."""
        fake = self.fake
        config = json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {"type": "layers", "diff_ids": [bomb.diff_id]},
            }
        ).encode()
        media_type = f"{fakes.OCI}.layer.v1.tar" + (f"+{bomb.suffix}" if bomb.suffix else "")
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{fakes.OCI}.manifest.v1+json",
            "config": fake._described(config, f"{fakes.OCI}.config.v1+json"),
            "layers": [fake._described(bomb.blob, media_type)],
        }
        fake.add_manifest(json.dumps(manifest).encode(), manifest["mediaType"], tag)


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving()
    made.start()
    try:
        yield made
    finally:
        made.stop()


def build(serving: Serving, store: pathlib.Path, tag: str) -> tuple[int, str, int]:
    """Build an image by the command: its exit status, what it says, the most memory in bytes."""
    command = [
        *("prlimit", f"--data={MEMORY}", "--"),
        *(sys.executable, "-c", "from agent.cli.entry import main; main()"),
        *("create", "bomb", "--image", f"{serving.fake.host}/team/app:{tag}"),
        *("--platform", "linux/amd64"),
        *("--plain-http", serving.fake.host, "--store", str(store), "--json"),
    ]
    measure = MEASURE.replace("check=True, ", "").replace("subprocess.run(", "r = subprocess.run(")
    measured = subprocess.run(
        [sys.executable, "-c", f"{measure}\nsys.exit(r.returncode)", *command],
        capture_output=True,
        text=True,
        timeout=400,
    )
    return measured.returncode, measured.stderr, int(measured.stdout) << 10


@pytest.mark.parametrize("name", bombs.KINDS if LONG else sorted(set(bombs.KINDS) - bombs.SLOW))
def test_a_bomb_is_refused_in_bounded_memory(tmp_path, serving, name: str) -> None:
    bomb = bombs.make(name)
    serving.add(bomb, "1")
    writer.create(tmp_path / "store")

    status, said, most = build(serving, tmp_path / "store", "1")

    words = " ".join(said.split())
    assert status != 0
    assert re.search(bomb.words, words), words
    assert "Traceback" not in said
    assert 10 << 20 < most < MOST, f"{most >> 20} MiB"
    place = layout.Layout(tmp_path / "store")
    assert list(place.layer_files.glob("*/*")) == []
    assert [one for one in place.tmp.iterdir() if one.suffix == ".erofs"] == []
    assert list(integrity.check(place)) == []


@pytest.mark.parametrize(
    ("capacity", "free", "most"),
    [(32 << 20, limits.RATIO_FREE, 32 * limits.EXPANSION << 20), (1 << 30, 64 << 20, 128 << 20)],
    ids=["by the cache", "by the blob"],
)
async def test_zeros_take_no_more_scratch_than_they_may(
    bench, monkeypatch, capacity: int, free: int, most: int
) -> None:
    """A layer that would unpack to 512 MiB."""
    monkeypatch.setattr(limits, "RATIO_FREE", free)
    taken = 0
    bench.fake.add_image([fakes.tar(zeros=bytes(512 << 20))], "1")
    building = asyncio.ensure_future(bench.build(capacity=capacity))
    while not building.done():
        for path in [*bench.scratch.glob("*.erofs"), *bench.place.tmp.glob("*.erofs")]:
            with contextlib.suppress(FileNotFoundError):
                taken = max(taken, path.stat().st_blocks * 512)
        await asyncio.sleep(0.01)

    with pytest.raises(errors.PermanentError, match="it unpacks to more than"):
        await building
    assert taken <= most
    assert bench.files() == []
