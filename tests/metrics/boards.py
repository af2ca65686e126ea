"""The dashboards and rules as data, for tests of what they are and of what they show."""

import json
from typing import Any

import yaml

from lab import places

FOLDER = places.CHECKOUT / "dashboards"
NAMES = ("uimgacc-fleet", "uimgacc-node")
RULES = FOLDER / "uimgacc.rules.yaml"


def load(name: str) -> dict[str, Any]:
    """A dashboard."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def panels(name: str) -> list[dict[str, Any]]:
    """The panels of a dashboard that show something."""
    return [panel for panel in load(name)["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules
