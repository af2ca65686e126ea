"""A copy that is killed at any point leaves a draft at most, and the next one ends well."""

import hashlib
import os
import pathlib
import signal

import pytest

from agent.local import copying, disk
from tests import crashing

MIB = 1 << 20


class Node:
    """A layer of 2.5 pieces, and the folder of copies."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.data = os.urandom(2 * MIB + MIB // 2)
        self.source = folder / "layer"
        self.source.write_bytes(self.data)
        self.folder = folder / "local"
        self.name = "ab" * 32
        self.target = self.folder / f"sha256/ab/{self.name}.erofs"
        self.draft = self.folder / f"tmp/{self.name}.erofs"

    def copy(self) -> None:
        """What the agent has its worker do."""
        folder = str(self.folder)
        disk.prepare(folder)
        disk.sweep(folder)
        disk.clear_drafts(folder, self.name)
        disk.write_record(folder, self.name, b"{}")
        draft = str(self.draft)
        copying.begin(str(self.source), draft, len(self.data))
        copying.more(draft, 5.0, 0, ["none"])
        sha256 = f"sha256:{hashlib.sha256(self.data).hexdigest()}"
        assert copying.finish(draft, str(self.target), sha256)

    def killed_at(self, operation: str, when: str, number: int) -> bool:
        """Copy in a process that is killed at the N-th call; False where there are fewer."""
        pid = os.fork()
        if pid == 0:
            setattr(os, operation, crashing.deadly(getattr(os, operation), when, number))
            try:
                self.copy()
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["open", "pwrite", "fsync", "rename"])
def test_killed_anywhere_a_copy_is_there_or_not(
    tmp_path: pathlib.Path, operation: str, when: str
) -> None:
    number = 1
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        node = Node(folder)
        if not node.killed_at(operation, when, number):
            break
        assert not node.target.exists() or node.target.read_bytes() == node.data
        node.copy()
        assert node.target.read_bytes() == node.data
        assert os.listdir(node.folder / "tmp") == []
        number += 1

    assert number > 1
    assert node.target.read_bytes() == node.data
