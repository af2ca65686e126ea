"""What a plan for containerd's configuration is made from: the files, and what is wanted."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agent.matching import runtimes
from agent.model import keys
from agent.setup.config import settings_view

ADDRESS = "/run/uimgacc/snapshotter.sock"
DROP_IN = "99-uimgacc.toml"
WITHOUT = runtimes.WITHOUT


Twins = Mapping[str, tuple[str, Mapping[str, Any]]]
"""Runtime handlers to be made: name -> the handler that each copies, and its settings."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What the person asked for."""

    address: str = ADDRESS
    """The snapshotter's socket."""
    root: str = ""
    """The snapshotter's root; "" for the folder that containerd itself would name."""
    default_snapshotter: bool = False
    """Every pod through our snapshotter, not only those of our runtime handlers."""
    former_handler: bool = False
    """The handler WITHOUT also where uimgacc is not the default snapshotter: pods that run under it
    need it while a cluster moves to that mode, and back."""
    maps_ids: bool = False
    """Whether the snapshotter can show layers with the owners of user namespaces here."""
    native: str = ""
    """The folder of links to layers that containerd's own EROFS snapshotter is to have as a cache
    (agent.node.native), with the runtime handlers on that snapshotter; "" without."""
    platform: str = ""
    """The node's platform, as containerd writes it; needed with `native`."""

    @property
    def snapshotter(self) -> str:
        """The snapshotter of the runtime handlers."""
        return keys.NATIVE_SNAPSHOTTER if self.native else keys.SNAPSHOTTER


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """The configuration that a node has, without node-setup's part.

    `text` is None where the main file does not exist. `rendered` says that k3s or
    RKE2 makes the main file anew at each start, `templates` are their texts. `dumped` is
    what containerd itself makes of these files, None where it was not asked.
    """

    main: settings_view.Path
    text: str | None
    imported: Sequence[settings_view.File]
    release: settings_view.Release
    rendered: bool = False
    templates: Mapping[settings_view.Path, str] = dataclasses.field(default_factory=dict)
    dumped: settings_view.View | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Style:
    """How a drop-in for containerd 2.x is written.

    `version` is what it states (None: nothing), `names` the version whose names its CRI settings
    have: migration leaves names of version 3 in an older file alone.
    """

    version: int | None
    names: int
