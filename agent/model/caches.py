"""Image caches as values: what a cache is requested to hold, what a Ready one holds, their IDs.

There is one internal form for the three dialects of the manifest (agent.model.cache_manifest).
What a pod may ask for is in `agent.matching`.
"""

import base64
import dataclasses
import datetime
import enum
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from agent.model import images, keys, records, times

MAX_IMAGES = 20
MAX_SECRETS = 20
MAX_REFERENCE = 512
"""The longest reference of an image, in characters."""

SIZE_DEFAULT = 20
SIZE_MIN, SIZE_MAX = 20, 32768
SIZE_AUTO = 30


class Dialect(enum.Enum):
    """Whose names a manifest or an annotation uses."""

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

MAX_NAMESPACES = 100

EVERY = "*"
"""In the place of a namespace: all of them."""

LocalMode = Literal["off", "after-start", "before-start"]
"""When layers are copied from the store to a node's disk: never, while containers run on them,
or before a container starts."""

LOCAL_MODES: Sequence[LocalMode] = get_args(LocalMode)
"""All of them, the weakest first."""

MAX_LABELS = 20
"""Labels that a node selector may have."""

_REMEMBERED = 128
"""Names whose ID is remembered: one step of the controller asks for that of its cache ten times."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServeStale:
    """What pods are given of an image whose tag the registry has moved since the cache was built.

    For `seconds` from when that was noticed, the cached image (None: until the cache is built
    again); afterwards it is left to the ordinary pull. Where the cache is not `rebuilt`, it stays
    what it was when it was built, as the clouds' caches do.
    """

    seconds: float | None = None
    rebuilt: bool = True

    def __str__(self) -> str:
        if not self.rebuilt:
            return "always"
        if self.seconds is None:
            return "until-rebuilt"
        if not self.seconds:
            return "never"
        minutes, rest = divmod(round(self.seconds), 60)
        return f"for {60 * minutes + rest}s" if rest else f"for {minutes}m"


_STALE_UNITS = {"s": 1, "m": 60, "h": 3600}
_STALE_FOR = re.compile(r"for\s+(\d{1,7})\s*([smh])")
_STALE_WORDS = {
    "always": ServeStale(rebuilt=False),
    "until-rebuilt": ServeStale(),
    "never": ServeStale(0.0),
}


def serve_stale(text: str) -> ServeStale | None:
    """The policy that a text names (`always`, `until-rebuilt`, `for 10m`, `never`), else None."""
    text = text.strip().lower()
    if match := _STALE_FOR.fullmatch(text):
        return ServeStale(float(int(match[1]) * _STALE_UNITS[match[2]]))
    return _STALE_WORDS.get(text)


def serve_stale_problem(text: str) -> str:
    """What is wrong with the value of keys.SERVE_STALE, as a sentence; "" where nothing is."""
    if serve_stale(text) is not None:
        return ""
    return f"{keys.SERVE_STALE}: {stale_expected(text)}; it is ignored."


def stale_expected(text: str) -> str:
    """What a policy has to look like, where a text is none."""
    return f"expected always, until-rebuilt, never, or a time such as for 10m, not {text[:80]!r}"


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
    `keep_warm`: nodes with all labels of `node_selector` make the images present before any pod.
    `local` is None where the nodes decide, `stale` where the controller does.
    `size_gib` limits the bytes of its layer files. `retention_days` is None for
    ever. `auto` is True where a pod caused it; with `acr_instances` it has its own namespace
    in `serves`, as with `pull_secrets` in those. `reuse` is kept for the status only:
    layers are stored by content, so every build uses what is there. `architecture`
    is "" for the platforms that the builder is set to. `remarks` are sentences for the
    author of the manifest, `warnings` those of them about what would have an effect if it were
    written otherwise.
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
    keep_warm: bool = False
    node_selector: tuple[tuple[str, str], ...] = ()
    local: LocalMode | None = None
    stale: ServeStale | None = None
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

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


@functools.lru_cache(maxsize=_REMEMBERED)
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

    @property
    def serves_all(self) -> bool:
        """Whether it serves all namespaces: no registry need be asked for any pod."""
        return self.record.namespaces is None

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

    @property
    def local(self) -> LocalMode | None:
        """When nodes are to copy its layers; None where they decide."""
        return local_mode(self.record.local)

    def is_warm_on(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels makes its images present before any pod."""
        wanted = self.record.node_selector.items()
        return self.record.keep_warm and all(labels.get(key) == value for key, value in wanted)

    def moved(self, reference: images.Reference) -> records.MovedTag | None:
        """What is known of a tag that the registry has moved since; None for a digest."""
        if reference.digest or not self.record.moved:
            return None
        return next((each for each in self.record.moved if each.ref == str(reference)), None)

    def withholds(self, reference: images.Reference) -> bool:
        """Whether the registry is to be asked for this tag, although the cache has it."""
        moved = self.moved(reference)
        return moved is not None and moved.withheld

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


def local_mode(text: str) -> LocalMode | None:
    """The mode that a text names; None where it names none."""
    return next((mode for mode in LOCAL_MODES if mode == text.strip().lower()), None)


def local_problem(text: str) -> str:
    """What is wrong with the value of keys.LOCAL, as a sentence; "" where nothing is."""
    if local_mode(text) is not None:
        return ""
    expected = f"{', '.join(LOCAL_MODES[:-1])} or {LOCAL_MODES[-1]}"
    return f"{keys.LOCAL}: expected {expected}, not {text[:80]!r}; it is ignored."


def strongest(modes: Iterable[LocalMode | None]) -> LocalMode | None:
    """The mode by which a layer is copied first; None where no mode is given."""
    given = [mode for mode in modes if mode is not None]
    return max(given, key=LOCAL_MODES.index, default=None)


def acr_instances_of(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The instances of Alibaba's Container Registry that an object or a pod names."""
    return list_of(annotations, keys.ACR_INSTANCE_NAMES)


def first_of(annotations: Mapping[str, str], names: Iterable[str]) -> str:
    """The value under the first of several names that is there; "" without any."""
    return next((annotations[key].strip() for key in names if key in annotations), "")


def list_of(annotations: Mapping[str, str], names: Iterable[str]) -> tuple[str, ...]:
    """The parts, between commas, of the value under the first of several names."""
    parts = first_of(annotations, names).split(",")
    return tuple(part.strip() for part in parts if part.strip())
