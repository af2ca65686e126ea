"""containerd's own EROFS snapshotter with a folder of links to layers as its cache; pure.

What node set-up adds for that beside the runtime handlers, which are on that snapshotter. Read in
containerd 2.4 (plugins/snapshots/erofs/plugin, plugins/transfer): a list of a later file replaces
that of an earlier one, so what others have in it is repeated; an entry of `unpack_config` that is
`optional` does not keep containerd from starting where mkfs.erofs is missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.model import keys
from agent.setup.config import settings_view

WARNING = (
    "pods of these handlers that mount an image as a volume do not start with containerd 2.4 as of"
    " August 2026 (containerd issue 13534)"
)

_SNAPSHOTTER = ("plugins", f"{keys.SNAPSHOTTER_PLUGINS}.{keys.NATIVE_SNAPSHOTTER}")
_TRANSFER = ("plugins", "io.containerd.transfer.v1.local")
_CACHES = "layer_content_caches"
_UNPACK = "unpack_config"
_FORBIDDEN = ("enable_fsverity", "set_immutable")
_BY_DEFAULT = {"snapshotter": "overlayfs", "differ": "walking"}
_OWN = {
    "snapshotter": keys.NATIVE_SNAPSHOTTER,
    "differ": keys.NATIVE_SNAPSHOTTER,
    "optional": True,
}


def obstacle(plugins: Mapping[str, Any] | None) -> str:
    """Why a containerd cannot be set up so, by the plugins of its dump; "" where it can.

    None stands for a containerd that cannot be asked.
    """
    if plugins is None:
        return (
            "--native needs a containerd 2.4 that can be asked what it knows: k3s and RKE2 make"
            " their configuration at each start, and older ones have no cache of layers"
        )
    settings = settings_view.table_at(plugins, _SNAPSHOTTER[1:])
    if _CACHES not in settings:
        return (
            f"this containerd has no {_CACHES} for its EROFS snapshotter, which --native needs:"
            " containerd 2.4 or newer has"
        )
    if set_ := [name for name in _FORBIDDEN if settings.get(name)]:
        return (
            f"{' and '.join(set_)} of containerd's EROFS snapshotter cannot be used together with"
            f" {_CACHES}, which --native needs: containerd would not load it"
        )
    return ""


def tables(
    plugins: Mapping[str, Any], folder: str, platform: str
) -> list[tuple[settings_view.KeyPath, dict[str, Any]]]:
    """What to add to a configuration with these plugins; `folder` has the links."""
    settings = settings_view.table_at(plugins, _SNAPSHOTTER[1:])
    others = [each for each in settings.get(_CACHES, ()) if each != folder]
    return [
        (_SNAPSHOTTER, {_CACHES: [folder, *others]}),
        (_TRANSFER, {_UNPACK: _unpack(plugins, platform)}),
    ]


def faults(plugins: Mapping[str, Any], folder: str) -> list[str]:
    """What a configuration lacks of that."""
    missing = []
    if folder not in settings_view.table_at(plugins, _SNAPSHOTTER[1:]).get(_CACHES, ()):
        missing.append(f"{_CACHES} of containerd's EROFS snapshotter does not name {folder}")
    unpack = settings_view.table_at(plugins, _TRANSFER[1:]).get(_UNPACK) or ()
    if not any(_is_own(each) for each in unpack):
        missing.append(f"{_UNPACK} has no entry for the snapshotter {keys.NATIVE_SNAPSHOTTER}")
    return missing


def _unpack(plugins: Mapping[str, Any], platform: str) -> Sequence[Mapping[str, Any]]:
    """The snapshotters that a pull can unpack for: those that there are, and containerd's own."""
    there = settings_view.table_at(plugins, _TRANSFER[1:]).get(_UNPACK) or ()
    kept = [_without_defaults(each) for each in there]
    if not kept:
        # What containerd does without a list (plugins/transfer, defaultUnpackConfig).
        native = f"{platform.replace('/', '(+erofs)/', 1)}"
        kept = [{"platform": platform, **_BY_DEFAULT}, {"platform": native, **_OWN}]
    if not any(_is_own(each) and each.get("platform") == platform for each in kept):
        kept.append({"platform": platform, **_OWN})
    return kept


def _is_own(entry: Mapping[str, Any]) -> bool:
    return entry.get("snapshotter") == keys.NATIVE_SNAPSHOTTER


def _without_defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a dump, which shows settings that are empty."""
    return {key: value for key, value in entry.items() if value}
