"""The user's patch of a builder's Job: a strategic merge, and the fields it cannot change. Pure.

As `kubectl patch` and kustomize do it: mappings are merged, null removes a field, and lists
whose items have a key in Kubernetes are merged by that key (`$patch: delete` in an item
removes it). Any other list replaces the whole list. Source: the `patchMergeKey` and
`patchStrategy` of k8s.io/api/core/v1.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent import errors

Path = tuple[str, ...]
"""Names of fields; of an item of a list, the value of its key."""

POD: Path = ("spec", "template", "spec")
_DIRECTIVE = "$patch"


class PatchRefused(errors.PermanentError):
    """A patch cannot be used. `field` is where, `reason` why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def check(patch: object, *, fixed: Sequence[Path]) -> None:
    """Raise PatchRefused where a patch is invalid, or changes a field of `fixed`."""
    for path, whole in _changes(patch, ()):
        for each in fixed:
            if path[: len(each)] == each or (whole and each[: len(path)] == path):
                raise PatchRefused(_shown(path), "this is set by uimgacc and cannot be patched")


def merged(old: Any, patch: Any, path: Path = ()) -> Any:
    """A copy of a value with a patch, which was checked before, applied."""
    if key := _key_of(path):
        return _merged_items(old or (), patch, path, key=key)
    if not isinstance(patch, Mapping):
        return patch
    result = dict(old) if isinstance(old, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value, (*path, name))
    return result


def _merged_items(
    old: Sequence[Mapping[str, Any]], patch: Sequence[Mapping[str, Any]], path: Path, *, key: str
) -> list[Mapping[str, Any]]:
    result = {item.get(key, ""): item for item in old}
    for item in patch:
        name = item[key]
        if item.get(_DIRECTIVE) == "delete":
            result.pop(name, None)
            continue
        before = result.get(name, {})
        if path[-1] == "volumes" and item.keys() > {key}:
            # A volume is of one kind: a new one replaces the one before (retainKeys).
            before = {field: value for field, value in before.items() if field in item}
        result[name] = merged(before, item, (*path, name))
    return list(result.values())


def _changes(patch: object, path: Path) -> Iterator[tuple[Path, bool]]:
    """The fields that a patch changes, and whether everything below a field is removed."""
    if (key := _key_of(path)) and patch is not None:
        yield from _changed_items(patch, path, key=key)
    elif isinstance(patch, Mapping):
        if not patch:
            yield path, False
        for name, value in patch.items():
            if str(name).startswith("$"):
                raise PatchRefused(
                    _shown((*path, str(name))), "only an item can have $patch: delete"
                )
            yield from _changes(value, (*path, str(name)))
    else:
        yield path, True


def _changed_items(patch: object, path: Path, *, key: str) -> Iterator[tuple[Path, bool]]:
    if not isinstance(patch, list):
        raise PatchRefused(_shown(path), "expected a list")
    for at, item in enumerate(patch):
        if not isinstance(item, Mapping) or not isinstance(item.get(key), str):
            raise PatchRefused(f"{_shown(path)}[{at}]", f"expected a mapping with {key}")
        below = (*path, item[key])
        rest = {name: value for name, value in item.items() if name != key}
        if rest == {_DIRECTIVE: "delete"}:
            yield below, True
        elif rest:
            yield from _changes(rest, below)


def _key_of(path: Path) -> str:
    """The field that identifies the items of a list; "" for any other value."""
    if path[: len(POD)] != POD:
        return ""
    match path[len(POD) :]:
        case ("containers" | "initContainers" | "volumes" | "imagePullSecrets",) | (
            "containers" | "initContainers",
            _,
            "env",
        ):
            return "name"
        case ("containers" | "initContainers", _, "volumeMounts"):
            return "mountPath"
        case _:
            return ""


def _shown(path: Path) -> str:
    """`spec.template.spec.containers[build].args`."""
    shown = ""
    for at, name in enumerate(path):
        if _key_of(path[:at]):
            shown += f"[{name}]"
        else:
            shown += f".{name}" if shown else name
    return shown or "the patch"
