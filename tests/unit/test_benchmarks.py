"""What is written of a benchmark is of one run, and says which; what is counted is ours."""

import json
import os
import signal
import subprocess
import time

import pytest

from benchmarks import processes, report, runs, spreads
from benchmarks.node import images
from lab.web import registries

EVERY = ("one", "two")


def test_a_whole_run_replaces_what_was_written(tmp_path) -> None:
    (tmp_path / "latest.json").write_text('{"old": 1}')
    record = runs.end(runs.begin())

    path = runs.write(tmp_path, record, {"a_s": 2.0}, parts=["two", "one"], every=EVERY)

    written = json.loads(path.read_text())
    assert path == tmp_path / "latest.json"
    assert "old" not in written
    assert written["a_s"] == 2.0
    assert written["started"] <= written["ended"]
    assert {"commit", "load_before", "load_after", "stolen_s"} <= set(written)


def test_a_part_leaves_the_whole_run_alone(tmp_path) -> None:
    (tmp_path / "latest.json").write_text('{"old": 1}')
    record = runs.end(runs.begin())

    path = runs.write(tmp_path, record, {"a_s": 2.0}, parts=["two"], every=EVERY)

    assert json.loads((tmp_path / "latest.json").read_text()) == {"old": 1}
    assert json.loads(path.read_text())["parts"] == "two"


def test_the_table_says_which_run_it_is_of(capsys) -> None:
    record = runs.Record("abc", "2026-01-01", "2026-01-02", 0.25, 1.5, 3.0)

    report.show({"list_by_ref_p50_ms": 3.0, "list_by_ref_few_p50_ms": 1.0}, record)

    said = capsys.readouterr().out
    assert "MISSED" in said
    assert "commit abc" in said
    assert "before 0.25, after 1.50" in " ".join(said.split())


@pytest.mark.parametrize(
    ("rounds", "verdict"),
    [([0.5, 0.6, 0.7], "ok"), ([0.5, 0.6, 0.9], "unsure"), ([0.8, 0.9, 0.9], "MISSED")],
)
def test_a_bar_is_judged_by_all_rounds(rounds: list[float], verdict: str) -> None:
    flat = spreads.of("build_s", rounds) | spreads.of("pull_overlayfs_s", [1.0] * 3)
    flat |= spreads.ratio("build_ratio", rounds, [1.0] * 3)
    row = report.Row("", "x", "<= 0.7", ("build_s", "pull_overlayfs_s"), "ratio", "build_ratio")
    value = report.Row("", "s", "<= 0.7", ("build_s",))

    assert [row.verdict(flat), value.verdict(flat)] == [verdict, verdict]
    assert row.range(flat) == f"{min(rounds):.3g} to {max(rounds):.3g}"


def test_without_rounds_the_figure_alone_is_judged() -> None:
    row = report.Row("", "s", "<= 0.7", ("build_s",))

    assert (row.verdict({"build_s": 0.7}), row.range({"build_s": 0.7})) == ("ok", "")


@pytest.mark.parametrize(
    ("agent", "counts"),
    [
        ("containerd/2.1.9+unknown", True),
        ("containerd/1.7.24+unknown", False),
        ("soci-snapshotter/0.4.1-6", False),
        ("Go-http-client/1.1", False),
    ],
)
def test_what_soci_fetches_in_the_background_is_not_ours(agent: str, *, counts: bool) -> None:
    request = registries.Request("GET", "lab/large", "blobs", "sha256:1", 200, 1, agent)

    assert bool(images.pulled([request])) is counts


def test_memory_is_that_of_all_processes() -> None:
    hold = "import time; kept = b'x' * (40 << 20); time.sleep(1000)"
    command = ["/bin/sh", "-c", f'python3 -c "{hold}" & python3 -c "{hold}" & wait']
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 60
            while processes.tree_pss_by_program(process.pid)["python3"] < 80:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert processes.tree_pss_mib(process.pid) > 80
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_command_that_fails_has_no_figure() -> None:
    with pytest.raises(RuntimeError, match="failed with 3"):
        processes.peak_tree_pss_mib(["/bin/sh", "-c", "exit 3"])
