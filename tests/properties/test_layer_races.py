"""Builders, a checker and a collector race for the same few layers, in processes of their own.

A layer file that is published is never another one: the inode at its path changes only where the
collector has removed it before. `UIMGACC_LONG=1` makes it twenty times as long.
"""

import collections
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from agent.store import integrity, layer_file, layout
from agent.store.lookup import direct_reader
from lab import places
from tests.properties import racing
from tests.unit.store import making

LONG = os.environ.get("UIMGACC_LONG", "") == "1"
ROUNDS = 6000 if LONG else 300
BUILDERS = 4

pytestmark = pytest.mark.timeout(3000 if LONG else 240)


def start(role: str, root: pathlib.Path, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.properties.racing", role, str(root), str(seed), str(ROUNDS)],
        cwd=places.CHECKOUT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_published_layer_file_is_never_another_one() -> None:
    with tempfile.TemporaryDirectory(dir=making.MEMORY, prefix="uimgacc-race-") as folder:
        root = pathlib.Path(folder) / "store"
        place = making.store(root)
        inodes: dict[str, list[int]] = collections.defaultdict(list)
        collector = start("collect", root, 0)
        working = [start("build", root, seed) for seed in range(BUILDERS)]
        working.append(start("check", root, BUILDERS))

        while any(process.poll() is None for process in working):
            for path in place.layer_files.glob("*/*.erofs"):
                try:
                    number = path.stat().st_ino
                except FileNotFoundError:
                    continue
                if inodes[path.name][-1:] != [number]:
                    inodes[path.name].append(number)
        (root.parent / "stop").touch()
        said = [process.communicate()[1] for process in [*working, collector]]

        assert [process.returncode for process in [*working, collector]] == [0] * 6, said
        deleted = collections.Counter((root.parent / "deleted").read_text().split())
        replaced = {
            name: numbers for name, numbers in inodes.items() if len(numbers) > 1 + deleted[name]
        }
        assert replaced == {}
        assert len(inodes) >= len(racing.LAYERS)
        assert deleted, "the collector has removed nothing: it was no race"
        assert_healed(place)


def assert_healed(place: layout.Layout) -> None:
    """What the check marks, the next build makes again, beside what may be mounted."""
    for _ in integrity.check(place, mark=True):
        pass
    making.cache(place, "imc-last", making.image(place, *racing.LAYERS))

    for name in racing.LAYERS:
        record = direct_reader.Reader(place).layer(making.digest(name))
        assert record is not None
        assert layer_file.sha256_of(place.layer(record.diff_id)) == record.sha256
