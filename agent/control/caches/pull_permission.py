"""Whether an automatic cache may use what it names to open registries: pure functions.

Its object was created by the agent of a node. An attacker who controls a node has its agent's
credentials and could name any Secret of the cluster, or any instance of a registry that the
builders' account opens. So the controller looks for the pod that the object names. That pod
must be on the agent's node (which the admission policy reads from the agent's token), must ask
for automatic caches, and must use these images with these Secrets and instances, all of which
that node may read anyway.
"""

from agent.control.caches import cache_object
from agent.matching import annotations
from agent.model import caches, images, pods


def problem(cache: cache_object.CacheObject) -> str:
    """What is wrong with an object's own description of its pod; "" where it is complete."""
    origin, request = cache.origin, cache.request
    if origin is None or request is None or not origin.complete:
        return "it does not name the pod, and the node, for which it was created"
    for secret in request.pull_secrets:
        if secret.namespace != origin.namespace:
            return f"the Secret {secret} is not of the namespace of its pod, {origin.namespace}"
    return ""


def refusal(cache: cache_object.CacheObject, pod: pods.Pod | None) -> str:
    """Why the Secrets may not be used; "" where they may. `pod` is None where it does not exist."""
    origin, request = cache.origin, cache.request
    if (wrong := problem(cache)) or origin is None or request is None:
        return wrong
    name = f"{origin.namespace}/{origin.pod}"
    if pod is None or pod.uid != origin.uid:
        return f"the pod {name} for which it was created is gone"
    if pod.node != origin.node:
        return f"the pod {name} is not on the node of the agent that created it, {origin.node}"
    if not annotations.request_of(pod).auto_create:
        return f"the pod {name} does not ask for automatic caches"
    missing = _missing(request, pod)
    return f"the pod {name} does not {missing}" if missing else ""


def _missing(request: caches.CacheRequest, pod: pods.Pod) -> str:
    """What the pod lacks so that the cache could be for it; "" where it lacks nothing."""
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
    references = set()
    for image in pod.images:
        try:
            references.add(images.parse_reference(image))
        except images.ImageReferenceError:
            continue
    return references
