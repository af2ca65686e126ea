"""Evaluates our admission policies as the API server does, by Google's CEL implementation.

What only the API server knows is imitated here as far as our policies use it:
`params` (one evaluation for each object that the binding selects), variables, the
typed `Object{...}` of an ApplyConfiguration and its merge into the object, and a JSONPatch.
"""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonpatch
from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, struct_pb2

from agent.model import keys
from tests.manifests import rendering

Object = Mapping[str, Any]

_NAMES = ("object", "oldObject", "request", "params", "variables")
_FIELD = descriptor_pb2.FieldDescriptorProto


def _object_types() -> descriptor_pool.DescriptorPool:
    """The API server's type JSONPatch, and the part of `Object` that our policy writes.

    A nested type may not have a field's name here, so Object.spec is ObjectSpec. It has no node
    selector: the API server refuses an ApplyConfiguration with a part of a value that it takes as
    one (`+mapType=atomic`), and goes on with the pod as it is by then.
    """
    file = descriptor_pb2.FileDescriptorProto(name="object.proto", syntax="proto3")
    file.dependency.append("google/protobuf/struct.proto")
    patch = file.message_type.add(name="JSONPatch")
    for number, name in enumerate(("op", "path"), 1):
        patch.field.add(name=name, number=number, type=_FIELD.TYPE_STRING)
    patch.field.add(
        name="value", number=3, type=_FIELD.TYPE_MESSAGE, type_name=".google.protobuf.Value"
    )
    metadata = file.message_type.add(name="ObjectMetadata")
    _add_map(metadata, "annotations", "AnnotationsEntry")
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
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool


def _add_map(message: descriptor_pb2.DescriptorProto, name: str, entries: str) -> None:
    """Give a message its first field, a map of strings."""
    entry = message.nested_type.add(name=entries)
    entry.options.map_entry = True
    for number, part in enumerate(("key", "value"), 1):
        entry.field.add(name=part, number=number, type=_FIELD.TYPE_STRING)
    message.field.add(
        name=name,
        json_name=name,
        number=1,
        type=_FIELD.TYPE_MESSAGE,
        type_name=f".{message.name}.{entries}",
        label=_FIELD.LABEL_REPEATED,
    )


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
    """The MutatingAdmissionPolicies with their bindings, and the objects of their parameters.

    Policies are evaluated again after another one has changed the pod (`reinvocationPolicy`).
    """

    def __init__(self, documents: Sequence[Object]) -> None:
        self.documents = documents
        self._policies = []
        bindings = rendering.of_kind(documents, "MutatingAdmissionPolicyBinding")
        for binding in bindings:
            name = binding["spec"]["policyName"]
            policy = rendering.only(documents, "MutatingAdmissionPolicy", name)
            assert policy["spec"]["reinvocationPolicy"] == "IfNeeded"
            self._policies.append((policy["spec"], binding["spec"]))

    @property
    def params(self) -> list[Object]:
        """The parameters of the policy that has some."""
        return next(iter(filter(None, (self._params(*each) for each in self._policies))))

    def matches(self, pod: Object, params: Object, name: str) -> bool:
        """Whether one of the conditions of the policy with parameters holds."""
        spec = next(spec for spec, _ in self._policies if "paramKind" in spec)
        (found,) = [each for each in spec["matchConditions"] if each["name"] == name]
        return bool(evaluated(found["expression"], {"object": pod, "params": params}))

    def admitted(self, pod: Object, *, namespace: str = "default", label: str = "") -> Object:
        """The pod as it is stored; `label` is that of its namespace by which pods may ask."""
        for _ in range(3):
            before = pod
            for spec, binding in self._policies:
                if _selected(namespace_of(namespace, label), _namespaces(spec)):
                    pod = self._evaluated(spec, binding, pod)
            if pod == before:
                return pod
        raise AssertionError("the policies do not come to an end")

    def _params(self, spec: Object, binding: Object) -> list[Object]:
        if "paramKind" not in spec:
            return []
        selector = binding["paramRef"]["selector"]
        found = rendering.of_kind(self.documents, spec["paramKind"]["kind"])
        return [each for each in found if _selected(each, selector)]

    def _evaluated(self, spec: Object, binding: Object, pod: Object) -> Object:
        for params in self._params(spec, binding) if "paramKind" in spec else [None]:
            data = {"object": pod, "params": params}
            # All of them: an error in any must come out, and the API server keeps no order.
            held = [evaluated(each["expression"], data) for each in spec["matchConditions"]]
            for mutation in spec["mutations"] if all(held) else ():
                pod = _mutated(mutation, pod, params)
        return pod


def _mutated(mutation: Object, pod: Object, params: Object | None) -> Object:
    """The pod after one of a policy's mutations, which sees what those before it have made."""
    data = {"object": pod, "params": params}
    if mutation["patchType"] == "JSONPatch":
        made = evaluated(mutation["jsonPatch"]["expression"], data)
        patched: Object = jsonpatch.apply_patch(
            pod, [json_format.MessageToDict(each) for each in made]
        )
        return patched
    made = evaluated(mutation["applyConfiguration"]["expression"], data)
    return merged(pod, json_format.MessageToDict(made))


def namespace_of(name: str, label: str) -> Object:
    """A namespace with the label by which its pods ask; "" for none."""
    labels = {"kubernetes.io/metadata.name": name}
    return {"metadata": {"labels": labels | ({keys.CACHE: label} if label else {})}}


def _namespaces(spec: Object) -> Object:
    selector: Object = spec["matchConstraints"]["namespaceSelector"]
    return selector


def selects_namespace(selector: Object, name: str, label: str) -> bool:
    """Whether a namespaceSelector has a namespace."""
    return _selected(namespace_of(name, label), selector)


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
    if operator == "In":
        return labels.get(key) in requirement["values"]
    assert operator == "NotIn"
    return labels.get(key) not in requirement["values"]


def terms(pod: Object) -> Iterator[Object]:
    """The terms of a pod's required node affinity."""
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    yield from required.get("nodeSelectorTerms", ())
