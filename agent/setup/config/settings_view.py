"""containerd's configuration as containerd itself would understand it; pure.

The rules were tried out on containerd 1.7.24, 2.1.9, 2.3.4 and 2.4.0-beta.0
(tests/unit/setup runs them again wherever real binaries are at hand):

- 1.x: an imported file *replaces* the whole table of each plugin that it names;
  a `runtimes` table replaces the built-in one, so the built-in `runc` is gone.
- 2.x: imported files are merged key by key; the built-in `runc` stays.
- 2.x: the image settings of a file in version 2 are migrated only if its CRI
  table has `runtimes`.
- 2.0 to 2.2 merge first and migrate the result: CRI settings in another version
  than the main file's are lost, and those of version 1 are not migrated at all.
- 2.3 and newer migrate each file by itself and merge the results. 2.3 and
  2.4.0-beta.0 do not start where an imported file has a higher version than the
  main file (or, where that has none, than the first file that has one).
- A file without a version is in version 1; with 1.x an imported one is in the
  main file's.
"""

import copy
import dataclasses
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from agent import errors

Path = pathlib.PurePosixPath
KeyPath = tuple[str, ...]

DEFAULT_RUNTIME = "runc"
BUILT_IN_RUNC: Mapping[str, Any] = {"runtime_type": "io.containerd.runc.v2"}

_IMAGES = "io.containerd.cri.v1.images"
_RUNTIME = "io.containerd.cri.v1.runtime"
_CRI_V2 = "io.containerd.grpc.v1.cri"
_CRI_NAMES = ("cri", _CRI_V2, _RUNTIME)
_MIGRATED_IMAGES = ("snapshotter", "disable_snapshot_annotations", "discard_unpacked_layers")


class ConfigError(errors.PermanentError):
    """A configuration that cannot be set up as it is.

    `path` is the file, `reason` what is wrong and what to do.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """A containerd release, as far as its configuration depends on it."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def merges(self) -> bool:
        """Whether imported files are merged key by key, not plugin by plugin."""
        return self.major >= 2

    @property
    def migrates_each(self) -> bool:
        """Whether each file is migrated by itself, and the results are merged."""
        return (self.major, self.minor) >= (2, 3)

    @property
    def refuses_higher_versions(self) -> bool:
        """Whether it may not start where a drop-in is in a higher version than the main file.

        2.3 and the beta of 2.4 do not; what newer ones do is left to their `config dump`.
        """
        return (self.major, self.minor) == (2, 3)

    @property
    def newest_version(self) -> int:
        """The newest version of the configuration that this release reads."""
        if not self.merges:
            return 2
        return 4 if self.migrates_each else 3


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """One configuration file: where it is and what it says."""

    path: Path
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """Where the CRI settings are in one version of the configuration."""

    images: KeyPath
    containerd: KeyPath

    @property
    def runtimes(self) -> KeyPath:
        """The table of the runtime handlers."""
        return (*self.containerd, "runtimes")


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """What a configuration means for node set-up."""

    version: int
    """The main file's."""
    root: str
    """containerd's own persistent folder."""
    runtimes: Mapping[str, Mapping[str, Any]]
    """The runtime handlers in force, the built-in one included."""
    default_runtime: str
    has_runtimes_table: bool
    cri_owner: Path
    """The file whose CRI table is in force: with 1.x the last one that has any."""
    snapshotter: str
    annotations_disabled: bool
    local_pull: bool
    """Whether the CRI of 2.1 and newer pulls by itself and not by the transfer service."""
    discards_layers: bool
    cri_disabled: bool
    proxies: Mapping[str, Any]
    platforms: Mapping[str, Any]
    """`runtime_platforms` of 2.x."""
    plugins: Mapping[str, Any]
    """The settings of all plugins."""


def keys_of(version: int) -> Keys:
    """Where things are in a configuration of that version."""
    if version >= 3:
        return Keys(("plugins", _IMAGES), ("plugins", _RUNTIME, "containerd"))
    cri = _CRI_V2 if version == 2 else "cri"
    return Keys(("plugins", cri, "containerd"), ("plugins", cri, "containerd"))


def parse(file: File) -> dict[str, Any]:
    """The data of a file; raise ConfigError when it is not TOML."""
    try:
        return tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(file.path, f"not valid TOML: {error}") from error


def version_of(data: Mapping[str, Any], *, default: int = 1) -> int:
    """The version that a file says it is in; a main file that says none is in version 1."""
    return stated_version(data) or default


def stated_version(data: Mapping[str, Any]) -> int | None:
    """The version that stands in a file; None where it states none."""
    version = data.get("version")
    return version if isinstance(version, int) and version > 0 else None


def imports_of(file: File) -> list[str]:
    """The import patterns of a file, as absolute paths."""
    entries = parse(file).get("imports", [])
    return [str(file.path.parent / entry) for entry in entries if isinstance(entry, str)]


def value_at(data: Mapping[str, Any], keys: KeyPath) -> Any:
    """What is at a path of keys; None when there is nothing."""
    value: Any = data
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def table_at(data: Mapping[str, Any], keys: KeyPath) -> Mapping[str, Any]:
    """The table at a path of keys; an empty one when there is none."""
    table = value_at(data, keys)
    return table if isinstance(table, Mapping) else {}


def view(main: File, imported: Sequence[File], release: Release) -> View:
    """What a main file and the files that it imports, in their order, mean together."""
    parsed = [(file, parse(file)) for file in (main, *imported)]
    version = version_of(parsed[0][1])
    # 2.0 to 2.2 do not migrate the CRI settings of version 1: what counts are their own keys.
    newest = release.migrates_each or (release.merges and version == 1)
    keys = keys_of(3 if newest else version)
    together: dict[str, Any] = {}
    owner = main.path
    for file, data in parsed:
        if value_at(data, keys.containerd[:2]) is not None:
            owner = file.path
        _merge_file(together, _migrated(data) if release.migrates_each else data, release)
    containerd = table_at(together, keys.containerd)
    images = table_at(together, keys.images)
    runtimes, default = _runtimes(containerd, release)
    return View(
        version=version,
        root=str(together.get("root") or "/var/lib/containerd"),
        runtimes=runtimes,
        default_runtime=default,
        has_runtimes_table="runtimes" in containerd,
        cri_owner=owner,
        snapshotter=str(images.get("snapshotter") or "overlayfs"),
        annotations_disabled=bool(images.get("disable_snapshot_annotations", True)),
        local_pull=bool(images.get("use_local_image_pull", False)),
        discards_layers=bool(images.get("discard_unpacked_layers", False)),
        cri_disabled=any(name in together.get("disabled_plugins", ()) for name in _CRI_NAMES),
        proxies=table_at(together, ("proxy_plugins",)),
        platforms=table_at(together, ("plugins", _IMAGES, "runtime_platforms")),
        plugins=table_at(together, ("plugins",)),
    )


def pulls_itself(view: View, release: Release) -> bool:
    """Whether the CRI pulls by itself, also where a snapshotter gets no annotations.

    The transfer service, which does it otherwise since 2.1, cannot pull for a proxy
    snapshotter; the CRI turns it off where a snapshotter is to get annotations.
    """
    return view.local_pull or (release.major, release.minor) <= (2, 0)


def platforms_key() -> KeyPath:
    """Where 2.x has the snapshotter of each runtime handler for pulls; never migrated."""
    return ("plugins", _IMAGES, "runtime_platforms")


def _runtimes(
    containerd: Mapping[str, Any], release: Release
) -> tuple[dict[str, Mapping[str, Any]], str]:
    handlers = {
        name: table
        for name, table in table_at(containerd, ("runtimes",)).items()
        if isinstance(table, Mapping)
    }
    if release.merges or "runtimes" not in containerd:
        handlers = {DEFAULT_RUNTIME: {**BUILT_IN_RUNC}} | handlers
    default = str(containerd.get("default_runtime_name") or DEFAULT_RUNTIME)
    # Deprecated since 1.3, still honoured by 1.7 and still on old nodes.
    legacy = table_at(containerd, ("default_runtime",))
    if not release.merges and legacy.get("runtime_type"):
        handlers["default"] = legacy
        default = "default"
    return handlers, default


def _migrated(data: Mapping[str, Any]) -> dict[str, Any]:
    """A file with its CRI settings where version 3 and 4 have them.

    Source: containerd 2.3, configMigration of plugins/cri/images and plugins/cri/runtime.
    """
    copied = copy.deepcopy(dict(data))
    plugins = copied.get("plugins")
    if version_of(data) >= 3 or not isinstance(plugins, dict):
        return copied
    cri = plugins.pop(_CRI_V2, None)
    if version_of(data) == 1:
        cri = plugins.pop("cri", cri)
    old = cri.get("containerd") if isinstance(cri, dict) else None
    if not isinstance(old, dict):
        return copied
    runtime = plugins.setdefault(_RUNTIME, {}).setdefault("containerd", {})
    for key, value in old.items():
        if key not in _MIGRATED_IMAGES:
            runtime.setdefault(key, value)
    if "runtimes" in old:
        kept = {key: old[key] for key in _MIGRATED_IMAGES if key in old}
        plugins.setdefault(_IMAGES, {}).update(kept)
    return copied


def _merge_file(together: dict[str, Any], data: Mapping[str, Any], release: Release) -> None:
    for key, value in data.items():
        if release.merges or key not in ("plugins", "proxy_plugins"):
            merge(together, {key: value})
        else:
            together.setdefault(key, {}).update(copy.deepcopy(value))


def merge(into: dict[str, Any], data: Mapping[str, Any]) -> None:
    """Merge tables key by key; lists of plugin names add up, as containerd does it."""
    for key, value in data.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            merge(old, value)
        elif key in ("disabled_plugins", "required_plugins", "imports") and isinstance(old, list):
            into[key] = [*old, *value]
        else:
            into[key] = copy.deepcopy(value)
