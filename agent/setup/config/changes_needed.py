"""What has to change in containerd's configuration; pure.

In: the texts of the files without node-setup's part. Out: the texts as they should
be. With containerd 2.x everything is in a drop-in file of our own, and the main
file at most gets an `imports` entry. With 1.7 a drop-in would wipe the rest of
the CRI table (agent.setup.config.settings_view), so the file that has it is edited. k3s and RKE2
make the file from a template at each start; there the drop-in folder that they
import is used (2.x, releases since March 2026), and the template where there is none.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.matching import runtimes
from agent.model import keys
from agent.setup.config import file_edits, inputs, native_cache, settings_view, start_faults

_NO_NAMES = (
    "this k3s or RKE2 disables snapshot annotations: a pull that no cache matches gets public"
    " layers from the store, and downloads others"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The files as they should be, and what a person should know.

    `twins` maps each of our runtime handlers to the one that it copies.
    """

    files: Mapping[settings_view.Path, str]
    twins: Mapping[str, str]
    notes: Sequence[str]
    warnings: Sequence[str]
    names_images: bool
    """Whether containerd says for which image it asks for a layer (snapshot annotations)."""
    meant: Callable[[settings_view.View], list[str]]
    """What is wrong with a configuration that should be this plan's result."""


def styles(node: inputs.Node) -> list[inputs.Style]:
    """The ways to write the drop-in, the usual one first; none is in a version above the main's.

    With a higher version than the main file's containerd 2.3 does not start. 2.0 to 2.2 migrate
    the merged files from the last version that any of them states: where those are
    mixed, another tool's settings may need that version to stay the last one.
    """
    text = _fresh(node.release) if node.text is None else node.text
    main = settings_view.parse(settings_view.File(node.main, text))
    stated = settings_view.stated_version(main)
    own = None if stated is None else min(stated, node.release.newest_version)
    versions = [own]
    for file in node.imported:
        last = settings_view.stated_version(settings_view.parse(file))
        if last is not None and (stated is None or last <= stated):
            versions.append(last)
    usual = 2 if own == 2 else 3
    candidates = [inputs.Style(own, usual)]
    if node.imported and not node.release.migrates_each:
        last = versions[-1]
        candidates += [inputs.Style(last, 2 if last == 2 else 3)]
        candidates += [inputs.Style(version, names) for version in (own, last) for names in (3, 2)]
    return list(dict.fromkeys(candidates))


def plan(node: inputs.Node, wanted: inputs.Wanted, style: inputs.Style | None = None) -> Plan:
    """Decide; raise ConfigError where the node cannot be set up as it is."""
    style = style or styles(node)[0]
    if obstacle := _obstacle(node, wanted):
        raise settings_view.ConfigError(node.main, obstacle)
    main = settings_view.File(node.main, _fresh(node.release) if node.text is None else node.text)
    view = _in_force(settings_view.view(main, node.imported, node.release), node.dumped)
    twins, notes = _twins(view, wanted.snapshotter)
    former = wanted.former_handler or wanted.default_snapshotter
    if former and view.default_runtime in view.runtimes:
        settings = {**view.runtimes[view.default_runtime], "snapshotter": view.snapshotter}
        twins[inputs.WITHOUT] = (view.default_runtime, settings)
    warnings = _warnings(main, node, view) + ([native_cache.WARNING] if wanted.native else [])
    if node.text is None:
        notes.append(f"{node.main} did not exist; containerd's defaults go on to apply")
    if node.release.merges:
        files, more = file_edits.with_drop_in(main, node, view, wanted, twins, style)
    elif node.rendered:
        files, more = file_edits.with_template(node, view, wanted, twins)
    else:
        files, more = file_edits.in_place(main, node, view, wanted, twins)
    # What the template says of annotations, nothing after it can say otherwise.
    names_images = not (view.annotations_disabled and any(map(_is_template, files)))
    if wanted.native:
        # No pull asks for what the agent has linked, whichever image it is of.
        names_images = False
    elif not names_images:
        more = [*more, _NO_NAMES]
    return Plan(
        files=files,
        twins={twin: copied for twin, (copied, _) in twins.items()},
        notes=notes + more,
        warnings=warnings,
        names_images=names_images,
        meant=lambda in_force: [
            *faults(in_force, twins, wanted, node.release),
            *_losses(view, in_force, names_images=names_images),
        ],
    )


def _obstacle(node: inputs.Node, wanted: inputs.Wanted) -> str:
    """What keeps this containerd from being set up so; "" for nothing."""
    if (node.release.major, node.release.minor) < (1, 7):
        return (
            f"containerd {node.release} has no snapshotter per runtime handler; 1.7 or newer is"
            " needed"
        )
    if not wanted.native:
        return ""
    return native_cache.obstacle(None if node.dumped is None else node.dumped.plugins)


def _in_force(read: settings_view.View, dumped: settings_view.View | None) -> settings_view.View:
    """What containerd has, where it was asked, with the tables as the files have them.

    A dump shows every setting, defaults included: a twin that copied those would change with
    each release of containerd.
    """
    if dumped is None:
        return read
    runtimes_in_force = {
        name: read.runtimes[name] if name in read.runtimes else _without_defaults(table)
        for name, table in dumped.runtimes.items()
    }
    if read.version == 2 and not read.has_runtimes_table:
        # Settings that were ignored, until a `runtimes` table is there: see _warnings.
        dumped = dataclasses.replace(
            dumped, snapshotter=read.snapshotter, discards_layers=read.discards_layers
        )
    return dataclasses.replace(
        dumped,
        version=read.version,
        runtimes=runtimes_in_force,
        has_runtimes_table=read.has_runtimes_table,
        cri_owner=read.cri_owner,
    )


def _without_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of a dump without the settings that are empty, as those are defaults."""
    kept = {
        key: _without_defaults(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
    }
    return {key: value for key, value in kept.items() if value}


def faults(
    view: settings_view.View,
    twins: inputs.Twins,
    wanted: inputs.Wanted,
    release: settings_view.Release,
) -> list[str]:
    """What a configuration lacks of what is meant; an empty list when it is all there."""
    missing = []
    proxy = view.proxies.get(keys.SNAPSHOTTER, {})
    if proxy.get("type") != "snapshot" or proxy.get("address") != wanted.address:
        missing.append(f"proxy_plugins.{keys.SNAPSHOTTER} is not at {wanted.address}")
    # 1.7 dumps nothing of a plugin that is turned off.
    for twin, (copied, table) in () if view.cri_disabled else twins.items():
        if view.runtimes.get(twin, {}).get("snapshotter") != table["snapshotter"]:
            missing.append(f"the runtime handler {twin} (twin of {copied}) is not there")
        elif view.runtimes[twin].get("runtime_type") != table.get("runtime_type"):
            missing.append(f"the runtime handler {twin} is not like {copied}")
        platform = view.platforms.get(twin, {})
        if release.merges and platform.get("snapshotter") != table["snapshotter"]:
            missing.append(f"runtime_platforms.{twin} is not there")
    if wanted.native:
        missing += native_cache.faults(view.plugins, wanted.native)
    if wanted.default_snapshotter and view.snapshotter != keys.SNAPSHOTTER:
        missing.append(f"the default snapshotter is still {view.snapshotter}")
    return missing


def _losses(
    before: settings_view.View, after: settings_view.View, *, names_images: bool
) -> list[str]:
    """What a result has lost: other tools' handlers, or the names of images."""
    lost = [
        f"the runtime handler {name} would be lost"
        for name in sorted({*before.runtimes} - {*after.runtimes})
        if not runtimes.is_twin(name)
    ]
    # 1.7 dumps nothing of a plugin that is turned off.
    if names_images and after.annotations_disabled and not after.cri_disabled:
        lost.append("disable_snapshot_annotations is still true")
    return lost


def _is_template(path: settings_view.Path) -> bool:
    return path.suffix == ".tmpl"


def _fresh(release: settings_view.Release) -> str:
    return f"version = {release.newest_version}\n"


def _twins(
    view: settings_view.View, snapshotter: str
) -> tuple[dict[str, tuple[str, Mapping[str, Any]]], list[str]]:
    """Our handlers, each with the one that it copies and its settings.

    The default handler has two: pods reach it by naming no class, or by a class
    that names it.
    """
    twins: dict[str, tuple[str, Mapping[str, Any]]] = {}
    notes = []
    for name, table in sorted(view.runtimes.items()):
        if runtimes.is_twin(name):
            continue
        own = table.get("snapshotter")
        if own and own != view.snapshotter:
            notes.append(
                f"no twin for the runtime handler {name}: it has a snapshotter of its own ({own})"
            )
            continue
        settings = {**table, "snapshotter": snapshotter}
        twins[runtimes.twin_of(name)] = (name, settings)
        if name == view.default_runtime:
            twins[runtimes.DEFAULT_TWIN] = (name, settings)
    if view.default_runtime not in view.runtimes:
        notes.append(
            f"no twin for the default runtime handler: {view.default_runtime} is not configured"
        )
    return dict(sorted(twins.items())), notes


def _warnings(main: settings_view.File, node: inputs.Node, view: settings_view.View) -> list[str]:
    warnings = []
    if view.cri_disabled:
        warnings.append(
            "disabled_plugins turns the CRI plugin off (Docker's package does): the kubelet cannot"
            " use this containerd until `cri` is taken out of that list"
        )
    if view.discards_layers:
        warnings.append(
            "discard_unpacked_layers is true: an image that was pulled for one snapshotter and is"
            " not in the store must be pulled again before a pod with the other one can use it;"
            " set it to false unless the disk is scarce"
        )
    if node.release.merges and not node.release.migrates_each and view.version == 1:
        warnings.append(
            "the configuration is in version 1, whose CRI settings containerd 2.0 to 2.2 ignore;"
            " convert it with `containerd config migrate`"
        )
    hidden = view.discards_layers or view.snapshotter != "overlayfs"
    if node.release.merges and view.version == 2 and not view.has_runtimes_table and hidden:
        warnings.append(
            "without a `runtimes` table containerd 2.x has ignored some CRI settings of this"
            " file; with node-setup's handlers they take effect: snapshotter ="
            f" {view.snapshotter}, discard_unpacked_layers = {str(view.discards_layers).lower()}"
        )
    if node.release.merges and not node.release.migrates_each:
        warnings += _mixed_versions(main, node.imported, view.version)
    return warnings


def _mixed_versions(
    main: settings_view.File, imported: Sequence[settings_view.File], version: int
) -> list[str]:
    """Warnings about files in other versions than the main file, for containerd 2.0 to 2.2."""
    warnings = []
    for file in imported:
        other = settings_view.version_of(settings_view.parse(file), default=version)
        if other != version:
            warnings.append(
                f"{file.path} is in version {other}, {main.path} in {version}: containerd"
                " 2.0 to 2.2 lose the CRI settings of one of them"
            )
    if higher := start_faults.higher_version([main, *imported]):
        warnings.append(f"containerd 2.3 does not start with this configuration: {higher}")
    return warnings
