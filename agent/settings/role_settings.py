"""Which settings each role has: for the reference page, and for the Helm chart's schema."""

from collections.abc import Mapping

from agent.settings import (
    agent_settings,
    build_settings,
    controller_settings,
    snapshotter_settings,
)

ROLES: Mapping[str, type] = {
    "agent": agent_settings.Agent,
    "snapshotter": snapshotter_settings.Snapshotter,
    "controller": controller_settings.Controller,
    "build": build_settings.Build,
}
"""The settings of each role, by the name of its command."""
