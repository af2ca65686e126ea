"""Node set-up's part of a configuration file, taken out of it again; pure."""

from collections.abc import Mapping
from typing import Any

from agent.matching import runtimes
from agent.model import keys
from agent.setup.config import inputs, settings_view, toml_edit


def remains(
    text: str, *, path: settings_view.Path, drop_in: settings_view.Path | None = None
) -> str:
    """A text without node-setup's part: how an edited file is undone.

    Single values that were set are not touched here; see `restored`.
    """
    text = toml_edit.cut(text)
    data = settings_view.parse(settings_view.File(path, text))
    own: list[settings_view.KeyPath] = [("proxy_plugins", keys.SNAPSHOTTER)]
    for version in (1, 2, 3):
        table = settings_view.keys_of(version).runtimes
        own += _own_handlers(data, table)
    own += _own_handlers(data, settings_view.platforms_key())
    for key_path in own:
        text = toml_edit.remove(text, key_path, path=path)
    imports = data.get("imports")
    if drop_in is not None and isinstance(imports, list) and str(drop_in) in imports:
        left = [entry for entry in imports if entry != str(drop_in)]
        text = toml_edit.assign(text, ("imports",), left, path=path)
    return text


def restored(text: str, before: str, *, path: settings_view.Path) -> str:
    """Single values that node set-up sets, as they were in the text `before`."""
    now = settings_view.parse(settings_view.File(path, text))
    old = settings_view.parse(settings_view.File(path, before))
    own: list[tuple[settings_view.KeyPath, object]] = [(("imports",), [])]
    for version in (1, 2, 3):
        images = settings_view.keys_of(version).images
        own.append(((*images, "disable_snapshot_annotations"), False))
        own.append(((*images, "snapshotter"), keys.SNAPSHOTTER))
    for key_path, value in own:
        if settings_view.value_at(now, key_path) != value:
            continue
        former = settings_view.value_at(old, key_path)
        if former is None:
            text = toml_edit.remove(text, key_path, path=path)
        else:
            text = toml_edit.assign(text, key_path, former, path=path)
    return text


def _own_handlers(
    data: Mapping[str, Any], table: settings_view.KeyPath
) -> list[settings_view.KeyPath]:
    return [
        (*table, name)
        for name, value in settings_view.table_at(data, table).items()
        if name == inputs.WITHOUT
        or (
            runtimes.is_twin(name)
            and isinstance(value, Mapping)
            and value.get("snapshotter") == keys.SNAPSHOTTER
        )
    ]
