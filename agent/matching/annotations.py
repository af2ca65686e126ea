"""What a pod asks for, by the annotations and node labels of each cloud.

A named cache takes precedence over automatic matching, a newer key over the older one
of its cloud, and a native key over a cloud's. A contradiction is a remark and never an
error: a pod does not fail because of uimgacc.
"""

import dataclasses
import enum
from collections.abc import Iterator, Mapping

from agent.matching import runtimes
from agent.model import caches, keys, pods

WORDS = (
    keys.CACHE,
    keys.ALIBABA_PIN,
    keys.ALIBABA_PIN_LEGACY,
    keys.ALIBABA_AUTO,
    keys.ALIBABA_AUTO_LEGACY,
    keys.ALIBABA_PERFECT,
    keys.ALIBABA_COUNT,
    keys.TENCENT_CACHE,
)
"""The annotations by which a pod asks for a cache, or asks for none."""

KEYS = frozenset({*WORDS, keys.LOCAL, *keys.ACR_INSTANCE_NAMES})
"""All annotations that are read here; the others need not be kept in memory."""

_TRUE, _FALSE = "true", "false"
_MAX_ID = 253

NAMESPACE_VALUE = "auto"
"""The value of a namespace's label keys.CACHE that means something."""


class Mode(enum.Enum):
    """How a pod asks for a cache.

    LABEL: it selects nodes by uimgacc's label or UCloud's, RUNTIME: it names a
    uimgacc runtime class. In both, its images' names are what it asks for.
    """

    NONE = "none"
    EXPLICIT = "explicit"
    AUTOMATIC = "automatic"
    LABEL = "label"
    RUNTIME = "runtime"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a pod asks for.

    `key` is the annotation or label that decided; `cache` the ID (or, natively, the
    name) that it names. `perfect` wants one cache with all of the pod's images,
    `at_least` one with so many of them (0: any). `local` is when the pod wants its layers
    copied to the node's disk, None where it does not say, `misspelt` a sentence about a value
    that means nothing. `remarks` are for the pod's owner.
    """

    mode: Mode = Mode.NONE
    dialect: caches.Dialect = caches.Dialect.NATIVE
    key: str = ""
    cache: str = ""
    perfect: bool = False
    at_least: int = 0
    auto_create: bool = False
    local: caches.LocalMode | None = None
    misspelt: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether it asks for a cache at all."""
        return self.mode is not Mode.NONE


def in_namespace(annotations: Mapping[str, str], label: str) -> Mapping[str, str]:
    """The annotations of a pod in a namespace whose label keys.CACHE has this value; "" for none.

    `auto` stands for the annotation on pods that say nothing themselves, in any cloud's words.
    """
    if label != NAMESPACE_VALUE or any(key in annotations for key in WORDS):
        return annotations
    return {**annotations, keys.CACHE: NAMESPACE_VALUE}


def request_of(pod: pods.Pod, classes: Mapping[str, str] | None = None) -> Request:
    """What a pod asks for; `classes` as in `runtimes.handler_of`. Never raises."""
    request = _cache_request_of(pod, classes)
    if (text := pod.annotations.get(keys.LOCAL)) is None:
        return request
    return dataclasses.replace(
        request, local=caches.local_mode(text), misspelt=caches.local_problem(text)
    )


def _cache_request_of(pod: pods.Pod, classes: Mapping[str, str] | None) -> Request:
    remarks: list[str] = []
    asked = [
        request
        for request in (
            _native(pod.annotations, remarks),
            _alibaba(pod.annotations, remarks),
            _tencent(pod.annotations, remarks),
        )
        if request is not None
    ]
    # sort() is stable: among equals the native one comes first, then Alibaba, then Tencent.
    asked.sort(key=lambda request: request.mode is not Mode.EXPLICIT)
    refusal = _refusal(pod.annotations)
    if refusal and (refusal == keys.CACHE or not asked):
        remarks.extend(f"{other.key} is set as well: {refusal} decides" for other in asked)
        return Request(key=refusal, remarks=tuple(remarks))
    asked.extend(_by_name(pod, classes))
    if not asked:
        return Request(remarks=tuple(remarks))
    chosen = asked[0]
    remarks.extend(
        f"{other.key} is set as well: {chosen.key} decides"
        for other in asked[1:]
        if other.mode in (Mode.EXPLICIT, Mode.AUTOMATIC)
    )
    return dataclasses.replace(chosen, remarks=tuple(remarks))


def _refusal(annotations: Mapping[str, str]) -> str:
    """The key by which a pod wants no cache, "" where it does not say so.

    The native one overrides everything, Alibaba's what is not an annotation.
    """
    for key in (keys.CACHE, keys.ALIBABA_AUTO):
        if annotations.get(key, "").strip().lower() == _FALSE:
            return key
    return ""


def _native(annotations: Mapping[str, str], remarks: list[str]) -> Request | None:
    value = annotations.get(keys.CACHE, "").strip()
    if value.lower() == _FALSE or not value:
        if keys.CACHE in annotations and not value:
            remarks.append(f"{keys.CACHE} is empty: expected auto, imc-... or a cache's name")
        return None
    if value.lower() in ("auto", _TRUE):
        return Request(mode=Mode.AUTOMATIC, key=keys.CACHE, auto_create=True)
    return Request(mode=Mode.EXPLICIT, key=keys.CACHE, cache=value[:_MAX_ID])


def _alibaba(annotations: Mapping[str, str], remarks: list[str]) -> Request | None:
    pins = {
        key: annotations[key].strip()
        for key in (keys.ALIBABA_PIN, keys.ALIBABA_PIN_LEGACY)
        if annotations.get(key, "").strip()
    }
    automatic = _alibaba_automatic(annotations, remarks)
    if pins:
        key, pin = next(iter(pins.items()))
        if len(set(pins.values())) > 1:
            remarks.append(
                f"{keys.ALIBABA_PIN_LEGACY} names another cache: {keys.ALIBABA_PIN} decides"
            )
        if automatic:
            remarks.append(f"{automatic} is set as well: {key} decides")
        return Request(
            mode=Mode.EXPLICIT, dialect=caches.Dialect.ALIBABA, key=key, cache=pin[:_MAX_ID]
        )
    if not automatic:
        return None
    perfect = _boolean(annotations, keys.ALIBABA_PERFECT, remarks) is True
    at_least = _count(annotations, remarks)
    if perfect and at_least:
        remarks.append(f"{keys.ALIBABA_COUNT} is set as well: {keys.ALIBABA_PERFECT} decides")
        at_least = 0
    return Request(
        mode=Mode.AUTOMATIC,
        dialect=caches.Dialect.ALIBABA,
        key=automatic,
        perfect=perfect,
        at_least=at_least,
        auto_create=True,
    )


def _alibaba_automatic(annotations: Mapping[str, str], remarks: list[str]) -> str:
    """The key that asks for automatic matching, "" where none does.

    At Alibaba an absent eci-auto-imc means "true", for every pod. In a cluster of
    ordinary nodes that default holds only for pods with another key of the family;
    "false" overrides the older key, too.
    """
    newer = _boolean(annotations, keys.ALIBABA_AUTO, remarks)
    older = _boolean(annotations, keys.ALIBABA_AUTO_LEGACY, remarks)
    if newer is not None:
        if older is not None and older is not newer:
            remarks.append(
                f"{keys.ALIBABA_AUTO_LEGACY} says otherwise: {keys.ALIBABA_AUTO} decides"
            )
        return keys.ALIBABA_AUTO if newer else ""
    if older is not None:
        return keys.ALIBABA_AUTO_LEGACY if older else ""
    if _boolean(annotations, keys.ALIBABA_PERFECT, []) is True:
        return keys.ALIBABA_PERFECT
    return keys.ALIBABA_COUNT if _count(annotations, []) else ""


def _tencent(annotations: Mapping[str, str], remarks: list[str]) -> Request | None:
    value = annotations.get(keys.TENCENT_CACHE, "").strip()
    if not value:
        if keys.TENCENT_CACHE in annotations:
            remarks.append(f"{keys.TENCENT_CACHE} is empty: expected auto or imc-...")
        return None
    if value.lower() == "auto":
        # Tencent's automatic mode matches what there is; it creates nothing.
        return Request(mode=Mode.AUTOMATIC, dialect=caches.Dialect.TENCENT, key=keys.TENCENT_CACHE)
    return Request(
        mode=Mode.EXPLICIT,
        dialect=caches.Dialect.TENCENT,
        key=keys.TENCENT_CACHE,
        cache=value[:_MAX_ID],
    )


def _by_name(pod: pods.Pod, classes: Mapping[str, str] | None) -> Iterator[Request]:
    if pod.asks_for_node_with(keys.CAPABLE_UCLOUD, _TRUE):
        yield Request(mode=Mode.LABEL, dialect=caches.Dialect.UCLOUD, key=keys.CAPABLE_UCLOUD)
    if pod.asks_for_node_with(keys.CAPABLE, _TRUE):
        yield Request(mode=Mode.LABEL, key=keys.CAPABLE)
    if runtimes.uses_snapshotter(pod, classes):
        yield Request(mode=Mode.RUNTIME, key="runtimeClassName")


def _boolean(annotations: Mapping[str, str], key: str, remarks: list[str]) -> bool | None:
    if key not in annotations:
        return None
    value = annotations[key].strip().lower()
    if value not in (_TRUE, _FALSE):
        remarks.append(f'{key}: expected "true" or "false", not {annotations[key][:80]!r}')
        return None
    return value == _TRUE


def _count(annotations: Mapping[str, str], remarks: list[str]) -> int:
    text = annotations.get(keys.ALIBABA_COUNT, "").strip()
    if text.isascii() and text.isdigit() and 0 < len(text) <= 4 and int(text) > 0:
        return int(text)
    if keys.ALIBABA_COUNT in annotations:
        remarks.append(f"{keys.ALIBABA_COUNT}: expected a number of images, not {text[:80]!r}")
    return 0
