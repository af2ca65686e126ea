"""One value with conditions, made of a value and what each feature makes of it. Pure.

A feature is a component, or the other overlay. What no feature changes is a Constant; what some
change is a Choice; maps and lists are merged part by part, so that features which change
different parts of an object go together.
"""

import dataclasses
import difflib
import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Missing(enum.Enum):
    """That there is no value."""

    MISSING = enum.auto()


MISSING = Missing.MISSING


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """A value that is the same whatever is on."""

    value: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The first option of which a feature is on, else `otherwise`."""

    options: tuple[tuple[frozenset[str], "Node"], ...]
    otherwise: "Node"


@dataclasses.dataclass(frozen=True, slots=True)
class Map:
    """A map of which parts differ; an entry that may be missing is a Choice."""

    entries: Mapping[str, "Node"]


@dataclasses.dataclass(frozen=True, slots=True)
class List:
    """A list of which parts differ; an item that may be missing is a Choice."""

    items: tuple["Node", ...]


Node = Constant | Choice | Map | List | Missing


def merge(plain: Any, changed: Mapping[str, Any]) -> Node:
    """Return a value with conditions; `changed` has what it is with each feature."""
    different = {name: value for name, value in changed.items() if value != plain}
    if not different:
        return MISSING if plain is MISSING else Constant(plain)
    if plain is not MISSING:
        return _absent_with(plain, different)
    values = list(different.values())
    if all(value == values[0] for value in values):
        return Choice(((frozenset(different), Constant(values[0])),), MISSING)
    if _are(dict, values) or _are(list, values):
        empty: Any = {} if isinstance(values[0], dict) else []
        return Choice(((frozenset(different), merge(empty, different)),), MISSING)
    return _alternatives(plain, different)


def _absent_with(plain: Any, different: Mapping[str, Any]) -> Node:
    """A value that is there without any feature, and perhaps not with some."""
    absent = frozenset(name for name, value in different.items() if value is MISSING)
    present = {name: value for name, value in different.items() if value is not MISSING}
    inner: Node
    if not present:
        inner = Constant(plain)
    elif _are(dict, [plain, *present.values()]):
        inner = _maps(plain, present)
    elif _are(list, [plain, *present.values()]):
        inner = List(tuple(_lists(plain, present)))
    else:
        inner = _alternatives(plain, present)
    return Choice(((absent, MISSING),), inner) if absent else inner


def _alternatives(plain: Any, different: Mapping[str, Any]) -> Node:
    options: dict[str, tuple[set[str], Any]] = {}
    for name, value in different.items():
        options.setdefault(_written(value), (set(), value))[0].add(name)
    return Choice(
        tuple((frozenset(names), Constant(value)) for names, value in options.values()),
        MISSING if plain is MISSING else Constant(plain),
    )


def _maps(plain: Mapping[str, Any], changed: Mapping[str, Mapping[str, Any]]) -> Map:
    keys = dict.fromkeys([*plain, *(key for value in changed.values() for key in value)])
    return Map(
        {
            key: merge(
                plain.get(key, MISSING),
                {name: value.get(key, MISSING) for name, value in changed.items()},
            )
            for key in keys
        }
    )


def _lists(plain: Sequence[Any], changed: Mapping[str, Sequence[Any]]) -> Iterator[Node]:
    """The items in order: in each gap of the plain list what features have put there."""
    aligned = {name: _align(plain, value) for name, value in changed.items()}
    for index in range(len(plain) + 1):
        yield from _added({name: gaps[index] for name, (gaps, _) in aligned.items()})
        if index < len(plain):
            yield merge(plain[index], {name: kept[index] for name, (_, kept) in aligned.items()})


def _added(gaps: Mapping[str, Sequence[Any]]) -> Iterator[Node]:
    """The items that features put into one gap; the same one of several is there once."""
    items: dict[str, tuple[set[str], Any]] = {}
    for name, values in gaps.items():
        for value in values:
            items.setdefault(_written(value), (set(), value))[0].add(name)
    for names, value in items.values():
        yield Choice(((frozenset(names), Constant(value)),), MISSING)


def _align(plain: Sequence[Any], value: Sequence[Any]) -> tuple[list[list[Any]], list[Any]]:
    """Return what stands in each gap of the plain list, and what became of each of its items."""
    gaps: list[list[Any]] = [[] for _ in range(len(plain) + 1)]
    kept: list[Any] = [MISSING] * len(plain)
    before, after = ([_identity(each) for each in items] for items in (plain, value))
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, start, end, first, last in matcher.get_opcodes():
        if tag == "equal":
            kept[start:end] = value[first:last]
        else:
            gaps[start] += value[first:last]
    return gaps, kept


def _identity(item: Any) -> str:
    """By what an item of a list is known, as in a strategic merge."""
    if isinstance(item, dict):
        for key in ("mountPath", "name"):
            if key in item:
                return str(item[key])
    return _written(item)


def _written(value: Any) -> str:
    return value.name if isinstance(value, Missing) else json.dumps(value, sort_keys=True)


def _are(kind: type, values: Sequence[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)
