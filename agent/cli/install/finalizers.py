"""Removes the finalizer of ImageCaches whose controller is not there any more to do so.

The controller holds each object by a finalizer until its record has left the store.
Without a controller the finalizer would stay for ever, and neither `kubectl delete` of an
object nor that of its kind would end.
"""

from agent.clients.kube import refusals, rest_client
from agent.model import caches, keys

_TRIES = 10


async def release_all(client: rest_client.Client) -> int:
    """Remove uimgacc's finalizer, and no other, from all objects; return how many had it."""
    count = 0
    for group in caches.GROUPS:
        resource = rest_client.Resource(group=group, plural="imagecaches")
        try:
            held = [
                body["metadata"]
                async for page in client.pages(resource)
                for body in page.items
                if keys.FINALIZER in body["metadata"].get("finalizers", ())
            ]
        except refusals.NotFound:
            continue  # that dialect is not installed
        for meta in held:
            await _release(client, resource, meta)
        count += len(held)
    return count


async def _release(
    client: rest_client.Client, resource: rest_client.Resource, meta: rest_client.Object
) -> None:
    """Only as it was read: others may add a finalizer of theirs at this moment."""
    for left in reversed(range(_TRIES)):
        kept = [each for each in meta.get("finalizers", ()) if each != keys.FINALIZER]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"], "finalizers": kept}}
        try:
            await client.patch(resource, meta["name"], body)
        except refusals.NotFound:
            return
        except refusals.Conflict:
            if not left:
                raise
            try:
                meta = (await client.get(resource, meta["name"]))["metadata"]
            except refusals.NotFound:
                return
        else:
            return
