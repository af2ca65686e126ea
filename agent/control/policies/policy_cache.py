"""The ImageCache of an image that a policy has cached: its name and its manifest; pure."""

import hashlib
import json
from typing import Any

from agent.control.caches import cache_object
from agent.control.policies import policy_object
from agent.model import cache_manifest, caches, keys

GROWTH = 2
"""What a layer file may take of the store, times the compressed blob: lz4 in place of gzip."""
_LIMIT_GROWTH = 3
_NAME = 40


def name_of(policy: str, image: str) -> str:
    """The name of the object; the same for the same policy and image."""
    digest = hashlib.sha256(f"{policy}\n{image}".encode()).hexdigest()[:10]
    repository = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    plain = "".join(each if each.isalnum() else "-" for each in repository)[:_NAME].strip("-")
    return f"{policy}-{plain or 'image'}-{digest}"


def image_of(cache: cache_object.CacheObject) -> str:
    """The image of a cache that is its policy's; "" where it is no policy's.

    The label alone is not enough: a person may have set it on an object of their own.
    """
    request = cache.request
    if not cache.policy or request is None or len(request.images) != 1:
        return ""
    image = str(request.images[0])
    return image if name_of(cache.policy, image) == cache.key.name else ""


def manifest(
    policy: policy_object.Policy, spec: policy_object.Spec, image: str, *, size_gib: int
) -> dict[str, Any]:
    """What is applied for an image; `size_gib` is its limit where the policy names none.

    The policy owns it, unless it is to stay: then the garbage collector leaves it.
    """
    template = spec.template
    body = cache_manifest.write(
        cache_manifest.Draft(
            name=name_of(policy.name, image),
            images=[image],
            pull_secrets=template.pull_secrets,
            namespaces=template.serves,
            size_gib=template.size_gib or size_gib,
            keep_warm=template.keep_warm,
            node_selector=template.node_selector,
            labels={keys.POLICY: policy.name},
            annotations={**template.annotations, keys.POLICY_SPEC: spec_hash(policy, spec)},
        )
    )
    if not spec.keep:
        owner = {
            "apiVersion": keys.POLICY_VERSION,
            "kind": keys.IMAGE_CACHE_POLICY,
            "name": policy.name,
            "uid": policy.uid,
            "controller": True,
        }
        body["metadata"]["ownerReferences"] = [owner]
    return body


def limit_of(size: int) -> int:
    """The limit, in GiB, of a cache of an image whose download has so many bytes, 0: unknown."""
    limit = -(-_LIMIT_GROWTH * size >> 30)
    return min(max(caches.SIZE_DEFAULT, limit), caches.SIZE_MAX)


def spec_hash(policy: policy_object.Policy, spec: policy_object.Spec) -> str:
    """The hash of what the caches follow from, but their image: with another one they are applied.

    The size of the image is left out: another figure of it changes no cache that is there.
    """
    template = spec.template
    parts = [
        policy.uid,
        spec.keep,
        template.pull_secrets,
        template.serves,
        template.size_gib,
        template.keep_warm,
        sorted(template.node_selector.items()),
        sorted(template.annotations.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
