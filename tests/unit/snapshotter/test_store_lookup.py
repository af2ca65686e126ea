"""What of a store may be served on a node, by what its agent has announced."""

import pathlib

import msgspec
import pytest

from agent.kits import machine
from agent.model import records, reports
from agent.snapshotter.lookup import layer_rules


@pytest.mark.parametrize(
    ("announced", "owner", "required", "problem"),
    [
        (None, "", False, ""),
        (None, "", True, "has not announced"),
        (None, "a", False, "has not announced"),
        (b"", "a", False, "has not announced"),
        ("a", "a", True, ""),
        ("a", "", True, ""),
        ("b", "a", False, "belongs to cluster a, and this node to cluster b"),
        ("", "a", False, "belongs to cluster a, and this node to no cluster"),
        ("", "", True, ""),
    ],
)
def test_a_cluster_s_store_is_served_on_its_announced_nodes(
    announced, owner, required, problem, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / reports.ANNOUNCED
    if isinstance(announced, str):
        known = reports.Announced(cluster=announced, boot=machine.boot_id())
        file.write_bytes(msgspec.json.encode(known))
    elif announced is not None:
        file.write_bytes(announced)
    store = records.StoreRecord(format=1, id="x", cluster=owner)

    said = layer_rules.Announcement(file, required=required).problem(store)

    assert problem in said
    assert bool(said) is bool(problem)


def test_what_was_announced_before_a_reboot_does_not_count(tmp_path: pathlib.Path) -> None:
    """The machine was off for days, its node is forgotten, and its agent starts after pods do."""
    file = tmp_path / reports.ANNOUNCED
    before = reports.Announced(cluster="a", boot="6e2f0f5e-0000-4000-8000-000000000000")
    file.write_bytes(msgspec.json.encode(before))
    store = records.StoreRecord(format=1, id="x", cluster="a")

    assert "has not announced" in layer_rules.Announcement(file).problem(store)
