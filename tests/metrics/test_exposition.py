"""Prometheus' own linter on what the roles expose (its content: tests/unit/test_metrics.py)."""

import subprocess

import pytest

from lab import places

GOLDEN = places.CHECKOUT / "tests/golden/metrics"


def check(text: str) -> tuple[int, str]:
    done = subprocess.run(
        [places.BIN / "promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("role", ["agent", "snapshotter", "controller"])
def test_prometheus_has_nothing_to_say_against_it(role: str) -> None:
    assert check((GOLDEN / f"{role}.prom").read_text()) == (0, "")


def test_the_linter_would_say_something() -> None:
    code, said = check("# HELP a_count x\n# TYPE a_count counter\na_count 1\n")

    assert (code, "_total" in said) == (3, True)
