"""All files of the chart, as texts."""

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from agent.cli.install import support
from lab import places
from lab.chart import conditions, renderings, schema, templates, variants

FOLDER = places.CHECKOUT / "charts" / "uimgacc"
BY_HAND = ("README.md", "templates/NOTES.txt", "templates/_values.tpl", "templates/check.yaml")
"""What is not made from the manifests; paths below the folder."""


class ControllerChangesError(Exception):
    """The controller's component changes an object of the base, which the chart cannot express."""


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """The image of a release: where it is, without a tag, and its digest, sha256:....

    `version` is that of the release, where it is not the project's.
    """

    repository: str = "uimgacc"
    digest: str = ""
    version: str = ""


def texts(image: Image | None = None) -> dict[str, str]:
    """Return the files by their path below the chart's folder, those written by hand included.

    With an image, it is the default of the values. Raise CannotRenderError.
    """
    rendered = renderings.collect()
    files = {name: (FOLDER / name).read_text() for name in BY_HAND}
    defaults: dict[conditions.Path, Any] = {}
    for name, node in nodes(rendered).items():
        template = templates.Template(name, node)
        files[f"templates/{templates.file_of(name)}"] = template.text()
        defaults |= template.defaults
    image = image or Image()
    defaults["image", "repository"], defaults["image", "digest"] = image.repository, image.digest
    described = schema.schema(defaults)
    files["values.yaml"] = schema.values(described)
    files["values.schema.json"] = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    files["templates/_components.tpl"] = "".join(_components(rendered))
    files["Chart.yaml"] = _chart(rendered, image)
    return dict(sorted(files.items()))


def nodes(rendered: renderings.Renderings) -> dict[renderings.Name, variants.Node]:
    """Return every object with the conditions under which it is there, and is what it is."""
    names = dict.fromkeys(
        [*rendered.whole, *(name for found in rendered.features.values() for name in found)]
    )
    made: dict[renderings.Name, variants.Node] = {}
    for name in names:
        node = variants.merge(
            rendered.whole.get(name, variants.MISSING),
            {each: found.get(name, variants.MISSING) for each, found in rendered.features.items()},
        )
        if name in rendered.whole and name not in rendered.bare:
            node = variants.Choice(((frozenset({renderings.CONTROLLER}), node),), variants.MISSING)
        made[name] = node
    _check(rendered)
    return made


def _check(rendered: renderings.Renderings) -> None:
    """Raise ControllerChangesError where a feature depends on the controller in another way."""
    of_controller = set(rendered.whole) - rendered.bare
    for feature, alone in rendered.alone.items():
        expected = set(rendered.features[feature]) - of_controller
        if expected != alone:
            raise ControllerChangesError(f"{feature}: {sorted(expected ^ alone)}")


def _components(rendered: renderings.Renderings) -> Iterator[str]:
    """The template that says which features are on, and refuses what does not go together."""
    needing = [
        name
        for name in schema.chosen()
        if name not in rendered.alone and name != renderings.CONTROLLER
    ]
    yield templates.HEADER + "\n"
    yield '{{- define "uimgacc.components" -}}\n'
    yield "{{- $on := deepCopy $.Values.components -}}\n"
    for name in needing:
        yield f'{{{{- if and (index $on "{name}") (not $on.{renderings.CONTROLLER}) -}}}}\n'
        yield f'{{{{- fail "components.{name} needs components.{renderings.CONTROLLER}" -}}}}\n'
        yield "{{- end -}}\n"
    for group in schema.TOGETHER:
        conditions = " ".join(f'(index $on "{name}")' for name in group)
        names = " and ".join(f"components.{name}" for name in group)
        yield f"{{{{- if and {conditions} -}}}}\n"
        yield f'{{{{- fail "{names} exclude each other" -}}}}\n'
        yield "{{- end -}}\n"
    overlay = renderings.EVERY_POD
    yield f'{{{{- $_ := set $on "{overlay}" (eq $.Values.overlay "{overlay}") -}}}}\n'
    yield '{{- $admission := include "uimgacc.admission" $ -}}\n'
    for value, feature in schema.POLICIES.items():
        if feature:
            yield f'{{{{- $_ := set $on "{feature}" (eq $admission "{value}") -}}}}\n'
    yield "{{- toJson $on -}}\n{{- end -}}\n"


def _chart(rendered: renderings.Renderings, image: Image) -> str:
    project = _project()
    oldest = ".".join(map(str, support.MINIMUM))
    definitions = [
        {
            "kind": body["spec"]["names"]["kind"],
            "version": each["name"],
            "name": body["metadata"]["name"],
            "displayName": f"{body['spec']['names']['kind']} ({body['spec']['group']})",
        }
        for body in _definitions(rendered)
        for each in body["spec"]["versions"]
        if each["served"]
    ]
    annotations = {
        "artifacthub.io/category": "storage",
        "artifacthub.io/operator": "true",
        "artifacthub.io/crds": _dumped(definitions),
    }
    if image.digest:
        listed = [{"name": "uimgacc", "image": f"{image.repository}@{image.digest}"}]
        annotations["artifacthub.io/images"] = _dumped(listed)
    text = {
        "apiVersion": "v2",
        "name": "uimgacc",
        "description": project["description"],
        "type": "application",
        "version": image.version or project["version"],
        "appVersion": image.version or project["version"],
        "kubeVersion": f">={oldest}.0-0",
        "keywords": ["image cache", "containerd", "snapshotter", "erofs", "nfs"],
        "annotations": annotations,
    }
    return f"# Made by `python -m lab.chart`.\n{_dumped(text)}"


def _dumped(value: Any) -> str:
    return str(yaml.dump(value, sort_keys=False, width=100, Dumper=_Readable))


class _Readable(yaml.SafeDumper):
    """Texts of several lines as they are."""


def _written(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Readable.add_representer(str, _written)


def _definitions(rendered: renderings.Renderings) -> Iterator[Mapping[str, Any]]:
    every = dict(rendered.whole)
    for found in rendered.features.values():
        every |= found
    yield from (body for name, body in sorted(every.items()) if name[0] == templates.DEFINITION)


def project_version() -> str:
    """Return the version of this checkout."""
    return str(_project()["version"])


def _project() -> Mapping[str, Any]:
    text = (places.CHECKOUT / "pyproject.toml").read_text()
    found: Mapping[str, Any] = tomllib.loads(text)["project"]
    return found
