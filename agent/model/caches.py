"""Image caches: what one is asked to hold, what one that is Ready holds, their IDs.

One internal form for three dialects of the manifest: the native one, Alibaba Cloud ECI's
and Tencent Cloud TKE's. What a pod may ask for is in `agent.matching`.
"""

import base64
import dataclasses
import datetime
import enum
import hashlib
import re
from collections.abc import Iterable, Mapping

from agent.model import images, keys, manifests, records, times

MAX_IMAGES = 20
MAX_SECRETS = 20
MAX_REFERENCE = 512
"""The longest reference of an image, in characters."""

SIZE_DEFAULT = 20
SIZE_MIN, SIZE_MAX = 20, 32768
SIZE_AUTO = 30


_DNS_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SECRET = re.compile(r"([^:/]*)[:/]([^:/]*)")


class Dialect(enum.Enum):
    """Whose words a manifest or an annotation uses."""

    NATIVE = "native"
    ALIBABA = "alibaba"
    TENCENT = "tencent"
    UCLOUD = "ucloud"


GROUPS = {
    keys.GROUP: Dialect.NATIVE,
    keys.ALIBABA_GROUP: Dialect.ALIBABA,
    keys.TENCENT_GROUP: Dialect.TENCENT,
}
"""API group of an ImageCache -> the dialect of its manifest; the version is v1 in each."""

_RETENTION = {
    Dialect.NATIVE: (1, 65536),
    Dialect.ALIBABA: (1, 65536),
    # Tencent's operator: 0 (its default) is for ever.
    Dialect.TENCENT: (0, 3650),
    Dialect.UCLOUD: (1, 65536),
}

SPEC_FIELDS = {"images", "imagePullSecrets", "imageCacheSize", "retentionDays"}
MAX_NAMESPACES = 100

EVERY = "*"
"""In the place of a namespace: all of them."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class SecretName:
    """A Secret of type docker config JSON, in its namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CacheRequest:
    """What a cache is to hold, from an ImageCache manifest or a pod that asked for one.

    `serves` are the namespaces that the manifest names, where it names any (EVERY: all).
    `size_gib` limits the bytes of its layer files. `retention_days` is None for
    ever. `auto` is True where a pod caused it; with `acr_instances` it has its own namespace
    in `serves`, as with `pull_secrets` in those. `reuse` is kept for the status only:
    layers are stored by content, so every build uses what is there. `architecture`
    is "" for the platforms that the builder is set to. `remarks` are sentences for
    the author of the manifest.
    """

    name: str
    images: tuple[images.Reference, ...]
    dialect: Dialect = Dialect.NATIVE
    pull_secrets: tuple[SecretName, ...] = ()
    serves: tuple[str, ...] = ()
    size_gib: int = SIZE_DEFAULT
    retention_days: int | None = None
    reuse: bool = False
    auto: bool = False
    architecture: str = ""
    plain_http_registries: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    acr_instances: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def capacity(self) -> int:
        """The size limit in bytes."""
        return self.size_gib << 30

    @property
    def namespaces(self) -> list[str] | None:
        """Whom the cache serves, None for all: what is named, else those of its pull secrets."""
        if self.serves:
            return None if EVERY in self.serves else sorted(set(self.serves))
        if not self.pull_secrets:
            return None
        return sorted({secret.namespace for secret in self.pull_secrets})

    @property
    def cache_id(self) -> str:
        """The ID of the cache; the same request has the same one on every node."""
        if self.auto:
            return id_of_images(
                self.images,
                pull_secrets=self.pull_secrets,
                acr_instances=self.acr_instances,
                serves=self.serves,
            )
        return id_of_name(self.name, dialect=self.dialect)


def id_of_name(name: str, *, dialect: Dialect = Dialect.NATIVE) -> str:
    """The ID of the cache with this name; each dialect has names of its own."""
    return _cache_id("name", dialect.value, name)


def id_of_images(
    references: Iterable[images.Reference],
    *,
    pull_secrets: Iterable[SecretName] = (),
    acr_instances: Iterable[str] = (),
    serves: Iterable[str] = (),
) -> str:
    """The ID of the cache that is made on demand for a set of images.

    Order and repetition do not matter. Pull secrets are part of it: what they open
    is not for the pods that do not have them. So are instances of a registry, with the
    namespaces that are served.
    """
    named = sorted({str(reference) for reference in references})
    secrets = sorted({str(secret) for secret in pull_secrets})
    instances = sorted(set(acr_instances))
    opened = ["instances", *instances, "namespaces", *sorted(set(serves))] if instances else []
    return _cache_id("images", *named, "secrets", *secrets, *opened)


def name_of_auto_cache(cache_id: str) -> str:
    """The name of the ImageCache object that is made on demand under an ID."""
    return f"auto-{cache_id.removeprefix('imc-')}"


def group_of(cache_id: str, name: str) -> str:
    """The API group of a cache's object, by the ID and the name that its record has."""
    for group, dialect in GROUPS.items():
        if cache_id == id_of_name(name, dialect=dialect):
            return group
    # Made on demand, which the native kind is for.
    return next(iter(GROUPS))


def is_auto_cache(cache_id: str, name: str) -> bool:
    """Whether the object of a cache was made on demand: its name follows from the ID."""
    return name == name_of_auto_cache(cache_id)


def _cache_id(*parts: str) -> str:
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return f"imc-{base64.b32encode(digest).decode().lower()[:20]}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A Ready cache as matching reads it: its record, with what is asked often at hand.

    `by_name` has its images by registry and repository, `layers` the diff IDs of
    all of them.
    """

    record: records.CacheRecord
    by_name: Mapping[str, tuple[tuple[images.Reference, records.CachedImage], ...]]
    layers: frozenset[str]
    image_bytes: int
    created: datetime.datetime

    @property
    def id(self) -> str:
        """`imc-...`."""
        return self.record.id

    @property
    def name(self) -> str:
        """The name of its ImageCache object."""
        return self.record.name

    def serves(self, namespace: str) -> bool:
        """Whether pods of this namespace may be given its images without the registry."""
        return self.record.namespaces is None or namespace in self.record.namespaces

    def of_repository(self, reference: images.Reference) -> tuple[records.CachedImage, ...]:
        """Its images of the same registry and repository, whatever their version."""
        return tuple(image for _, image in self.by_name.get(reference.name, ()))

    def image(self, reference: images.Reference) -> records.CachedImage | None:
        """Its image that this reference names: the same tag, or the digest asked for."""
        for held, image in self.by_name.get(reference.name, ()):
            if reference.digest:
                if reference.digest in (image.target, held.digest):
                    return image
            elif held.tag == reference.tag and not held.digest:
                return image
        return None

    def has_target(self, reference: images.Reference, target: str) -> bool:
        """Whether it has, of the repository named, exactly this index or manifest."""
        return any(image.target == target for image in self.of_repository(reference))


def cache_of(record: records.CacheRecord) -> Cache:
    """The view of a record. An image whose reference cannot be read is left out."""
    by_name: dict[str, list[tuple[images.Reference, records.CachedImage]]] = {}
    for image in record.images:
        try:
            reference = images.parse_reference(image.ref)
        except images.ImageReferenceError:
            continue
        by_name.setdefault(reference.name, []).append((reference, image))
    held = [image for pairs in by_name.values() for _, image in pairs]
    return Cache(
        record=record,
        by_name={name: tuple(pairs) for name, pairs in by_name.items()},
        layers=frozenset(layer for image in held for layer in image.layers),
        image_bytes=sum(image.size for image in held),
        created=times.parse(record.created) or times.EPOCH,
    )


def parse_request(manifest: Mapping[str, object]) -> CacheRequest:
    """Read an ImageCache manifest in any of the dialects.

    Raises ManifestError, which names the field, for what no cloud would accept.
    """
    document = manifests.document(manifest)
    dialect = _dialect(document)
    spec = document.get("spec")
    if spec.absent:
        raise spec.error("expected a mapping with images")
    annotations = document.get("metadata", "annotations").labels()
    return CacheRequest(
        name=_name(document),
        dialect=dialect,
        images=_images(spec.get("images")),
        pull_secrets=_pull_secrets(spec.get("imagePullSecrets")),
        serves=_serves(spec.get("namespaces")) if dialect is Dialect.NATIVE else (),
        size_gib=_size(spec.get("imageCacheSize")),
        retention_days=_retention(spec.get("retentionDays"), dialect),
        reuse=_first_of(annotations, keys.REUSE_NAMES).lower() == "true",
        architecture=_first_of(annotations, keys.ARCHITECTURE_NAMES),
        plain_http_registries=_list_of(annotations, keys.PLAIN_HTTP_NAMES),
        insecure_registries=_list_of(annotations, keys.INSECURE_NAMES),
        acr_instances=acr_instances_of(annotations),
        remarks=tuple(
            f"spec.{key}: not known here, ignored"
            for key in map(str, spec.mapping())
            if key not in SPEC_FIELDS and (key != "namespaces" or dialect is not Dialect.NATIVE)
        ),
    )


def _dialect(document: manifests.Field) -> Dialect:
    kind = document.get("kind")
    if kind.text() != keys.IMAGE_CACHE:
        raise kind.error(f"expected {keys.IMAGE_CACHE}, not {kind.text()}")
    version = document.get("apiVersion")
    group, _, number = version.text().partition("/")
    if group not in GROUPS or number != "v1":
        known = ", ".join(f"{name}/v1" for name in GROUPS)
        raise version.error(f"expected one of {known}, not {version.text()}")
    return GROUPS[group]


def _name(document: manifests.Field) -> str:
    field = document.get("metadata", "name")
    name = field.text()
    if not _DNS_NAME.fullmatch(name):
        raise field.error("expected lower-case letters and digits, with - and . between them")
    return name


def _images(field: manifests.Field) -> tuple[images.Reference, ...]:
    found: dict[images.Reference, None] = {}
    for item in field.items():
        if len(item.text()) > MAX_REFERENCE:
            raise item.error(f"expected at most {MAX_REFERENCE} characters")
        try:
            found[images.parse_reference(item.text())] = None
        except images.ImageReferenceError as error:
            raise item.error(str(error)) from error
    if not found:
        raise field.error("expected at least one image")
    if len(found) > MAX_IMAGES:
        raise field.error(f"expected at most {MAX_IMAGES} images, not {len(found)}")
    return tuple(found)


def _pull_secrets(field: manifests.Field) -> tuple[SecretName, ...]:
    """Alibaba writes `namespace:name`, Tencent `namespace/name`; each takes both here."""
    found: dict[SecretName, None] = {}
    for item in field.items():
        match = _SECRET.fullmatch(item.text().strip())
        if not match or not _NAMESPACE.fullmatch(match[1]) or not _DNS_NAME.fullmatch(match[2]):
            raise item.error("expected namespace:name or namespace/name of a Secret")
        found[SecretName(match[1], match[2])] = None
    if len(found) > MAX_SECRETS:
        raise field.error(f"expected at most {MAX_SECRETS} Secrets, not {len(found)}")
    return tuple(found)


def _serves(field: manifests.Field) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for item in field.items():
        if item.text() != EVERY and not _NAMESPACE.fullmatch(item.text()):
            raise item.error(f"expected the name of a namespace, or {EVERY} for all")
        found[item.text()] = None
    if not field.absent and not found:
        raise field.error(f"expected at least one namespace, or {EVERY} for all")
    if len(found) > MAX_NAMESPACES:
        raise field.error(f"expected at most {MAX_NAMESPACES} namespaces, not {len(found)}")
    return tuple(found)


def _size(field: manifests.Field) -> int:
    if field.absent:
        return SIZE_DEFAULT
    try:
        return field.integer(at_least=SIZE_MIN, at_most=SIZE_MAX)
    except manifests.ManifestError as error:
        raise field.error(f"{error.reason} (GiB)") from error


def _retention(field: manifests.Field, dialect: Dialect) -> int | None:
    if field.absent:
        return None
    lowest, highest = _RETENTION[dialect]
    try:
        return field.integer(at_least=lowest, at_most=highest) or None
    except manifests.ManifestError as error:
        raise field.error(f"{error.reason} (days)") from error


def acr_instances_of(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The instances of Alibaba's Container Registry that an object or a pod names."""
    return _list_of(annotations, keys.ACR_INSTANCE_NAMES)


def _first_of(annotations: Mapping[str, str], keys: Iterable[str]) -> str:
    return next((annotations[key].strip() for key in keys if key in annotations), "")


def _list_of(annotations: Mapping[str, str], keys: Iterable[str]) -> tuple[str, ...]:
    parts = _first_of(annotations, keys).split(",")
    return tuple(part.strip() for part in parts if part.strip())
