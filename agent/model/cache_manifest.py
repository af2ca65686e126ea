"""The manifest of an ImageCache: the one writer, and the one reader of all its dialects.

The agent writes it for a pod, the command line and the controller's page for a person, and
UCloud's API for its caller, always in the native dialect. What is empty is left out, so that the
reader's defaults hold. The reader's errors name the field.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agent.model import caches, images, keys, manifests

_DNS_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SECRET = re.compile(r"([^:/]*)[:/]([^:/]*)")
_LABEL_NAME = re.compile(
    r"(?:[a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
FIELDS = {"images", "imagePullSecrets", "imageCacheSize", "retentionDays"}
"""Fields of a spec in all dialects."""

NATIVE_FIELDS = {"namespaces", "keepWarm", "nodeSelector"}
"""Further ones of the native dialect."""

_RETENTION = {
    caches.Dialect.NATIVE: (1, 65536),
    caches.Dialect.ALIBABA: (1, 65536),
    # Tencent's operator: 0 (its default) is for ever.
    caches.Dialect.TENCENT: (0, 3650),
    caches.Dialect.UCLOUD: (1, 65536),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a manifest is to say, in the native dialect.

    The values are not checked here: images and Secrets may be as a person has typed them, and
    `size_gib` and `retention_days` may be text, so that the reader's error names the field.
    """

    name: str
    images: Sequence[object]
    pull_secrets: Sequence[object] = ()
    namespaces: Sequence[str] = ()
    size_gib: object = None
    retention_days: object = None
    plain_http: Sequence[str] = ()
    insecure: Sequence[str] = ()
    acr_instances: Sequence[str] = ()
    keep_warm: bool = False
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    local: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write(draft: Draft) -> dict[str, Any]:
    """The manifest."""
    registries = {
        keys.PLAIN_HTTP: ",".join(draft.plain_http),
        keys.INSECURE: ",".join(draft.insecure),
        keys.ACR_INSTANCE_IDS: ",".join(draft.acr_instances),
        keys.LOCAL: draft.local,
    }
    annotations = {**draft.annotations, **_given(registries)}
    spec = {
        "imagePullSecrets": [str(secret) for secret in draft.pull_secrets],
        "namespaces": list(draft.namespaces),
        "imageCacheSize": draft.size_gib,
        "retentionDays": draft.retention_days,
        "keepWarm": draft.keep_warm or None,
        "nodeSelector": dict(draft.node_selector),
    }
    return {
        "apiVersion": keys.API_VERSION,
        "kind": keys.IMAGE_CACHE,
        "metadata": {
            "name": draft.name,
            **_given({"labels": dict(draft.labels), "annotations": annotations}),
        },
        "spec": {"images": [str(image) for image in draft.images], **_given(spec)},
    }


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def read(manifest: Mapping[str, object]) -> caches.CacheRequest:
    """Read an ImageCache manifest in any of the dialects.

    Raises ManifestError, which names the field, where no cloud would accept the value.
    """
    document = manifests.document(manifest)
    dialect = _dialect(document)
    spec = document.get("spec")
    if spec.absent:
        raise spec.error("expected a mapping with images")
    annotations = document.get("metadata", "annotations").labels()
    known = FIELDS | (NATIVE_FIELDS if dialect is caches.Dialect.NATIVE else set())
    warm, selector = _warm(spec) if dialect is caches.Dialect.NATIVE else (False, ())
    local = annotations.get(keys.LOCAL)
    stale = annotations.get(keys.SERVE_STALE)
    remarks = [
        f"spec.{key}: not known, ignored" for key in map(str, spec.mapping()) if key not in known
    ]
    warnings = []
    if local is not None and (problem := caches.local_problem(local)):
        warnings.append(problem)
    if stale is not None and (problem := caches.serve_stale_problem(stale)):
        warnings.append(problem)
    if selector and not warm:
        warnings.append("spec.nodeSelector: it changes nothing without spec.keepWarm.")
    return caches.CacheRequest(
        name=_name(document),
        dialect=dialect,
        images=_images(spec.get("images")),
        pull_secrets=_pull_secrets(spec.get("imagePullSecrets")),
        serves=_serves(spec.get("namespaces")) if dialect is caches.Dialect.NATIVE else (),
        size_gib=_size(spec.get("imageCacheSize")),
        retention_days=_retention(spec.get("retentionDays"), dialect),
        reuse=caches.first_of(annotations, keys.REUSE_NAMES).lower() == "true",
        architecture=caches.first_of(annotations, keys.ARCHITECTURE_NAMES),
        plain_http_registries=caches.list_of(annotations, keys.PLAIN_HTTP_NAMES),
        insecure_registries=caches.list_of(annotations, keys.INSECURE_NAMES),
        acr_instances=caches.acr_instances_of(annotations),
        keep_warm=warm,
        node_selector=selector,
        local=caches.local_mode(local or ""),
        stale=caches.serve_stale(stale or ""),
        remarks=(*remarks, *warnings),
        warnings=tuple(warnings),
    )


def _dialect(document: manifests.Field) -> caches.Dialect:
    kind = document.get("kind")
    if kind.text() != keys.IMAGE_CACHE:
        raise kind.error(f"expected {keys.IMAGE_CACHE}, not {kind.text()}")
    version = document.get("apiVersion")
    group, _, number = version.text().partition("/")
    if group not in caches.GROUPS or number != "v1":
        known = ", ".join(f"{name}/v1" for name in caches.GROUPS)
        raise version.error(f"expected one of {known}, not {version.text()}")
    return caches.GROUPS[group]


def _name(document: manifests.Field) -> str:
    field = document.get("metadata", "name")
    name = field.text()
    if not _DNS_NAME.fullmatch(name):
        raise field.error("expected lower-case letters and digits, with - and . between them")
    return name


def _images(field: manifests.Field) -> tuple[images.Reference, ...]:
    references: dict[images.Reference, None] = {}
    for item in field.items():
        if len(item.text()) > caches.MAX_REFERENCE:
            raise item.error(f"expected at most {caches.MAX_REFERENCE} characters")
        try:
            references[images.parse_reference(item.text())] = None
        except images.ImageReferenceError as error:
            raise item.error(str(error)) from error
    if not references:
        raise field.error("expected at least one image")
    if len(references) > caches.MAX_IMAGES:
        raise field.error(f"expected at most {caches.MAX_IMAGES} images, not {len(references)}")
    return tuple(references)


def _pull_secrets(field: manifests.Field) -> tuple[caches.SecretName, ...]:
    """Alibaba writes `namespace:name`, Tencent `namespace/name`; both are accepted in each."""
    secrets: dict[caches.SecretName, None] = {}
    for item in field.items():
        match = _SECRET.fullmatch(item.text().strip())
        if not match or not _NAMESPACE.fullmatch(match[1]) or not _DNS_NAME.fullmatch(match[2]):
            raise item.error("expected namespace:name or namespace/name of a Secret")
        secrets[caches.SecretName(match[1], match[2])] = None
    if len(secrets) > caches.MAX_SECRETS:
        raise field.error(f"expected at most {caches.MAX_SECRETS} Secrets, not {len(secrets)}")
    return tuple(secrets)


def _serves(field: manifests.Field) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for item in field.items():
        if item.text() != caches.EVERY and not _NAMESPACE.fullmatch(item.text()):
            raise item.error(f"expected the name of a namespace, or {caches.EVERY} for all")
        names[item.text()] = None
    if not field.absent and not names:
        raise field.error(f"expected at least one namespace, or {caches.EVERY} for all")
    if len(names) > caches.MAX_NAMESPACES:
        raise field.error(f"expected at most {caches.MAX_NAMESPACES} namespaces, not {len(names)}")
    return tuple(names)


def _warm(spec: manifests.Field) -> tuple[bool, tuple[tuple[str, str], ...]]:
    """Whether nodes keep the images warm, and the labels that these nodes have."""
    warm, field = spec.get("keepWarm"), spec.get("nodeSelector")
    selector = field.labels()
    for name, value in selector.items():
        if not _LABEL_NAME.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
            raise field.error(f"expected labels of nodes, not {name}: {value}")
    if len(selector) > caches.MAX_LABELS:
        raise field.error(f"expected at most {caches.MAX_LABELS} labels, not {len(selector)}")
    return warm.boolean(), tuple(sorted(selector.items()))


def _size(field: manifests.Field) -> int:
    if field.absent:
        return caches.SIZE_DEFAULT
    try:
        return field.integer(at_least=caches.SIZE_MIN, at_most=caches.SIZE_MAX)
    except manifests.ManifestError as error:
        raise field.error(f"{error.reason} (GiB)") from error


def _retention(field: manifests.Field, dialect: caches.Dialect) -> int | None:
    if field.absent:
        return None
    lowest, highest = _RETENTION[dialect]
    try:
        return field.integer(at_least=lowest, at_most=highest) or None
    except manifests.ManifestError as error:
        raise field.error(f"{error.reason} (days)") from error
