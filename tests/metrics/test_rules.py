"""The alert rules, by Prometheus' own tool: each fires when it should, and only then."""

import os
import pathlib
import re
import subprocess

import yaml

from lab import places
from tests.metrics import boards

TESTS = [pathlib.Path(__file__).with_name(name) for name in ("rules.yaml", "rules_of_hours.yaml")]
RESOURCE = boards.FOLDER / "operator/prometheusrule.yaml"
HEAD = """\
# Made from ../uimgacc.rules.yaml: UIMGACC_GOLDEN=write with tests/metrics/test_rules.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: uimgacc
  labels:
    app.kubernetes.io/name: uimgacc
spec:
"""


def promtool(*arguments: str | os.PathLike[str]) -> tuple[int, str]:
    done = subprocess.run(
        [places.BIN / "promtool", *arguments], capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def test_prometheus_takes_the_rules() -> None:
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", boards.RULES)

    assert code == 0, said


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    code, said = promtool("test", "rules", *TESTS)

    assert code == 0, said


def test_no_alert_is_without_a_test_of_both() -> None:
    cases = [
        case
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    is_quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}

    assert fires == is_quiet == {rule["alert"] for rule in boards.alerts()}


def test_every_alert_says_what_it_means_and_is_documented() -> None:
    text = (places.CHECKOUT / "docs/reference/metrics.md").read_text()
    documented = re.findall(r"^\| `(Uimgacc\w+)` \|", text, re.MULTILINE)

    assert documented == [rule["alert"] for rule in boards.alerts()]
    for rule in boards.alerts():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "for" in rule


def test_the_operators_rules_are_the_same() -> None:
    _, _, body = boards.RULES.read_text().partition("\ngroups:\n")
    expected = HEAD + "".join(
        f"  {line}\n" if line else "\n" for line in f"groups:\n{body}".splitlines()
    )
    if os.environ.get("UIMGACC_GOLDEN") == "write":
        RESOURCE.write_text(expected)

    assert RESOURCE.read_text() == expected
    assert yaml.safe_load(expected)["spec"] == yaml.safe_load(boards.RULES.read_text())
