"""Whether an automatic cache may use what it names to open registries: pure functions.

Its object was made by the agent of a node. Whoever takes a node over speaks with its
agent's voice and could name any Secret of the cluster, or any instance of a registry
that the builders' account opens; so the controller looks for the
pod that is said to want the cache. It has to be on the node that asks (which the
admission policy reads from the agent's token), to ask for automatic caches, and to
use these images with these Secrets and instances: what that node may read anyhow.
"""

from agent.control.caches import cache_object
from agent.matching import annotations
from agent.model import caches, images, pods


def problem(cache: cache_object.CacheObject) -> str:
    """What is wrong with what an object says of its pod, whatever there is; "": nothing."""
    origin, request = cache.origin, cache.request
    if origin is None or request is None or not origin.complete:
        return "it does not say for which pod, and on which node, it was made"
    for secret in request.pull_secrets:
        if secret.namespace != origin.namespace:
            return f"the Secret {secret} is not of the namespace of its pod, {origin.namespace}"
    return ""


def refusal(cache: cache_object.CacheObject, pod: pods.Pod | None) -> str:
    """Why they may not be used; "": they may. `pod` is None where there is none."""
    origin, request = cache.origin, cache.request
    if (wrong := problem(cache)) or origin is None or request is None:
        return wrong
    name = f"{origin.namespace}/{origin.pod}"
    if pod is None or pod.uid != origin.uid:
        return f"the pod {name} that wanted it is gone"
    if pod.node != origin.node:
        return f"the pod {name} is not on the node that asks, {origin.node}"
    if not annotations.request_of(pod).auto_create:
        return f"the pod {name} does not ask for automatic caches"
    missing = _missing(request, pod)
    return f"the pod {name} does not {missing}" if missing else ""


def _missing(request: caches.CacheRequest, pod: pods.Pod) -> str:
    """What a pod would have to do for a cache to be its; "": it does all of it."""
    used = _references(pod)
    for image in request.images:
        if image not in used:
            return f"use the image {image}"
    for secret in request.pull_secrets:
        if secret.name not in pod.pull_secrets:
            return f"use the Secret {secret.name}"
    named = caches.acr_instances_of(pod.annotations)
    for instance in request.acr_instances:
        if instance not in named:
            return f"name the instance {instance}"
    return ""


def _references(pod: pods.Pod) -> set[images.Reference]:
    found = set()
    for image in pod.images:
        try:
            found.add(images.parse_reference(image))
        except images.ImageReferenceError:
            continue
    return found
