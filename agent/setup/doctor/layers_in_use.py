"""Whether the layers that the snapshotter has mounted are sound, by their records in the store."""

import pathlib
from collections.abc import Callable, Sequence

from agent import errors
from agent.kits.processes import workers
from agent.model import digests
from agent.mounts import mountinfo
from agent.setup.doctor import checks
from agent.store import layout
from agent.store.lookup import catalog

_CHECK = "layers in use"


def mounted_below(folder: pathlib.Path, table: Sequence[mountinfo.Entry]) -> list[str]:
    """The diff IDs of the layer files that are mounted below a folder."""
    files = {
        mountinfo.backing_file(entry.source)
        for entry in table
        if entry.kind == "erofs" and entry.target.startswith(f"{folder}/")
    }
    names = sorted(f"sha256:{pathlib.PurePath(file).stem}" for file in files)
    return [name for name in names if digests.is_digest(name)]


async def examine(
    root: pathlib.Path,
    store: pathlib.Path,
    *,
    deadline: float,
    read_table: Callable[[], Sequence[mountinfo.Entry]] = mountinfo.read,
) -> list[checks.Finding]:
    """What the store's records say of the layers mounted below the snapshotter's root."""
    damage: list[str] = []
    mounted = mounted_below(root / "layers", read_table())
    if not mounted:
        return []
    async with workers.Pool("agent.store.lookup.file_reads", name="the doctor", size=1) as pool:
        shelf = catalog.Catalog(
            layout.Layout(store),
            pool,
            deadline=deadline,
            on_damage=lambda _kind, name, reason: damage.append(f"{name}: {reason}"),
        )
        try:
            for diff_id in mounted:
                await shelf.layer(diff_id)
        except errors.TemporaryError as error:
            fix = "look after the file server and its mount (mount | grep nfs; dmesg)"
            return [checks.warn(_CHECK, str(error), fix)]
    if not damage:
        return [checks.ok(_CHECK, f"{len(mounted)} mounted layers, none known to be damaged")]
    what = f"{len(damage)} of {len(mounted)} mounted layers are damaged in the store: {damage[0]}"
    return [
        checks.bad(
            _CHECK,
            what,
            "create the caches that use them again: new containers get what is built then, "
            "and those that run go on",
        )
    ]
