"""The benchmark of a fleet, with a handful of agents: its scenes go to their end, and count."""

import pathlib

import pytest

from benchmarks.fleet import scenes, table
from tests.kube import servers

pytestmark = pytest.mark.timeout(300)

PLAN = scenes.Plan(
    levels=(2, 4),
    joined=1.0,
    quiet=0.2,
    pods=4,
    settled=0.0,
    idle=0.5,
    acknowledged=0.5,
    parts=2,
    down=1.0,
    crew=2,
)


def test_a_small_fleet_goes_through_all_scenes(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flat: dict[str, float] = {}
    for figures in scenes.run(tmp_path / "fleet", PLAN):
        flat |= figures
    table.show(flat)

    assert flat["fleet_4_join_requests"] >= 6, "lists, watches, reads and patches of each node"
    assert flat["fleet_pod_requests"] >= 1, "an event of each pod"
    assert flat["fleet_deletion_requests"] >= 2, "each node reads its object and patches it"
    assert flat["fleet_roll_out_requests"] >= 5
    assert flat["fleet_4_join_failed"] == flat["fleet_roll_out_failed"] == 0
    assert "5000 nodes, extrapolated" in capfd.readouterr().out
    if servers.is_own():
        # Labels with annotations; the taint goes after an agent counts as ready.
        assert 1 <= flat["fleet_4_join_node_patches"] <= 2
        assert flat["fleet_4_watches"] >= 8
