"""`uimgacc bugreport`: one archive of what a maintainer needs, within bounds of bytes and time."""

import asyncio
import dataclasses
import importlib.metadata
import pathlib
from typing import Any

from agent.cli import cluster_access, output, progress
from agent.cli.bugreport import archive, cluster_material, machine_material
from agent.clients.kube import rest_client
from agent.kits import units
from agent.model import times
from agent.setup.doctor import examination

_LATE = "the report ended before it was read: it may take --seconds"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Where to write it ("": a name of its own here), and within how many seconds to collect."""

    path: str = ""
    seconds: float = 300.0


def of_cluster(
    target: cluster_access.Target, wanted: Wanted, amount: cluster_material.Wanted, *, as_json: bool
) -> None:
    """Report about a cluster."""
    path, folder = _path(wanted)
    made = archive.Archive(folder)
    with progress.shown(quiet=as_json) as report:

        async def work(client: rest_client.Client) -> None:
            material = cluster_material.Material(client, made, amount, report)
            await _within(made, wanted.seconds, material.collect())

        cluster_access.run(target, work)
    _write(made, path, "cluster", as_json=as_json)


def of_machine(wanted: Wanted, patient: examination.Patient, *, as_json: bool) -> None:
    """Report about this machine."""
    path, folder = _path(wanted)
    made = archive.Archive(folder)
    with progress.shown(quiet=as_json) as report:
        material = machine_material.Material(made, patient, report)
        asyncio.run(_within(made, wanted.seconds, material.collect()))
    _write(made, path, "machine", as_json=as_json)


def _path(wanted: Wanted) -> tuple[pathlib.Path, str]:
    """The file, and the folder in it."""
    folder = f"uimgacc-bugreport-{times.now():%Y%m%d-%H%M%S}"
    path = pathlib.Path(wanted.path or f"{folder}.tar.gz")
    if path.exists():
        raise output.UsageError(f"{path} exists")
    if not path.parent.is_dir():
        raise output.UsageError(f"{path.parent} is no folder")
    return path, folder


async def _within(made: archive.Archive, seconds: float, work: Any) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        made.miss("what comes after the last file", _LATE)


def _write(made: archive.Archive, path: pathlib.Path, subject: str, *, as_json: bool) -> None:
    about = {
        "uimgacc": importlib.metadata.version("uimgacc"),
        "created": times.stamp(times.now()),
        "subject": subject,
    }
    size = made.write(path, about=about)
    if as_json:
        output.show_json(
            {"file": str(path), "bytes": size, "files": made.files, "missing": made.missing}
        )
        return
    for name, why in sorted(made.missing.items()):
        output.say(f"not in it: {name}: {why}")
    print(f"wrote {path}: {len(made.files)} files, {units.size(size)}")
    output.say(
        "What looks like a credential was taken out, and no Secret was read. It has names of"
        " images, namespaces and nodes: look through it before you send it."
    )
