"""Evaluates our admission policies as the API server does, by Google's CEL implementation.

What only the API server knows is imitated here as far as our policies use it:
`params` (one evaluation for each object that the binding selects), variables, the
typed `Object{...}` of an ApplyConfiguration, and its merge into the object.
"""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, json_format

from tests.manifests import rendering

Object = Mapping[str, Any]

_NAMES = ("object", "oldObject", "request", "params", "variables")
_FIELD = descriptor_pb2.FieldDescriptorProto


def _object_types() -> descriptor_pool.DescriptorPool:
    """The part of the API server's type `Object` that our policy writes.

    A nested type may not have a field's name here, so Object.spec is ObjectSpec.
    """
    file = descriptor_pb2.FileDescriptorProto(name="object.proto", syntax="proto3")
    metadata = file.message_type.add(name="ObjectMetadata")
    entry = metadata.nested_type.add(name="AnnotationsEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, type=_FIELD.TYPE_STRING)
    metadata.field.add(
        name="annotations",
        number=1,
        type=_FIELD.TYPE_MESSAGE,
        type_name=".ObjectMetadata.AnnotationsEntry",
        label=_FIELD.LABEL_REPEATED,
    )
    spec = file.message_type.add(name="ObjectSpec")
    spec.field.add(
        name="runtimeClassName", json_name="runtimeClassName", number=1, type=_FIELD.TYPE_STRING
    )
    whole = file.message_type.add(name="Object")
    for number, (name, kind) in enumerate(
        (("metadata", ".ObjectMetadata"), ("spec", ".ObjectSpec")), 1
    ):
        whole.field.add(name=name, number=number, type=_FIELD.TYPE_MESSAGE, type_name=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


@functools.cache
def _compiled(expression: str) -> cel.Expression:
    environment = cel.NewEnv(
        descriptor_pool=_object_types(),
        variables=dict.fromkeys(_NAMES, cel.Type.DYN),
        extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings()],
    )
    typed = expression.replace("Object.metadata{", "ObjectMetadata{")
    return environment.compile(typed.replace("Object.spec{", "ObjectSpec{"))


def evaluated(expression: str, data: Mapping[str, Any]) -> Any:
    """The value of an expression. An error, which CEL has as a value, is raised."""
    value = _compiled(expression).eval(data=dict(data))
    if value.type() == cel.Type.ERROR:
        raise AssertionError(f"{expression}\n{value.value()}")
    return value.plain_value()


class Mutator:
    """A MutatingAdmissionPolicy with its binding, and the objects of its kind of parameters."""

    def __init__(self, documents: Sequence[Object], name: str) -> None:
        self._spec = rendering.only(documents, "MutatingAdmissionPolicy", name)["spec"]
        bindings = rendering.of_kind(documents, "MutatingAdmissionPolicyBinding")
        (binding,) = [found for found in bindings if found["spec"]["policyName"] == name]
        kind = self._spec["paramKind"]["kind"]
        selector = binding["spec"]["paramRef"]["selector"]
        self.params = [
            found for found in rendering.of_kind(documents, kind) if _selected(found, selector)
        ]

    def matches(self, pod: Object, params: Object, name: str) -> bool:
        """Whether one of the conditions holds."""
        (found,) = [each for each in self._spec["matchConditions"] if each["name"] == name]
        return bool(evaluated(found["expression"], {"object": pod, "params": params}))

    def admitted(self, pod: Object, *, namespace: str = "default") -> Object:
        """The pod as it is stored."""
        labels = {"kubernetes.io/metadata.name": namespace}
        selector = self._spec["matchConstraints"]["namespaceSelector"]
        if not _selected({"metadata": {"labels": labels}}, selector):
            return pod
        names = [condition["name"] for condition in self._spec["matchConditions"]]
        for params in self.params:
            # All of them: an error in any must come out, and the API server keeps no order.
            held = [self.matches(pod, params, name) for name in names]
            if all(held):
                pod = self._applied(pod, params)
        return pod

    def _applied(self, pod: Object, params: Object) -> Object:
        for mutation in self._spec["mutations"]:
            expression = mutation["applyConfiguration"]["expression"]
            made = evaluated(expression, {"object": pod, "params": params})
            pod = merged(pod, json_format.MessageToDict(made))
        return pod


class Validator:
    """A ValidatingAdmissionPolicy."""

    def __init__(self, documents: Sequence[Object], name: str) -> None:
        self._spec = rendering.only(documents, "ValidatingAdmissionPolicy", name)["spec"]

    def refusals(self, request: Object, *, old: Object | None, new: Object) -> list[str]:
        """The messages of the validations that fail; none where the policy does not apply."""
        data: dict[str, Any] = {"request": request, "object": new, "oldObject": old}
        for condition in self._spec.get("matchConditions", ()):
            if not evaluated(condition["expression"], data):
                return []
        variables: dict[str, Any] = {}
        for variable in self._spec.get("variables", ()):
            data["variables"] = variables
            variables[variable["name"]] = evaluated(variable["expression"], data)
        data["variables"] = variables
        return [
            validation["message"]
            for validation in self._spec["validations"]
            if not evaluated(validation["expression"], data)
        ]


def merged(into: Object, change: Object) -> Object:
    """Maps merged by key, everything else replaced."""
    result = copy.deepcopy(dict(into))
    for key, value in change.items():
        old = result.get(key)
        result[key] = merged(old or {}, value) if isinstance(value, Mapping) else value
    return result


def _selected(found: Object, selector: Object) -> bool:
    labels = found["metadata"].get("labels", {})
    return all(_holds(labels, requirement) for requirement in selector["matchExpressions"])


def _holds(labels: Mapping[str, str], requirement: Object) -> bool:
    key, operator = requirement["key"], requirement["operator"]
    if operator == "Exists":
        return key in labels
    assert operator == "NotIn"
    return labels.get(key) not in requirement["values"]


def terms(pod: Object) -> Iterator[Object]:
    """The terms of a pod's required node affinity."""
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    yield from required.get("nodeSelectorTerms", ())
