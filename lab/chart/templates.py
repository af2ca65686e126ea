"""An object with conditions, written as a template of Helm's.

A value of the user's stands where the rendering has a token of `renderings`, and at the places of a
workload that `Template` knows: there what the manifests have becomes the default in values.yaml.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lab.chart import conditions, helm_text, renderings, variants

Lines = Iterator[str]
Writer = Callable[[str, variants.Node, int], Lines]

HEADER = "{{- /* Made by `python -m lab.chart` from manifests/: change it there. */}}"
FEATURES = '{{- $on := include "uimgacc.components" $ | fromJson }}'
SETTINGS = ("ConfigMap", "uimgacc")
BUILDER = ("ConfigMap", "uimgacc-builder")
DEFINITION = "CustomResourceDefinition"
FIXED = frozenset({"UIMGACC_NFS", "UIMGACC_ROOT", "UIMGACC_CONTAINERD", "UIMGACC_ADDRESS"})
"""Settings that belong to paths of the manifests, or follow from other values."""

_GUARDS = {DEFINITION: "$.Values.crds.install", "Namespace": "$.Values.namespace.create"}
_WORKLOADS = ("DaemonSet", "Deployment")
_POD: conditions.Path = ("spec", "template", "spec")


class Template:
    """One object as a template; `defaults` has afterwards what values.yaml is to have of it."""

    def __init__(self, name: renderings.Name, node: variants.Node) -> None:
        self._name = name
        self._node = node
        self._writers = self._places()
        self.defaults: dict[conditions.Path, Any] = {}

    def text(self) -> str:
        """Return the template."""
        lines = helm_text.joined(self._top(self._node))
        body = "\n".join(lines)
        for token in (renderings.SERVER, renderings.PATH, renderings.IMAGE_NAME):
            if token in body:
                raise conditions.UnknownShapeError(
                    f"{self._name}: a value of the user's is left as {token}"
                )
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
                yield helm_text.END

    # What is in a node.

    def _entries(self, node: variants.Node, indent: int, path: conditions.Path) -> Lines:
        """The lines of a map's entries."""
        entries = dict(conditions.opened(node).entries)
        for place in self._writers:
            if place[:-1] == path:
                entries.setdefault(place[-1], variants.MISSING)
        for key, each in entries.items():
            yield from self._entry(key, each, indent, path)

    def _entry(self, key: str, node: variants.Node, indent: int, path: conditions.Path) -> Lines:
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
            first, *rest = helm_text.scalar(value, indent + 2)
            yield f"{space}{helm_text.key_of(key)}: {first}"
            yield from rest

    def _collection(
        self, key: str, node: variants.Node, indent: int, lines: Lines, *, empty: str
    ) -> Lines:
        """A map or a list, which may be empty with some features."""
        space = " " * indent
        parts = conditions.parts(node)
        filled = [conditions.presence(each) for each in parts]
        if "" in filled:
            yield f"{space}{helm_text.key_of(key)}:"
            yield from lines
            return
        yield f"{{{{- if {conditions.any_of(filled)} }}}}"
        yield f"{space}{helm_text.key_of(key)}:"
        yield from lines
        yield "{{- else }}"
        yield f"{space}{helm_text.key_of(key)}: {empty}"
        yield helm_text.END

    def _items(self, node: variants.Node, indent: int, path: conditions.Path) -> Lines:
        for item in conditions.listed(node).items:
            yield from self._item(item, indent, path)

    def _item(self, node: variants.Node, indent: int, path: conditions.Path) -> Lines:
        if isinstance(node, variants.Choice):
            yield from self._choice(node, lambda each: self._item(each, indent, path))
            return
        if isinstance(node, variants.Missing):
            return
        space = " " * indent
        value = node.value if isinstance(node, variants.Constant) else node
        if not isinstance(value, dict | variants.Map):
            if isinstance(value, list | variants.List):
                raise conditions.UnknownShapeError(
                    f"{self._name}: a list in a list at {'.'.join(path)}"
                )
            first, *rest = helm_text.scalar(value, indent + 2)
            yield f"{space}- {first}"
            yield from rest
            return
        entries = conditions.opened(node).entries
        here = (*path, conditions.known_as(entries))
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
                yield f"{{{{- if not {conditions.grouped(conditions.on(options[0][0]))} }}}}"
                yield from otherwise
                yield helm_text.END
            return
        word = "if"
        for names, lines in options:
            yield f"{{{{- {word} {conditions.on(names)} }}}}"
            yield from lines
            word = "else if"
        if otherwise:
            yield "{{- else }}"
            yield from otherwise
        yield helm_text.END

    # The places of the user's values.

    def _places(self) -> dict[conditions.Path, Writer]:
        if self._name == SETTINGS:
            return {("data",): self._settings}
        if self._name == BUILDER:
            return {("data", "job.yaml"): self._builder}
        if self._name[0] == DEFINITION:
            return {("metadata", "annotations"): self._kept}
        if self._name[0] not in _WORKLOADS:
            return {}
        return self._places_of_workload(self._name[1].removeprefix("uimgacc-"))

    def _places_of_workload(self, role: str) -> dict[conditions.Path, Writer]:
        meta = ("spec", "template", "metadata")
        places: dict[conditions.Path, Writer] = {
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
        for pod in conditions.bodies(self._node, _POD):
            for kind in ("initContainers", "containers"):
                for item in conditions.listed(
                    conditions.opened(pod).entries.get(kind, variants.MISSING)
                ).items:
                    for body in conditions.bodies(item, ()):
                        yield kind, conditions.known_as(conditions.opened(body).entries)

    def _lifted_map(self, place: conditions.Path) -> Writer:
        """A map whose constant entries are defaults; the user's win over those of features."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            constant, others = conditions.split(node)
            self.defaults[place] = constant
            yield from self._lifted(
                key, place, indent, others, self._guarded(others, indent, place)
            )

        return write

    def _guarded(
        self, others: Mapping[str, variants.Node], indent: int, place: conditions.Path
    ) -> Lines:
        for name, each in others.items():
            yield f"{{{{- if not (hasKey {helm_text.value_at(place)} {json.dumps(name)}) }}}}"
            yield from self._entry(name, each, indent + 2, ())
            yield helm_text.END

    def _lifted_list(self, place: conditions.Path) -> Writer:
        """A list whose constant items are defaults; features add theirs."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            items = conditions.listed(node).items
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
        self,
        key: str,
        place: conditions.Path,
        indent: int,
        others: Mapping[str, variants.Node],
        lines: Lines,
    ) -> Lines:
        filled = [
            helm_text.value_at(place),
            *(conditions.presence(each) for each in others.values()),
        ]
        always = "" in filled
        if not always:
            yield f"{{{{- if {conditions.any_of(filled)} }}}}"
        yield f"{' ' * indent}{key}:"
        yield f"{{{{- with {helm_text.value_at(place)} }}}}"
        yield f"{' ' * (indent + 2)}{{{{- toYaml . | nindent {indent + 2} }}}}"
        yield helm_text.END
        yield from lines
        if not always:
            yield helm_text.END

    def _replaced(self, place: conditions.Path) -> Writer:
        """What the user gives stands instead of what features make."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            if isinstance(node, variants.Constant):
                self.defaults[place] = node.value
                node = variants.MISSING
            else:
                self.defaults[place] = {}
            otherwise = list(self._entry(key, node, indent, ()))
            yield f"{{{{- with {helm_text.value_at(place)} }}}}"
            yield f"{' ' * indent}{key}:"
            yield f"{' ' * (indent + 2)}{{{{- toYaml . | nindent {indent + 2} }}}}"
            if otherwise:
                yield "{{- else }}"
                yield from otherwise
            yield helm_text.END

        return write

    def _number(self, place: conditions.Path) -> Writer:
        def write(key: str, node: variants.Node, indent: int) -> Lines:
            if not isinstance(node, variants.Constant):
                raise conditions.UnknownShapeError(f"{self._name}: features change {key}")
            self.defaults[place] = node.value
            yield f"{' ' * indent}{key}: {{{{ {helm_text.value_at(place)} }}}}"

        return write

    def _environment(self, place: conditions.Path) -> Writer:
        """The variables of the manifests, then the user's."""

        def write(key: str, node: variants.Node, indent: int) -> Lines:
            self.defaults[place] = {}
            items = conditions.listed(node).items
            lines = list(self._choice_of_items(node, indent))
            filled = [helm_text.value_at(place), *(conditions.presence(each) for each in items)]
            if isinstance(node, variants.Choice):
                filled = [helm_text.value_at(place), conditions.presence(node)]
            always = "" in filled
            if not always:
                yield f"{{{{- if {conditions.any_of(filled)} }}}}"
            yield f"{' ' * indent}{key}:"
            yield from lines
            yield f"{{{{- range $name, $value := {helm_text.value_at(place)} }}}}"
            yield f"{' ' * indent}- name: {{{{ $name }}}}"
            yield f"{' ' * indent}  value: {{{{ {_TEXT} }}}}"
            yield helm_text.END
            if not always:
                yield helm_text.END

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
            constant, others = conditions.split(node)
            self.defaults[place] = constant
            space = " " * (indent + 2)
            yield f"{' ' * indent}{key}:"
            for name in (SETTINGS, BUILDER):
                if f"'name': '{name[1]}'" in str(self._node):
                    text = f'include (print $.Template.BasePath "/{file_of(name)}") $'
                    yield f"{space}checksum/{name[1]}: {{{{ {text} | sha256sum }}}}"
            yield f"{{{{- with {helm_text.value_at(place)} }}}}"
            yield f"{space}{{{{- toYaml . | nindent {indent + 2} }}}}"
            yield helm_text.END
            yield from self._guarded(others, indent, place)

        return write

    def _secrets(self, key: str, node: variants.Node, indent: int) -> Lines:
        if not isinstance(node, variants.Missing):
            raise conditions.UnknownShapeError(f"{self._name}: the manifests have {key}")
        yield "{{- with $.Values.imagePullSecrets }}"
        yield f"{' ' * indent}{key}:"
        yield f"{' ' * (indent + 2)}{{{{- toYaml . | nindent {indent + 2} }}}}"
        yield helm_text.END

    def _settings(self, key: str, node: variants.Node, indent: int) -> Lines:
        """The ConfigMap of all roles: the manifests' settings, and the user's."""
        constant, others = conditions.split(node)
        own = {name: text for name, text in constant.items() if name not in FIXED}
        rest = {name: variants.Constant(constant[name]) for name in constant if name not in own}
        self.defaults["settings",] = own
        yield f"{' ' * indent}{key}:"
        yield "{{- range $name, $value := $.Values.settings }}"
        yield f"{' ' * (indent + 2)}{{{{ $name }}}}: {{{{ {_TEXT} }}}}"
        yield helm_text.END
        yield from self._guarded({**rest, **others}, indent, ("settings",))

    def _builder(self, key: str, node: variants.Node, indent: int) -> Lines:
        self.defaults["builder", "job"] = {}
        yield "{{- with $.Values.builder.job }}"
        yield f"{' ' * indent}{key}: |"
        yield f"{' ' * (indent + 2)}{{{{- toYaml . | nindent {indent + 2} }}}}"
        yield "{{- else }}"
        first, *rest = helm_text.scalar(getattr(node, "value", ""), indent + 2)
        yield f"{' ' * indent}{key}: {first}"
        yield from rest
        yield helm_text.END

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
