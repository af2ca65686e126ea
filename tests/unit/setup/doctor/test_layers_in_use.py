"""The doctor's look at the layers that a node has mounted."""

import pathlib

import msgspec

from agent.kits import files
from agent.model import records
from agent.mounts import mountinfo
from agent.setup.doctor import checks, layers_in_use
from agent.store import layout

GOOD, BAD = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def entry(root: pathlib.Path, store: layout.Layout, diff_id: str) -> mountinfo.Entry:
    (line,) = mountinfo.parse(
        f"40 30 0:41 / {root}/layers/{diff_id[7:23]} ro - erofs {store.layer(diff_id)} ro\n"
    )
    return line


async def test_mounted_layers_that_the_store_calls_damaged_are_named(tmp_path) -> None:
    root, store = tmp_path / "root", layout.Layout(tmp_path / "store")
    record = records.LayerRecord(
        diff_id=GOOD,
        size=1,
        tar_size=1,
        sha256=GOOD,
        blobs=[],
        mkfs=records.Toolchain(version="test", options=[]),
    )
    damaged = msgspec.structs.replace(record, diff_id=BAD, damaged="has 3 bytes")
    for each in (record, damaged):
        files.write(store.layer_record(each.diff_id), records.encode(each))

    def tables(*diff_ids: str):
        return lambda: [entry(root, store, diff_id) for diff_id in diff_ids]

    async def examined(*diff_ids: str) -> list[checks.Finding]:
        return await layers_in_use.examine(
            root, store.root, deadline=10, read_table=tables(*diff_ids)
        )

    assert await examined() == []
    assert [each.level for each in await examined(GOOD)] == [checks.Level.OK]
    (finding,) = await examined(GOOD, BAD)
    assert finding.level is checks.Level.FAIL
    assert "1 of 2" in finding.what
    assert BAD in finding.what
    assert "has 3 bytes" in finding.what
    assert "create the caches" in finding.fix
