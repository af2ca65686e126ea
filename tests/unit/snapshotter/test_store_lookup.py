"""What of a store may be served on a node, by what its agent has announced."""

import pathlib

import msgspec
import pytest

from agent.model import records, reports
from agent.snapshotter import store_lookup


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
        file.write_bytes(msgspec.json.encode(reports.Announced(cluster=announced)))
    elif announced is not None:
        file.write_bytes(announced)
    store = records.StoreRecord(format=1, id="x", cluster=owner)

    said = store_lookup.Announcement(file, required=required).problem(store)

    assert problem in said
    assert bool(said) is bool(problem)
