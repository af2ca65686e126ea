"""What operators build on: names, types, labels and words of all metrics of both roles.

After an intended change, UIMGACC_GOLDEN=write with this test writes the golden
files anew; docs/reference/metrics.md is changed by hand.
"""

import importlib
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import prometheus_client
import pytest
from prometheus_client.metrics import MetricWrapperBase

from agent import metrics
from agent.metrics import registries

CHECKOUT = pathlib.Path(__file__).parents[2]
GOLDEN = CHECKOUT / "tests/golden/metrics"
ROLES = {"agent": "AGENT", "snapshotter": "SNAPSHOTTER", "controller": "CONTROLLER"}
# A registry as it is when its role starts, in a process where nothing else has counted. A role has
# the metrics of the modules that it imports.
EXPOSE = """
import prometheus_client
import agent.roles.{role}
from agent.metrics import registries
print(prometheus_client.generate_latest(registries.{registry}).decode(), end="")
"""

for module in pkgutil.iter_modules(metrics.__path__, f"{metrics.__name__}."):
    importlib.import_module(module.name)


def exposition(role: str) -> str:
    """What a role exposes at its start; of the version and of the process only the names."""
    code = EXPOSE.format(role=role, registry=ROLES[role])
    text = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    text = re.sub(r'(uimgacc_build_info\{version=")[^"]*', r"\1...", text)
    return re.sub(r"^(process_\w+) .*", r"\1 0", text, flags=re.MULTILINE)


def families(role: str) -> dict[str, tuple[str, set[str]]]:
    """Our metrics of a role: name to type and labels, also where nothing was counted yet."""
    registry: prometheus_client.CollectorRegistry = getattr(registries, ROLES[role])
    found = {}
    for collector in registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            suffix = "_total" if collector._type == "counter" else ""
            found[collector._name + suffix] = (collector._type, set(collector._labelnames))
    return found


def documented() -> dict[str, tuple[str, set[str], set[str]]]:
    """The table of docs/reference/metrics.md: name to type, labels and roles."""
    found = {}
    for line in (CHECKOUT / "docs/reference/metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith("`uimgacc_"):
            name = cells[0].strip("`")
            labels = set(re.findall(r"`(\w+)`", cells[2].partition(":")[0]))
            assert name not in found, f"{name} is there twice"
            assert len(cells) == 6, line
            assert all(len(cell) > 10 for cell in cells[4:]), f"{name}: words are missing"
            found[name] = (cells[1], labels, set(cells[3].split(", ")))
    return found


@pytest.mark.parametrize("role", ROLES)
def test_each_role_exposes_what_the_golden_file_has(role) -> None:
    file = GOLDEN / f"{role}.prom"
    found = exposition(role)
    if os.environ.get("UIMGACC_GOLDEN") == "write":
        file.write_text(found)

    assert file.read_text() == found


@pytest.mark.parametrize("role", ROLES)
def test_a_role_s_program_imports_every_metric_of_its_registry(role: str) -> None:
    """Prometheus sees only what the process exposes from its start."""
    text = (GOLDEN / f"{role}.prom").read_text()
    exposed = set(re.findall(r"^# TYPE (uimgacc_\w+) ", text, flags=re.MULTILINE))

    assert exposed - {"uimgacc_build_info"} == set(families(role)) - {"uimgacc_build_info"}


def test_a_name_counts_the_same_thing_in_every_role() -> None:
    """Dashboards and alerts add up what all processes expose under one name."""
    helps: dict[str, set[str]] = {}
    for role in ROLES:
        text = (GOLDEN / f"{role}.prom").read_text()
        for name, words in re.findall(r"^# HELP (\w+) (.*)$", text, flags=re.MULTILINE):
            helps.setdefault(name, set()).add(words)

    assert {name: words for name, words in helps.items() if len(words) > 1} == {}


def test_the_documentation_has_every_metric_and_no_other() -> None:
    expected: dict[str, tuple[str, set[str], set[str]]] = {}
    for role in ROLES:
        for name, (kind, labels) in families(role).items():
            _, _, roles = expected.get(name, (kind, labels, set()))
            expected[name] = (kind, labels, roles | {role})
    found = documented()

    assert found == expected


@pytest.mark.parametrize("role", ROLES)
def test_no_label_names_what_there_are_many_of(role) -> None:
    labels = set().union(*(labels for _, labels in families(role).values()))

    assert not labels & {"image", "digest", "layer", "node", "pod", "namespace", "cache"}
    assert len((GOLDEN / f"{role}.prom").read_text().splitlines()) < 500


def test_no_role_is_forgotten() -> None:
    found = {
        name
        for name, value in vars(registries).items()
        if isinstance(value, prometheus_client.CollectorRegistry) and not name.startswith("_")
    }

    assert found == set(ROLES.values())


def test_nothing_is_registered_where_no_role_exposes_it() -> None:
    """A metric that names no registry lands in the library's own, which nobody serves."""
    names = {family.name for family in prometheus_client.REGISTRY.collect()}

    assert not {name for name in names if name.startswith("uimgacc")}
