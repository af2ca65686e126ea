"""Making stores and pods for tests: images by name with layers by letter.

`image("nginx:1.27", "ab")` has layers a and b, bottom first; layer a is 1 MiB,
b 2 MiB and so on, so that sizes show which layers were counted.
"""

import hashlib
from collections.abc import Iterable, Sequence

from agent.matching import annotations, decisions, rules, subjects
from agent.model import caches, digests, images, pods, records

MIB = 1 << 20
MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"


def digest(text: str) -> str:
    """A digest that a name stands for."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def layer_size(letter: str) -> int:
    """The compressed size of the layer of a letter."""
    return (ord(letter) - ord("a") + 1) * MIB


def reference(text: str) -> images.Reference:
    """A reference, normalised."""
    return images.parse_reference(text)


def target(ref: str, letters: str) -> str:
    """The target of an image: its content decides, not its name."""
    return digest(f"index {letters}")


def image(ref: str, letters: str, *, platform: str = "linux/amd64") -> records.ImageRecord:
    """The record of an image."""
    diff_ids = [digest(f"layer {letter}") for letter in letters]
    layers = [
        records.ImageLayer(
            diff_id=diff_id,
            chain_id=chain_id,
            digest=digest(f"blob {letter}"),
            media_type="application/vnd.oci.image.layer.v1.tar+gzip",
            size=layer_size(letter),
            tar_size=2 * layer_size(letter),
            erofs_size=layer_size(letter),
        )
        for letter, diff_id, chain_id in zip(
            letters, diff_ids, digests.chain_ids(diff_ids), strict=True
        )
    ]
    return records.ImageRecord(
        ref=str(images.parse_reference(ref)),
        target=target(ref, letters),
        target_media_type=MEDIA_TYPE,
        target_size=500,
        platforms=[
            records.PlatformImage(
                platform=platform,
                manifest=digest(f"manifest {letters}"),
                manifest_media_type=MEDIA_TYPE,
                manifest_size=500,
                config=digest(f"config {letters}"),
                layers=layers,
            )
        ],
        created="2026-01-01T00:00:00Z",
    )


def cache(
    cache_id: str,
    held: Iterable[tuple[str, str]],
    *,
    name: str = "",
    namespaces: Sequence[str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
    capacity_gib: int = 20,
    local: str = "",
    moved: Sequence[records.MovedTag] = (),
) -> caches.Cache:
    """A Ready cache of (reference, letters of its layers)."""
    cached = [
        records.CachedImage(
            ref=str(images.parse_reference(ref)),
            target=target(ref, letters),
            size=sum(layer_size(letter) for letter in letters),
            layers=[digest(f"layer {letter}") for letter in letters],
        )
        for ref, letters in held
    ]
    return caches.cache_of(
        records.CacheRecord(
            id=cache_id,
            name=name or f"name-of-{cache_id}",
            images=cached,
            size=sum(each.size for each in cached),
            capacity=capacity_gib << 30,
            created=created,
            namespaces=None if namespaces is None else list(namespaces),
            local=local,
            moved=list(moved),
        )
    )


def pod(
    *wanted: str,
    namespace: str = "default",
    annotated: dict[str, str] | None = None,
    secrets: Sequence[str] = (),
    runtime_class: str = "",
    volume: str = "",
) -> pods.Pod:
    """A pod with one container an image, and with an image as a volume if one is named."""
    mounted = pods.Container(name="v", image=volume, kind=pods.ContainerKind.VOLUME)
    return pods.Pod(
        namespace=namespace,
        name="pod",
        annotations=annotated or {},
        containers=(
            *(pods.Container(name=f"c{index}", image=text) for index, text in enumerate(wanted)),
            *([mounted] if volume else []),
        ),
        pull_secrets=tuple(secrets),
        runtime_class=runtime_class,
    )


def decide(
    asking: pods.Pod,
    cache_views: Sequence[caches.Cache],
    stored: Iterable[records.ImageRecord],
    *,
    platform: str | None = "linux/amd64",
    unfinished: Sequence[str] = (),
) -> decisions.Decision:
    """Do as the agent does: read the request, look records up, decide."""
    by_name = {record.ref: record for record in stored}
    looked_up = subjects.references_to_look_up(asking, cache_views)
    return rules.decide(
        asking,
        annotations.request_of(asking),
        cache_views,
        {str(reference): by_name.get(str(reference)) for reference in looked_up},
        platform=None if platform is None else images.parse_platform(platform),
        unfinished=unfinished,
    )
