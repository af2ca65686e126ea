"""The dashboards as Grafana takes them (what they show: test_scraped.py)."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models import dashboard

from lab import places
from tests.metrics import boards


def known(content: dict[str, Any]) -> Any:
    """What Grafana's own model of a dashboard makes of it: without what it does not know."""
    plugins.register_default_plugins()
    model = dashboard.Dashboard.from_json(content)
    return json.loads(encoder.JSONEncoder().encode(model))


def unknown(given: Any, kept: Any, path: str = "") -> list[str]:
    """The paths of what is in `given` and not, or not so, in `kept`."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            problem
            for key, value in given.items()
            for problem in (
                unknown(value, kept[key], f"{path}/{key}") if key in kept else [f"{path}/{key}"]
            )
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [problem for n, (a, b) in pairs for problem in unknown(a, b, f"{path}/{n}")]
    return [] if given == kept else [path]


@pytest.mark.parametrize("name", boards.NAMES)
def test_grafana_knows_every_field(name: str) -> None:
    content = boards.load(name)

    assert unknown(content, known(content)) == []


def test_a_field_that_grafana_does_not_know_would_be_found() -> None:
    content = boards.load("uimgacc-fleet")
    content["panels"][1]["fieldConfig"]["defaults"]["untit"] = "s"
    content["panels"][1]["options"]["graphMod"] = "area"

    found = unknown(content, known(content))
    assert found == [
        "/panels/1/fieldConfig/defaults/untit",
        "/panels/1/options/graphMod",
    ]


@pytest.mark.parametrize("name", boards.NAMES)
def test_ids_are_stable_and_every_panel_says_what_it_shows(name: str) -> None:
    content = boards.load(name)
    ids = [panel["id"] for panel in content["panels"]]

    assert content["uid"] == name
    assert ids == list(range(1, len(ids) + 1))
    for panel in boards.panels(name):
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(
            target.get("legendFormat") or panel["type"] == "table" for target in panel["targets"]
        ), panel["title"]


@pytest.mark.parametrize("name", boards.NAMES)
def test_panels_fill_rows_and_never_overlap(name: str) -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in boards.load(name)["panels"]:
        place = panel["gridPos"]
        cells = [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert not [cell for cell in cells if cell in taken], panel["title"]
        taken.update(dict.fromkeys(cells, panel["id"]))

    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height, "there is a hole"


def test_links_lead_to_dashboards_that_there_are() -> None:
    text = "".join((boards.FOLDER / f"{name}.json").read_text() for name in boards.NAMES)
    for name in boards.NAMES:
        assert f'"/d/{name}' in text


def rendered(folder: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [places.BIN / "kubectl", "kustomize", boards.FOLDER / folder],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_kustomize_makes_a_config_map_that_grafana_finds() -> None:
    (resource,) = rendered(".")

    assert (resource["kind"], resource["metadata"]["labels"]["grafana_dashboard"]) == (
        "ConfigMap",
        "1",
    )
    assert {key: json.loads(text) for key, text in resource["data"].items()} == {
        f"{name}.json": boards.load(name) for name in boards.NAMES
    }


def test_kustomize_makes_the_operators_rules() -> None:
    (resource,) = rendered("operator")

    assert resource["kind"] == "PrometheusRule"


def test_every_metric_is_on_a_dashboard() -> None:
    """A figure that nobody looks at is not worth its series."""
    shown = "".join((boards.FOLDER / f"{name}.json").read_text() for name in boards.NAMES)
    golden = places.CHECKOUT / "tests/golden/metrics"
    text = "".join(file.read_text() for file in golden.glob("*.prom"))
    names = set(re.findall(r"^# TYPE (uimgacc_\w+)", text, re.MULTILINE))

    assert len(names) > 10
    assert {name for name in names if name not in shown} == set()
