"""An object with conditions, written as a template of Helm's.

A value of the user's stands where the rendering has a token of `renderings`, and at the places of a
workload that `places_of` names: there what the manifests have becomes the default in values.yaml.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lab.chart import renderings, variants

Lines = Iterator[str]
Path = tuple[str, ...]
Writer = Callable[[str, variants.Node, int], Lines]

HEADER = "{{- /* Made by `python -m lab.chart` from manifests/: change it there. */}}"
FEATURES = '{{- $on := include "uimgacc.components" $ | fromJson }}'
TOKENS = {
    renderings.EXPORT: '{{ include "uimgacc.export" $ }}',
    renderings.IMAGE: '{{ include "uimgacc.image" $ }}',
    renderings.SERVER: '{{ include "uimgacc.server" $ }}',
    renderings.PATH: "{{ $.Values.store.nfs.path }}",
}
SETTINGS = ("ConfigMap", "uimgacc")
BUILDER = ("ConfigMap", "uimgacc-builder")
DEFINITION = "CustomResourceDefinition"
FIXED = frozenset({"UIMGACC_NFS", "UIMGACC_ROOT", "UIMGACC_CONTAINERD", "UIMGACC_ADDRESS"})
"""Settings that belong to paths of the manifests, or follow from other values."""

_END = "{{- end }}"
_OPENING = ("{{- if ", "{{- with ", "{{- range ")
_GUARDS = {DEFINITION: "$.Values.crds.install", "Namespace": "$.Values.namespace.create"}
_WORKLOADS = ("DaemonSet", "Deployment")
_POD: Path = ("spec", "template", "spec")
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_WIDTH = 80


class UnknownShapeError(Exception):
    """The manifests have something that the chart cannot carry; the message says where."""


class Template:
    """One object as a template; `defaults` has afterwards what values.yaml is to have of it."""

    def __init__(self, name: renderings.Name, node: variants.Node) -> None:
        self._name = name
        self._node = node
        self._writers = self._places()
        self.defaults: dict[Path, Any] = {}

    def text(self) -> str:
        """Return the template."""
        lines = _joined(self._top(self._node))
        body = "\n".join(lines)
        for token in (renderings.SERVER, renderings.PATH, renderings.IMAGE_NAME):
            if token in body:
                raise UnknownShapeError(f"{self._name}: a value of the user's is left as {token}")
        return "\n".join([HEADER, FEATURES, *lines]) + "\n"

    def _top(self, node: variants.Node) -> Lines:
        if isinstance(node, variants.Choice):
            yield from self._choice(node, self._top)
        elif not isinstance(node, variants.Missing):
            guard = _GUARDS.get(self._name[0], "")
            if guard:
                yield f"{{{{- if {guard} }}}}"
            yield from self._entries(node, 0, ())
            if guard:
                yield _END

    # What is in a node.

    def _entries(self, node: variants.Node, indent: int, path: Path) -> Lines:
        """The lines of a map's entries."""
        entries = dict(_opened(node).entries)
        for place in self._writers:
            if place[:-1] == path:
                entries.setdefault(place[-1], variants.MISSING)
        for key, each in entries.items():
            yield from self._entry(key, each, indent, path)

    def _entry(self, key: str, node: variants.Node, indent: int, path: Path) -> Lines:
        here = (*path, key)
        if here in self._writers:
            yield from self._writers[here](key, node, indent)
            return
        if isinstance(node, variants.Choice):
            yield from self._choice(node, lambda each: self._entry(key, each, indent, path))
            return
        if isinstance(node, variants.Missing):
            return
        space = " " * indent
        value = node.value if isinstance(node, variants.Constant) else node
        if isinstance(value, variants.Map) or (isinstance(value, dict) and value):
            yield from self._collection(
                key, node, indent, self._entries(node, indent + 2, here), empty="{}"
            )
        elif isinstance(value, variants.List) or (isinstance(value, list) and value):
            yield from self._collection(
                key, node, indent, self._items(node, indent, here), empty="[]"
            )
        else:
            first, *rest = _scalar(value, indent + 2)
            yield f"{space}{_key(key)}: {first}"
            yield from rest

    def _collection(
        self, key: str, node: variants.Node, indent: int, lines: Lines, *, empty: str
    ) -> Lines:
        """A map or a list, which may be empty with some features."""
        space = " " * indent
        parts = _parts(node)
        filled = [_present(each) for each in parts]
        if "" in filled:
            yield f"{space}{_key(key)}:"
            yield from lines
            return
        yield f"{{{{- if {_any(filled)} }}}}"
        yield f"{space}{_key(key)}:"
        yield from lines
        yield "{{- else }}"
        yield f"{space}{_key(key)}: {empty}"
        yield _END

    def _items(self, node: variants.Node, indent: int, path: Path) -> Lines:
        for item in _listed(node).items:
            yield from self._item(item, indent, path)

    def _item(self, node: variants.Node, indent: int, path: Path) -> Lines:
        if isinstance(node, variants.Choice):
            yield from self._choice(node, lambda each: self._item(each, indent, path))
            return
        if isinstance(node, variants.Missing):
            return
        space = " " * indent
        value = node.value if isinstance(node, variants.Constant) else node
        if not isinstance(value, dict | variants.Map):
            if isinstance(value, list | variants.List):
                raise UnknownShapeError(f"{self._name}: a list in a list at {'.'.join(path)}")
            first, *rest = _scalar(value, indent + 2)
            yield f"{space}- {first}"
            yield from rest
            return
        entries = _opened(node).entries
        here = (*path, _known_as(entries))
        lines = list(self._entries(node, indent + 2, here))
        if lines[0].startswith(" "):
            yield f"{space}- {lines[0].lstrip()}"
            yield from lines[1:]
        else:
            yield f"{space}-"
            yield from lines

    def _choice(self, choice: variants.Choice, write: Callable[[variants.Node], Lines]) -> Lines:
        options = [(names, list(write(node))) for names, node in choice.options]
        otherwise = list(write(choice.otherwise))
        if len(options) == 1 and not options[0][1]:
            if otherwise:
                yield f"{{{{- if not {_group(_on(options[0][0]))} }}}}"
                yield from otherwise
                yield _END
            return
        word = "if"
        for names, lines in options:
            yield f"{{{{- {word} {_on(names)} }}}}"
            yield from lines
            word = "else if"
        if otherwise:
            yield "{{- else }}"
            yield from otherwise
        yield _END

    # The places of the user's values.

    def _places(self) -> dict[Path, Writer]:
        if self._name == SETTINGS:
            return {("data",): self._settings}
        if self._name == BUILDER:
            return {("data", "job.yaml"): self._builder}
        if self._name[0] == DEFINITION:
            return {("metadata", "annotations"): self._kept}
        if self._name[0] not in _WORKLOADS:
            return {}
        return self._places_of_workload(self._name[1].removeprefix("uimgacc-"))

    def _places_of_workload(self, role: str) -> dict[Path, Writer]:
        meta = ("spec", "template", "metadata")
        places: dict[Path, Writer] = {
            (*meta, "annotations"): self._annotations(role),
            (*_POD, "nodeSelector"): self._lifted_map((role, "nodeSelector")),
            (*_POD, "tolerations"): self._lifted_list((role, "tolerations")),
            (*_POD, "affinity"): self._replaced((role, "affinity")),
            (*_POD, "imagePullSecrets"): self._secrets,
        }
        if self._name[0] == "Deployment":
            places["spec", "replicas"] = self._number((role, "replicas"))
        for kind, container in self._containers():
            place = (*_POD, kind, container)
            places[(*place, "resources")] = self._replaced((role, "resources", container))
            places[(*place, "env")] = self._environment((role, "env", container))
        return places

    def _containers(self) -> Iterator[tuple[str, str]]:
        """The names of a workload's containers, with the list that each is in."""
        for pod in _bodies(self._node, _POD):
            for kind in ("initContainers", "containers"):
                for item in _listed(_opened(pod).entries.get(kind, variants.MISSING)).items:
                    for body in _bodies(item, ()):
                        yield kind, _known_as(_opened(body).entries)

    def _lifted_map(self, place: Path) -> Writer:
        """A map whose constant entries are defaults; the user's win over those of features."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            constant, others = _split(node)
            self.defaults[place] = constant
            yield from self._lifted(
                key, place, indent, others, self._guarded(others, indent, place)
            )

        return write

    def _guarded(self, others: Mapping[str, variants.Node], indent: int, place: Path) -> Lines:
        for name, each in others.items():
            yield f"{{{{- if not (hasKey {_value(place)} {json.dumps(name)}) }}}}"
            yield from self._entry(name, each, indent + 2, ())
            yield _END

    def _lifted_list(self, place: Path) -> Writer:
        """A list whose constant items are defaults; features add theirs."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            items = _listed(node).items
            constant = [each.value for each in items if isinstance(each, variants.Constant)]
            others = {
                str(number): each
                for number, each in enumerate(items)
                if not isinstance(each, variants.Constant)
            }
            self.defaults[place] = constant
            lines = (line for each in others.values() for line in self._item(each, indent + 2, ()))
            yield from self._lifted(key, place, indent, others, lines)

        return write

    def _lifted(
        self, key: str, place: Path, indent: int, others: Mapping[str, variants.Node], lines: Lines
    ) -> Lines:
        filled = [_value(place), *(_present(each) for each in others.values())]
        always = "" in filled
        if not always:
            yield f"{{{{- if {_any(filled)} }}}}"
        yield f"{' ' * indent}{key}:"
        yield f"{{{{- with {_value(place)} }}}}"
        yield f"{' ' * (indent + 2)}{{{{- toYaml . | nindent {indent + 2} }}}}"
        yield _END
        yield from lines
        if not always:
            yield _END

    def _replaced(self, place: Path) -> Writer:
        """What the user gives stands instead of what features make."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            if isinstance(node, variants.Constant):
                self.defaults[place] = node.value
                node = variants.MISSING
            else:
                self.defaults[place] = {}
            otherwise = list(self._entry(key, node, indent, ()))
            yield f"{{{{- with {_value(place)} }}}}"
            yield f"{' ' * indent}{key}:"
            yield f"{' ' * (indent + 2)}{{{{- toYaml . | nindent {indent + 2} }}}}"
            if otherwise:
                yield "{{- else }}"
                yield from otherwise
            yield _END

        return write

    def _number(self, place: Path) -> Writer:
        def write(key: str, node: variants.Node, indent: int) -> Lines:
            if not isinstance(node, variants.Constant):
                raise UnknownShapeError(f"{self._name}: features change {key}")
            self.defaults[place] = node.value
            yield f"{' ' * indent}{key}: {{{{ {_value(place)} }}}}"

        return write

    def _environment(self, place: Path) -> Writer:
        """The variables of the manifests, then the user's."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            self.defaults[place] = {}
            items = _listed(node).items
            lines = list(self._choice_of_items(node, indent))
            filled = [_value(place), *(_present(each) for each in items)]
            if isinstance(node, variants.Choice):
                filled = [_value(place), _present(node)]
            always = "" in filled
            if not always:
                yield f"{{{{- if {_any(filled)} }}}}"
            yield f"{' ' * indent}{key}:"
            yield from lines
            yield f"{{{{- range $name, $value := {_value(place)} }}}}"
            yield f"{' ' * indent}- name: {{{{ $name }}}}"
            yield f"{' ' * indent}  value: {{{{ {_TEXT} }}}}"
            yield _END
            if not always:
                yield _END

        return write

    def _choice_of_items(self, node: variants.Node, indent: int) -> Lines:
        """The items of a list that may be missing, without its key."""
        if isinstance(node, variants.Choice):
            yield from self._choice(node, lambda each: self._items(each, indent, ()))
        else:
            yield from self._items(node, indent, ())

    def _annotations(self, role: str) -> Writer:
        """The user's annotations, and what makes pods new when a setting changes."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            place = (role, "podAnnotations")
            constant, others = _split(node)
            self.defaults[place] = constant
            space = " " * (indent + 2)
            yield f"{' ' * indent}{key}:"
            for name in (SETTINGS, BUILDER):
                if f"'name': '{name[1]}'" in str(self._node):
                    text = f'include (print $.Template.BasePath "/{file_of(name)}") $'
                    yield f"{space}checksum/{name[1]}: {{{{ {text} | sha256sum }}}}"
            yield f"{{{{- with {_value(place)} }}}}"
            yield f"{space}{{{{- toYaml . | nindent {indent + 2} }}}}"
            yield _END
            yield from self._guarded(others, indent, place)

        return write

    def _secrets(self, key: str, node: variants.Node, indent: int) -> Lines:
        if not isinstance(node, variants.Missing):
            raise UnknownShapeError(f"{self._name}: the manifests have {key}")
        yield "{{- with $.Values.imagePullSecrets }}"
        yield f"{' ' * indent}{key}:"
        yield f"{' ' * (indent + 2)}{{{{- toYaml . | nindent {indent + 2} }}}}"
        yield _END

    def _settings(self, key: str, node: variants.Node, indent: int) -> Lines:
        """The ConfigMap of all roles: the manifests' settings, and the user's."""
        constant, others = _split(node)
        own = {name: text for name, text in constant.items() if name not in FIXED}
        rest = {name: variants.Constant(constant[name]) for name in constant if name not in own}
        self.defaults["settings",] = own
        yield f"{' ' * indent}{key}:"
        yield "{{- range $name, $value := $.Values.settings }}"
        yield f"{' ' * (indent + 2)}{{{{ $name }}}}: {{{{ {_TEXT} }}}}"
        yield _END
        yield from self._guarded({**rest, **others}, indent, ("settings",))

    def _builder(self, key: str, node: variants.Node, indent: int) -> Lines:
        self.defaults["builder", "job"] = {}
        yield "{{- with $.Values.builder.job }}"
        yield f"{' ' * indent}{key}: |"
        yield f"{' ' * (indent + 2)}{{{{- toYaml . | nindent {indent + 2} }}}}"
        yield "{{- else }}"
        first, *rest = _scalar(getattr(node, "value", ""), indent + 2)
        yield f"{' ' * indent}{key}: {first}"
        yield from rest
        yield _END

    def _kept(self, key: str, node: variants.Node, indent: int) -> Lines:
        """Helm does not remove a definition, which would take all objects of its kind along."""
        yield f"{' ' * indent}{key}:"
        yield f"{' ' * (indent + 2)}helm.sh/resource-policy: keep"
        if not isinstance(node, variants.Missing):
            yield from self._entries(node, indent + 2, ())


# A number stays as it was written: Helm has read it as a float.
_TEXT = 'kindIs "string" $value | ternary $value (toJson $value) | quote'


def file_of(name: renderings.Name) -> str:
    """Return the file of an object's template."""
    return f"{name[0]}-{name[1]}.yaml".lower()


def _joined(lines: Iterable[str]) -> list[str]:
    """The lines with one condition where two that follow each other are the same."""
    joined: list[str] = []
    opened: list[str] = []
    closed = ""
    for line in lines:
        if closed and closed == line:
            joined.pop()
        else:
            joined.append(line)
        closed = ""
        if line.startswith(_OPENING):
            opened.append(line)
        elif line.startswith("{{- else"):
            opened[-1] = ""
        elif line == _END:
            closed = opened.pop()
    return joined


def _bodies(node: variants.Node, path: Path) -> Iterator[variants.Node]:
    """What may stand at a path, whatever is on."""
    if isinstance(node, variants.Choice):
        for _, each in node.options:
            yield from _bodies(each, path)
        yield from _bodies(node.otherwise, path)
    elif isinstance(node, variants.Missing):
        return
    elif not path:
        yield node
    else:
        yield from _bodies(_opened(node).entries.get(path[0], variants.MISSING), path[1:])


def _opened(node: variants.Node) -> variants.Map:
    """A map's entries, each as a node."""
    if isinstance(node, variants.Map):
        return node
    if isinstance(node, variants.Missing):
        return variants.Map({})
    if isinstance(node, variants.Constant) and isinstance(node.value, dict):
        return variants.Map({key: variants.Constant(each) for key, each in node.value.items()})
    raise UnknownShapeError(f"no map: {node}")


def _listed(node: variants.Node) -> variants.List:
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
                for item in _listed(option).items
            )
        )
    raise UnknownShapeError(f"no list: {node}")


def _parts(node: variants.Node) -> Sequence[variants.Node]:
    if isinstance(node, variants.Constant):
        return [node]
    if isinstance(node, variants.Map):
        return list(node.entries.values())
    return _listed(node).items


def _split(node: variants.Node) -> tuple[dict[str, Any], dict[str, variants.Node]]:
    """The constant entries of a map, and the others with their conditions."""
    entries = dict(_conditional(node))
    constant = {
        key: each.value for key, each in entries.items() if isinstance(each, variants.Constant)
    }
    return constant, {key: each for key, each in entries.items() if key not in constant}


def _conditional(node: variants.Node) -> Iterator[tuple[str, variants.Node]]:
    if isinstance(node, variants.Choice):
        for names, option in node.options:
            for key, each in _opened(option).entries.items():
                yield key, variants.Choice(((names, each),), variants.MISSING)
    else:
        yield from _opened(node).entries.items()


def _known_as(entries: Mapping[str, variants.Node]) -> str:
    name = entries.get("name")
    return str(name.value) if isinstance(name, variants.Constant) else ""


def _present(node: variants.Node) -> str:
    """The condition under which a node has a value; "" for always."""
    if isinstance(node, variants.Missing):
        return "false"
    if not isinstance(node, variants.Choice):
        return ""
    there = [names for names, each in node.options if not isinstance(each, variants.Missing)]
    if isinstance(node.otherwise, variants.Missing):
        return _any([_on(names) for names in there])
    absent = [names for names, each in node.options if isinstance(each, variants.Missing)]
    return f"not {_group(_any([_on(names) for names in absent]))}" if absent else ""


def _any(conditions: Sequence[str]) -> str:
    conditions = [each for each in dict.fromkeys(conditions) if each != "false"]
    if len(conditions) == 1:
        return conditions[0]
    return "or " + " ".join(_group(each) for each in conditions)


def _group(condition: str) -> str:
    return f"({condition})" if " " in condition and not condition.startswith("(") else condition


def _on(names: frozenset[str]) -> str:
    return _any([_feature(name) for name in sorted(names)])


def _feature(name: str) -> str:
    return f"$on.{name}" if name.isidentifier() else f'(index $on "{name}")'


def _value(place: Path) -> str:
    """The expression of a value."""
    text = "$.Values"
    for part in place:
        text = f"{text}.{part}" if part.isidentifier() else f'(index {text} "{part}")'
    return text


def _key(key: str) -> str:
    return key if _PLAIN.fullmatch(key) and key.lower() not in _WORDS else json.dumps(key)


def _scalar(value: Any, indent: int) -> list[str]:
    """A value as YAML, which is more lines for a long text."""
    if not isinstance(value, str):
        return [json.dumps(value)]
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return [_filled(value)]
    block = "\n" in value or (len(value) > _WIDTH and '"' in value)
    if not block or value.endswith("\n\n") or value[0].isspace() or "\t" in value:
        return [_filled(json.dumps(value, ensure_ascii=False))]
    space = " " * indent
    body = [
        f"{space}{_filled(line)}".rstrip() if not line else f"{space}{_filled(line)}"
        for line in value.removesuffix("\n").split("\n")
    ]
    return ["|" if value.endswith("\n") else "|-", *body]


def _filled(text: str) -> str:
    """A text with the user's values, and nothing else that Helm would take for a template."""
    text = text.replace("{{", '{{ "{{" }}')
    for token, expression in TOKENS.items():
        text = text.replace(token, expression)
    return text
