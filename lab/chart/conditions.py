"""What is in a node of `variants`, and the condition under which it is there, in Helm's words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lab.chart import variants

Path = tuple[str, ...]


class UnknownShapeError(Exception):
    """The manifests have something that the chart cannot carry; the message says where."""


def bodies(node: variants.Node, path: Path) -> Iterator[variants.Node]:
    """What may stand at a path, whatever is on."""
    if isinstance(node, variants.Choice):
        for _, each in node.options:
            yield from bodies(each, path)
        yield from bodies(node.otherwise, path)
    elif isinstance(node, variants.Missing):
        return
    elif not path:
        yield node
    else:
        yield from bodies(opened(node).entries.get(path[0], variants.MISSING), path[1:])


def opened(node: variants.Node) -> variants.Map:
    """A map's entries, each as a node."""
    if isinstance(node, variants.Map):
        return node
    if isinstance(node, variants.Missing):
        return variants.Map({})
    if isinstance(node, variants.Constant) and isinstance(node.value, dict):
        return variants.Map({key: variants.Constant(each) for key, each in node.value.items()})
    raise UnknownShapeError(f"no map: {node}")


def listed(node: variants.Node) -> variants.List:
    """A list's items, each as a node; those of a list that may be missing with its condition."""
    if isinstance(node, variants.List):
        return node
    if isinstance(node, variants.Missing):
        return variants.List(())
    if isinstance(node, variants.Constant) and isinstance(node.value, list):
        return variants.List(tuple(variants.Constant(each) for each in node.value))
    if isinstance(node, variants.Choice):
        return variants.List(
            tuple(
                variants.Choice(((names, item),), variants.MISSING)
                for names, option in node.options
                for item in listed(option).items
            )
        )
    raise UnknownShapeError(f"no list: {node}")


def parts(node: variants.Node) -> Sequence[variants.Node]:
    if isinstance(node, variants.Constant):
        return [node]
    if isinstance(node, variants.Map):
        return list(node.entries.values())
    return listed(node).items


def split(node: variants.Node) -> tuple[dict[str, Any], dict[str, variants.Node]]:
    """The constant entries of a map, and the others with their conditions."""
    entries = dict(_conditional(node))
    constant = {
        key: each.value for key, each in entries.items() if isinstance(each, variants.Constant)
    }
    return constant, {key: each for key, each in entries.items() if key not in constant}


def _conditional(node: variants.Node) -> Iterator[tuple[str, variants.Node]]:
    if isinstance(node, variants.Choice):
        for names, option in node.options:
            for key, each in opened(option).entries.items():
                yield key, variants.Choice(((names, each),), variants.MISSING)
    else:
        yield from opened(node).entries.items()


def known_as(entries: Mapping[str, variants.Node]) -> str:
    name = entries.get("name")
    return str(name.value) if isinstance(name, variants.Constant) else ""


def presence(node: variants.Node) -> str:
    """The condition under which a node has a value; "" for always."""
    if isinstance(node, variants.Missing):
        return "false"
    if not isinstance(node, variants.Choice):
        return ""
    there = [names for names, each in node.options if not isinstance(each, variants.Missing)]
    if isinstance(node.otherwise, variants.Missing):
        return any_of([on(names) for names in there])
    absent = [names for names, each in node.options if isinstance(each, variants.Missing)]
    return f"not {grouped(any_of([on(names) for names in absent]))}" if absent else ""


def any_of(conditions: Sequence[str]) -> str:
    conditions = [each for each in dict.fromkeys(conditions) if each != "false"]
    if len(conditions) == 1:
        return conditions[0]
    return "or " + " ".join(grouped(each) for each in conditions)


def grouped(condition: str) -> str:
    return f"({condition})" if " " in condition and not condition.startswith("(") else condition


def on(names: frozenset[str]) -> str:
    return any_of([_feature(name) for name in sorted(names)])


def _feature(name: str) -> str:
    return f"$on.{name}" if name.isidentifier() else f'(index $on "{name}")'
