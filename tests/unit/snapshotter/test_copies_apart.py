import pathlib

import pytest

from agent.mounts.devices import layer_files
from agent.snapshotter.lookup import copies_apart

NAME = f"{'a' * 64}.erofs"


class Pool:
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def call(self, operation: str, *arguments, deadline: float):
        self.calls.append(operation)
        return len(arguments)


@pytest.mark.parametrize("has_copy", [True, False])
async def test_only_the_mounts_of_copies_are_apart(tmp_path: pathlib.Path, has_copy) -> None:
    target = str(tmp_path / "layers" / "short")
    copy = pathlib.Path(layer_files.copy_of(target, NAME))
    if has_copy:
        copy.parent.mkdir(parents=True)
        copy.touch()
    pool, own = Pool(), Pool()
    both = copies_apart.CopiesApart(pool, own)  # type: ignore[arg-type]

    assert await both.call("mount_layer", f"/store/{NAME}", target, 1, deadline=9) == 3
    await both.call("unmount_layer", target, deadline=9)

    mounted, others = (own, pool) if has_copy else (pool, own)
    assert "mount_layer" in mounted.calls
    assert "mount_layer" not in others.calls
    assert "unmount_layer" in pool.calls
