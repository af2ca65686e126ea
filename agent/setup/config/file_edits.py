"""The texts of containerd's configuration files with node set-up's part in them; pure.

Three ways: a drop-in file (containerd 2.x), the file that has the CRI table (1.x), or the
template from which k3s and RKE2 make the main file.
"""

from typing import Any

from agent.model import keys
from agent.setup.config import inputs, native_cache, settings_view, toml_edit

TEMPLATE_HEAD = '{{ template "base" . }}\n'


def _proxy(
    view: settings_view.View, wanted: inputs.Wanted
) -> list[tuple[settings_view.KeyPath, dict[str, Any]]]:
    root = wanted.root or f"{view.root}/{keys.SNAPSHOTTER_PLUGINS}.{keys.SNAPSHOTTER}"
    settings = {"type": "snapshot", "address": wanted.address, "exports": {"root": root}}
    if wanted.maps_ids:
        # Older than 1.7.16 ignores it.
        settings["capabilities"] = [keys.REMAP_IDS]
    return [(("proxy_plugins", keys.SNAPSHOTTER), settings)]


def with_drop_in(
    main: settings_view.File,
    node: inputs.Node,
    view: settings_view.View,
    wanted: inputs.Wanted,
    twins: inputs.Twins,
    style: inputs.Style,
) -> tuple[dict[settings_view.Path, str], list[str]]:
    places = settings_view.keys_of(style.names)
    # The proxy also beside containerd's own snapshotter: containers may still be on it.
    tables = _proxy(view, wanted)
    if wanted.native:
        tables += native_cache.tables(view.plugins, wanted.native, wanted.platform)
    else:
        images: dict[str, Any] = {"disable_snapshot_annotations": False}
        if wanted.default_snapshotter:
            images["snapshotter"] = keys.SNAPSHOTTER
        tables.append((places.images, images))
    tables += _platforms(twins)
    tables += [((*places.runtimes, twin), dict(table)) for twin, (_, table) in twins.items()]
    text = (
        "# Made by `uimgacc node-setup`; `uimgacc node-setup --undo` removes it.\n"
        + (f"version = {style.version}\n\n" if style.version else "\n")
        + toml_edit.render(tables)
    )
    folder = _drop_in_folder(main)
    if folder is not None:
        return {folder / inputs.DROP_IN: text}, []
    if node.rendered:
        return with_template(node, view, wanted, twins)
    drop_in = main.path.parent / "conf.d" / inputs.DROP_IN
    imports = [*settings_view.parse(main).get("imports", []), str(drop_in)]
    edited = toml_edit.assign(main.text, ("imports",), imports, path=main.path)
    return {drop_in: text, main.path: edited}, []


def _platforms(twins: inputs.Twins) -> list[tuple[settings_view.KeyPath, dict[str, Any]]]:
    """What 2.x needs besides the handlers: which snapshotter a pull for each is made with."""
    return [
        ((*settings_view.platforms_key(), twin), {"snapshotter": table["snapshotter"]})
        for twin, (_, table) in twins.items()
    ]


def _drop_in_folder(main: settings_view.File) -> settings_view.Path | None:
    """A folder of which the main file imports every .toml file."""
    for pattern in settings_view.imports_of(main):
        path = settings_view.Path(pattern)
        if path.name == "*.toml" and not any(sign in str(path.parent) for sign in "*?["):
            return path.parent
    return None


def _additions(
    view: settings_view.View, wanted: inputs.Wanted, twins: inputs.Twins
) -> list[tuple[settings_view.KeyPath, dict[str, Any]]]:
    places = settings_view.keys_of(view.version)
    tables = _proxy(view, wanted)
    if not view.has_runtimes_table:
        # A `runtimes` table replaces the built-in one.
        tables += [((*places.runtimes, name), dict(table)) for name, table in view.runtimes.items()]
    tables += [((*places.runtimes, twin), dict(table)) for twin, (_, table) in twins.items()]
    return tables


def in_place(
    main: settings_view.File,
    node: inputs.Node,
    view: settings_view.View,
    wanted: inputs.Wanted,
    twins: inputs.Twins,
) -> tuple[dict[settings_view.Path, str], list[str]]:
    files = {file.path: file for file in (main, *node.imported)}
    owner = files[view.cri_owner]
    places = settings_view.keys_of(view.version)
    values: dict[str, Any] = {"disable_snapshot_annotations": False}
    if wanted.default_snapshotter:
        values["snapshotter"] = keys.SNAPSHOTTER
    tables = _additions(view, wanted, twins)
    try:
        text = toml_edit.append(owner.text, [*tables, (places.images, values)], path=owner.path)
    except settings_view.ConfigError:
        # The table is there already, so the values are set within it.
        text = owner.text
        for key, value in values.items():
            text = toml_edit.assign(text, (*places.images, key), value, path=owner.path)
        text = toml_edit.append(text, tables, path=owner.path)
    notes = []
    if owner.path != main.path:
        notes.append(
            f"{owner.path} is edited and not {main.path}: with containerd 1.x its CRI table"
            " replaces the main file's. Run node-setup again when another tool has rewritten it"
        )
    return {owner.path: text}, notes


def with_template(
    node: inputs.Node, view: settings_view.View, wanted: inputs.Wanted, twins: inputs.Twins
) -> tuple[dict[settings_view.Path, str], list[str]]:
    name = "config-v3.toml.tmpl" if view.version >= 3 else "config.toml.tmpl"
    path = node.main.parent / name
    if wanted.default_snapshotter:
        raise settings_view.ConfigError(
            path, "k3s and RKE2 set the default snapshotter themselves; start them with it"
        )
    if view.annotations_disabled and not settings_view.pulls_itself(view, node.release):
        # The template says so in a table that it ends, and nothing after it can say otherwise.
        raise settings_view.ConfigError(
            node.main,
            "this k3s or RKE2 disables snapshot annotations and imports no drop-in folder;"
            " upgrade it (releases since March 2026 import config-v3.toml.d)",
        )
    text = node.templates.get(path, TEMPLATE_HEAD)
    gap = "" if text.endswith("\n") else "\n"
    tables = _additions(view, wanted, twins)
    if node.release.merges:
        tables += _platforms(twins)
    note = f"{node.main} is made from {path} at the next start of k3s or RKE2"
    return {path: f"{text}{gap}\n{toml_edit.block(tables)}"}, [note]
