"""The ImageCache objects of a cluster, in all dialects, as commands read and show them."""

import dataclasses
from typing import Any

from agent.cli import output
from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object, cache_state, status_format
from agent.model import caches, keys

_NO_KIND = "this cluster has no ImageCaches{}: `uimgacc enable` installs them"


def resource_of(group: str) -> rest_client.Resource:
    """ImageCaches of an API group."""
    return rest_client.Resource(group=group, plural="imagecaches")


def not_installed(group: str = "") -> output.NotFound:
    """The error for a cluster without the kind ImageCache, in one API group or in all of them."""
    named = f" of {group}" if group else ""
    return output.NotFound(_NO_KIND.format(named), name=group or keys.IMAGE_CACHE)


async def read_all(client: rest_client.Client) -> list[cache_object.CacheObject]:
    """All ImageCaches, sorted by key; raise NotFound where the cluster does not have the kind."""
    caches_read, missing = [], 0
    for group in caches.GROUPS:
        try:
            caches_read += [
                cache_object.parse(body)
                async for page in client.pages(resource_of(group))
                for body in page.items
            ]
        except refusals.NotFound:
            missing += 1  # the CRD of that dialect is not installed
    if missing == len(caches.GROUPS):
        raise not_installed()
    return sorted(caches_read, key=lambda each: each.key)


async def find(client: rest_client.Client, name: str) -> cache_object.CacheObject:
    """The ImageCache with a name or cache ID; raise NotFound, or UsageError where several match."""
    matching = [each for each in await read_all(client) if name in (each.key.name, each.cache_id)]
    if not matching:
        raise output.NotFound(f"no image cache {name} in this cluster", name=name)
    if len(matching) > 1:
        ids = ", ".join(each.cache_id for each in matching)
        raise output.UsageError(f"several image caches are called {name}; give the ID: {ids}")
    return matching[0]


def phase_of(each: cache_object.CacheObject) -> str:
    """The phase that is shown to people: `Deleting` stands for any phase of a deleted object."""
    if each.deleted is not None:
        return "Deleting"
    return (each.state.phase or cache_state.Phase.PENDING).value


def described(each: cache_object.CacheObject) -> dict[str, Any]:
    """What --json prints for one ImageCache. Programs depend on it: do not rename a field."""
    return {
        "name": each.key.name,
        "group": each.key.group,
        "id": each.cache_id,
        "phase": phase_of(each),
        "progress": each.state.progress,
        "message": each.state.message,
        "size": each.state.size,
        "created": status_format.stamp(each.created),
        "last_matched": status_format.stamp(each.matched),
        "images": [dataclasses.asdict(image) for image in each.state.images],
        "tags": {
            "confirmed": status_format.stamp(each.state.tags.confirmed),
            "moved": [
                {"image": moved.image, "digest": moved.digest, "withheld": moved.withheld}
                for moved in each.state.tags.moved
            ],
            "problem": each.state.tags.problem,
        },
    }
