"""The values that users set: values.schema.json, and values.yaml with the same words as comments.

What each value is for is said once, here or in what it belongs to: a component's first sentence is
that of its kustomization, a setting's that of agent.settings.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from agent.kits import flags
from agent.settings import role_settings
from lab.chart import conditions, renderings, templates

Values = Mapping[conditions.Path, Any]

POLICIES = {
    "auto": "",
    "policy": "",
    "policy-v1beta1": "admission-v1beta1",
    "webhook": "webhook",
    "none": renderings.NO_POLICY,
}
"""What `admission` may be, and the feature that it is."""
ON = (renderings.CONTROLLER, "api")
"""The components that `uimgacc enable` installs."""
TOGETHER = (("k3s", "rke2"), ("mirrors", "mirrors-node"))
"""Components of which at most one may be on."""

_ROLES = ("agent", "snapshotter", "controller")
_TEXT: Mapping[str, Any] = {"type": ["string", "number", "boolean"]}
_NAME = "^[A-Za-z_][A-Za-z0-9_]*$"
_WIDTH = 100


def chosen() -> tuple[str, ...]:
    """Return the components that values name; the others follow from `admission`."""
    others = set(POLICIES.values())
    return (renderings.CONTROLLER, *(n for n in renderings.components() if n not in others))


def schema(defaults: Values) -> dict[str, Any]:
    """Return the schema of all values, with defaults."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart uimgacc",
        **_map(
            {
                "image": _image(defaults),
                "imagePullSecrets": _list(
                    "Secrets with which the nodes pull that image.",
                    [],
                    _map({"name": _of("string", "The Secret's name.", None, minLength=1)}),
                ),
                "store": _store(),
                "components": _components(),
                "overlay": _of(
                    "string",
                    "runtimeclass: pods that ask for a cache use the snapshotter."
                    " default-snapshotter: all pods do (read docs/install/all-pods.md first).",
                    renderings.OVERLAY,
                    enum=[renderings.OVERLAY, renderings.EVERY_POD],
                ),
                "admission": _of(
                    "string",
                    "What moves pods that ask for a cache to their runtime class. auto: what the"
                    " API server has, as `uimgacc enable` chooses; none: pods name the class"
                    " themselves.",
                    "auto",
                    enum=list(POLICIES),
                ),
                "settings": _settings(defaults["settings",]),
                **{role: _role(role, defaults) for role in _roles(defaults)},
                "builder": _map(
                    {"job": _object("A part of a Job that is merged into that of each build.", {})},
                    "The Jobs that build caches (docs/use/builders.md).",
                ),
                "crds": _map(
                    {"install": _of("boolean", "Apply them with the chart.", True)},
                    "The definitions of ImageCaches. An upgrade changes them; Helm never deletes"
                    " them.",
                ),
                "namespace": _map(
                    {"create": _of("boolean", "Whether it is an object of the chart.", False)},
                    "The namespace uimgacc-system: for `helm template`, whose output is applied."
                    " With `helm install`, give --create-namespace instead.",
                ),
                "global": {"type": "object", "description": "What charts give to those within."},
            }
        ),
    }


def values(described: Mapping[str, Any]) -> str:
    """Return values.yaml: the schema's defaults with its descriptions."""
    lines = list(_lines(described, 0))
    head = "# Made by `python -m lab.chart`. values.schema.json says what each value may be."
    return "\n".join([head, *lines]) + "\n"


def _lines(described: Mapping[str, Any], indent: int) -> Iterator[str]:
    space = " " * indent
    for name, each in described["properties"].items():
        inner = "properties" in each and "default" not in each
        if not inner and "default" not in each:
            continue
        if not indent:
            yield ""
        for line in _wrapped(each.get("description", ""), _WIDTH - indent):
            yield f"{space}# {line}"
        if inner and (lines := list(_lines(each, indent + 2))):
            yield f"{space}{name}:"
            yield from lines
        else:
            yield f"{space}{name}: {json.dumps(each.get('default', {}), ensure_ascii=False)}"


def _wrapped(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + len(word) + 1 > width:
            yield line
            line = ""
        line = f"{line} {word}".strip()
    if line:
        yield line


def _image(defaults: Values) -> dict[str, Any]:
    return _map(
        {
            "repository": _of(
                "string",
                "Where the nodes pull it from, without tag and digest.",
                defaults["image", "repository"],
                pattern=r"^[^\s@\"\\]+$",
            ),
            "tag": _of(
                "string",
                "Empty: the version of the chart. Not read where there is a digest.",
                "",
                pattern=r"^[A-Za-z0-9_.-]*$",
            ),
            "digest": _of(
                "string",
                "sha256:..., which wins over the tag.",
                defaults["image", "digest"],
                pattern="^(sha256:[0-9a-f]{64})?$",
            ),
        },
        "The container image of all roles.",
    )


def _store() -> dict[str, Any]:
    nfs = _map(
        {
            "server": _of(
                "string",
                "Its name or address. An IPv6 address stands in brackets.",
                "",
                pattern=r"^([^\s:/\"\\\[\]]*|\[[0-9a-fA-F:]+\])$",
            ),
            "path": _of("string", "Its path there.", "/uimgacc", pattern=r"^/[^\s\"\\]*$"),
        },
        "The NFS export that holds it. Not read with the component claim.",
    )
    return _map({"nfs": nfs}, "The store of all images. Set this one.")


def _components() -> dict[str, Any]:
    return _map(
        {name: _of("boolean", _about(name), name in ON) for name in chosen()},
        "As in manifests/components. Most need the controller.",
    )


def _about(component: str) -> str:
    """The first sentences of a component's kustomization."""
    text = (renderings.MANIFESTS / "components" / component / "kustomization.yaml").read_text()
    comment = re.match(r"(?:#.*\n)*", text)
    words = " ".join(re.findall(r"^#\s?(.*)$", comment[0] if comment else "", re.MULTILINE))
    return re.split(r"(?<=\.)\s", words)[0]


def _settings(own: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for role in _ROLES:
        for setting in flags.settings_of(role_settings.ROLES[role]):
            for variable in setting.variables[:1]:
                if variable in templates.FIXED:
                    continue
                about = f"{setting.help} Role: {role}."
                if variable in found:
                    about = f"{found[variable]['description']} Role: {role}."
                found[variable] = {**_TEXT, "description": about}
    for name, value in own.items():
        found[name] = {**found.get(name, _TEXT), "default": value}
    found["UIMGACC_DEFAULT_SNAPSHOTTER"] = {
        **_TEXT,
        "description": "With the overlay default-snapshotter: false is the way back.",
    }
    return _map(
        dict(sorted(found.items())),
        "Settings of all roles, in a ConfigMap: docs/reference/settings.md names them. A change"
        " replaces the pods.",
    )


def _roles(defaults: Values) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path[0] for path in defaults if path[1:2] == ("podAnnotations",)))


def _role(role: str, defaults: Values) -> dict[str, Any]:
    containers = [path[2] for path in defaults if path[:2] == (role, "resources")]
    properties: dict[str, Any] = {}
    if (role, "replicas") in defaults:
        properties["replicas"] = {
            **_of("integer", "How many pods there are.", defaults[role, "replicas"]),
            "minimum": 0,
        }
    properties |= {
        "nodeSelector": _strings("The nodes that they may run on.", defaults[role, "nodeSelector"]),
        "tolerations": _list("", defaults[role, "tolerations"], {"type": "object"}),
        "affinity": _object("Instead of that of the manifests.", defaults[role, "affinity"]),
        "podAnnotations": _strings("Annotations of the pods.", defaults[role, "podAnnotations"]),
        "resources": _map(
            {name: _resources(defaults[role, "resources", name]) for name in containers},
            "Of each container.",
        ),
        "env": _map(
            {name: _variables() for name in containers},
            "More variables of each container; they win over `settings`.",
        ),
    }
    abouts = {
        "node": "The DaemonSet of the agents.",
        "controller": "The Deployment of the controller.",
        "setup": "With the overlay default-snapshotter: the DaemonSet of node set-up.",
    }
    return _map(properties, abouts.get(role, f"The pods of uimgacc-{role}."))


def _variables() -> dict[str, Any]:
    return {
        "type": "object",
        "default": {},
        "propertyNames": {"pattern": _NAME},
        "additionalProperties": dict(_TEXT),
    }


def _resources(default: Any) -> dict[str, Any]:
    amounts = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
    return {
        "type": "object",
        "properties": {"requests": amounts, "limits": amounts, "claims": {"type": "array"}},
        "additionalProperties": False,
        "default": default,
    }


def _map(properties: Mapping[str, Any], about: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object"}
    if about:
        found["description"] = about
    return {**found, "properties": dict(properties), "additionalProperties": False}


def _strings(about: str, default: Any) -> dict[str, Any]:
    return {**_object(about, default), "additionalProperties": {"type": ["string", "null"]}}


def _object(about: str, default: Any) -> dict[str, Any]:
    return _of("object", about, default)


def _list(about: str, default: Any, items: Mapping[str, Any]) -> dict[str, Any]:
    return {**_of("array", about, default), "items": dict(items)}


def _of(kind: str, about: str, default: Any, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": kind}
    if about:
        found["description"] = about
    if default is not None:
        found["default"] = default
    return {**found, **more}
