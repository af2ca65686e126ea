"""Random and odd layers become what the kernel makes of containerd's steps, or are refused."""

import os
import pathlib
import random
import subprocess
import time

import pytest

from agent.build import limits, mkfs_erofs, unpack
from agent.build.bulk import grafting, spool
from agent.build.tar import corrections, detours, headers, inheritance, stream
from lab import places, processes
from lab.samples import shapes, tars
from tests.build import reference
from tests.containerd import trees

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and owners"),
]

NAMES = ("a", "b", "c")
TARGETS = ("a", "b", "../c", "/b", "a/b", "/c/a", "nowhere", ".", "..", "b/../c")
CASES = 60


def random_entry(source: random.Random) -> tars.Entry:
    kind = source.choices("fdslwop", [10, 8, 4, 5, 3, 1, 1])[0]
    path = "/".join(source.choice(NAMES) for _ in range(source.choice([1, 1, 2, 2, 3])))
    more = {
        "mode": source.choice([0o644, 0o600, 0o755, 0o4711, 0o640]),
        "uid": source.choice([0, 0, 5]),
        "gid": source.choice([0, 7]),
    }
    pax = {}
    for chance, records, kinds in (
        (0.15, shapes.user(k=source.choice([b"1", b"2"])), "fdl"),
        (0.1, shapes.ACCESS, "fdl"),
        (0.15, shapes.DEFAULT, "d"),
        (0.1, shapes.CAPABLE, "fl"),
    ):
        if source.random() < chance and kind in kinds:
            pax |= records
    if kind == "f":
        return tars.file(path, source.choice([b"x", b"yy", b""]), pax=pax, **more)
    if kind == "d":
        return tars.folder(path, pax=pax, **more)
    if kind == "s":
        return tars.symlink(path, source.choice(TARGETS), uid=more["uid"])
    if kind == "l":
        return tars.link(path, source.choice(NAMES), pax=pax, **more)
    if kind == "p":
        return tars.Entry(name=path.encode(), kind=tars.FIFO, **more)
    folder, slash, base = path.rpartition("/")
    return tars.file(f"{folder}{slash}.wh.{base}" if kind == "w" else f"{path}/.wh..wh..opq")


def converted(
    entries, below: stream.Below, file: pathlib.Path, *, is_bottom: bool, least: int
) -> stream.Normaliser:
    """Make a layer file as the builder does, with files of `least` bytes beside mkfs.erofs."""
    tar, known = tars.archive(entries), corrections.NONE
    while True:
        diverted = detours.Detours(file.name, least=least)
        with spool.Spool(file.with_suffix(".bulk"), diverted, threads=1) as bulk:
            normaliser = stream.Normaliser(below, known, is_bottom=is_bottom, diverted=diverted)
            with file.with_suffix(".tar").open("wb") as out:
                outlet = unpack.Outlet(out.fileno(), bulk, lambda _: None)
                outlet.write(normaliser.feed(tar))
                outlet.write(normaliser.finish())
            if known := normaliser.corrections():
                continue
            command = [places.BIN / "mkfs.erofs", *mkfs_erofs.options("lz4"), file]
            with file.with_suffix(".tar").open("rb") as out:
                subprocess.run(command, stdin=out, check=True, capture_output=True)
            grafting.graft(file, bulk)
            return normaliser


def built(layers, folder: pathlib.Path, least: int) -> list[pathlib.Path]:
    """The layers' files, as the builder makes them where they stand."""
    files: list[pathlib.Path] = []
    for at, entries in enumerate(layers):
        hides = any(b".wh." in entry.name for entry in entries)
        is_bottom = at == 0 and hides
        file = folder / f"{at}.erofs"
        normaliser = converted(
            entries, stream.nothing_below, file, is_bottom=is_bottom, least=least
        )
        inherited = inheritance.look_below(
            inheritance.encode(normaliser.implied), files, limits.Account()
        )
        if inherited:
            converted(entries, inherited.get, file, is_bottom=is_bottom, least=least)
        files.append(file)
    return files


def tree_of(lowers: list[pathlib.Path], target: pathlib.Path) -> dict:
    target.mkdir()
    if len(lowers) == 1:
        command = ["mount", "--bind", lowers[0], target]
    else:
        option = "ro,lowerdir=" + ":".join(str(one) for one in reversed(lowers))
        command = ["mount", "-t", "overlay", "overlay", f"-o{option}", target]
    subprocess.run(command, check=True)
    try:
        return trees.describe(os.fsencode(target))
    finally:
        subprocess.run(["umount", target], check=True)


def compare(layers, folder: pathlib.Path, *, least: int = detours.LEAST) -> list[str]:
    """What differs, in words; nothing where both refuse."""
    started = time.time_ns() - 10**8
    refused = here = None
    try:
        roots = reference.unpack(layers, folder)
    except OSError as error:
        refused = str(error)
    try:
        files = built(layers, folder, least)
    except headers.LayerTarError as error:
        here = str(error)
    if refused is not None or here is not None:
        return [] if refused and here else [f"containerd: {refused}; here: {here}"]
    mounts = []
    try:
        for file in files:
            mounts.append(file.with_suffix(".mounted"))
            mounts[-1].mkdir()
            subprocess.run(["mount", "-t", "erofs", "-oro,loop", file, mounts[-1]], check=True)
        right = tree_of(roots, folder / "right")
        return trees.differences(right, tree_of(mounts, folder / "here"), unpacked_after=started)
    except FileNotFoundError:
        return []  # overlayfs lists a whiteout that it does not show.
    finally:
        processes.unmount_below(folder)


# As if every file were a large one, in one of them.
@pytest.mark.parametrize(("seed", "least"), [(0, detours.LEAST), (1, detours.LEAST), (2, 1)])
def test_random_layers_become_the_trees_of_containerd(tmp_path, seed: int, least: int) -> None:
    source = random.Random(seed)
    faults = []
    for case in range(CASES // 3):
        layers = [
            [random_entry(source) for _ in range(source.randint(1, 7))]
            for _ in range(source.choice([1, 1, 2, 3]))
        ]
        (tmp_path / str(case)).mkdir()
        faults += [
            (case, layers, line) for line in compare(layers, tmp_path / str(case), least=least)
        ]

    assert faults == []


@pytest.mark.parametrize("name", shapes.trees())
def test_odd_images_become_the_trees_of_containerd(tmp_path, name: str) -> None:
    assert compare(shapes.trees()[name], tmp_path, least=1) == []
