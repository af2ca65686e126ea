"""Operating systems that make containerd's configuration from settings of their own; pure.

Their /etc cannot be written to: what node set-up needs is put there by the system, or not at all.
"""

import dataclasses
import re

from agent.setup.config import settings_view

OS_RELEASE = (settings_view.Path("/etc/os-release"), settings_view.Path("/usr/lib/os-release"))
_ID = re.compile(r"^ID=[\"']?([^\"'\n]*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class FixedSystem:
    """Such a system: where its containerd's main file is, and `advice` for a person."""

    config: settings_view.Path
    advice: str


_SYSTEMS = {
    "talos": FixedSystem(
        settings_view.Path("/etc/cri/containerd.toml"),
        "Talos makes this file from its machine configuration: add the document that"
        " docs/install/talos.md shows there; node-setup then finds its part and changes nothing",
    ),
    "bottlerocket": FixedSystem(
        settings_view.Path("/etc/containerd/config.toml"),
        "Bottlerocket makes this file from its settings, which have no place for another"
        " snapshotter or runtime handler: this node cannot serve images, and its pods are pulled"
        " as usual. Keep the DaemonSet from it (docs/install/talos.md#bottlerocket)",
    ),
}


def of(os_release: str) -> FixedSystem | None:
    """The system that a text of os-release(5) names; None for all whose files can be edited."""
    found = _ID.search(os_release)
    return _SYSTEMS.get(found[1]) if found else None
