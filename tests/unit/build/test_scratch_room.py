"""The room of layers at work: shared, bounded, given back."""

import os
import types

import pytest

from agent.build import mkfs_erofs, scratch_room


def test_layers_at_work_share_a_limit_and_give_back_what_they_took(tmp_path) -> None:
    room = scratch_room.Room(tmp_path, 100)
    with room.share() as first:
        first.take(60)
        with room.share() as second, pytest.raises(scratch_room.ScratchExceeded, match="--scratch"):
            second.take(41)
    with room.share() as third:
        third.take(100)


def test_without_a_limit_the_disk_decides(tmp_path, monkeypatch) -> None:
    space = types.SimpleNamespace(f_blocks=1 << 20, f_frsize=4096, f_bavail=1 << 19)
    monkeypatch.setattr(os, "statvfs", lambda _: space)
    room = scratch_room.Room(tmp_path)
    with room.share() as share:
        share.take(1 << 30)
        space.f_bavail = 50_000  # of 4 GiB less than a twentieth
        with pytest.raises(mkfs_erofs.DiskFull):
            share.take(64 << 20)
