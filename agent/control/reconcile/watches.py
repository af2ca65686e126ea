"""The watches of the controller: image caches of all dialects, build Jobs and their pods.

The kinds of the clouds may be installed, or removed, at any time. Nothing is written
from here.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent.clients.kube import reflector, rest_client, selection
from agent.kits.aio import tasks
from agent.model import caches, keys

Object = Mapping[str, Any]


Deliver = Callable[[str, str | None, Object], None]
"""Takes a plural, what has happened (MODIFIED also for a new object, or DELETED), and the object.

Of a deleted object there are apiVersion, name and uid only.
"""


class Watcher:
    """Watches image caches, and the builders in `namespace`; `deliver` takes each change."""

    def __init__(self, client: rest_client.Client, *, namespace: str, deliver: Deliver) -> None:
        self._client = client
        self._namespace = namespace
        self._deliver = deliver

    async def run(self) -> None:
        """Watch for ever."""
        followed = {f"{each.plural} {each.group}": each for each in _kinds()}
        services = {name: self._follow(each) for name, each in followed.items()}
        await tasks.run_services(services, asyncio.Event())

    async def _follow(self, resource: rest_client.Resource) -> None:
        built = resource.group not in caches.GROUPS
        selectors = selection.Selectors()
        if built:
            labels = ",".join(f"{key}={value}" for key, value in keys.BUILDER_LABELS.items())
            selectors = selection.Selectors(namespace=self._namespace, labels=labels)
        selected = selection.Selection(self._client, resource, selectors, parse=lambda body: body)
        subject = f"{resource.plural}.{resource.group}".rstrip(".")
        following = reflector.Reflector(selected, subject=subject, optional=not built)
        async with contextlib.aclosing(following.changes()) as updates:
            async for update in updates:
                if update.item is not None:
                    self._deliver(resource.plural, "MODIFIED", update.item)
                else:
                    self._deliver(resource.plural, "DELETED", _remains(resource, update))


def _remains(resource: rest_client.Resource, update: reflector.Update[Object]) -> Object:
    version = f"{resource.group}/{resource.version}".lstrip("/")
    name = update.key.rpartition("/")[2]
    return {"apiVersion": version, "metadata": {"name": name, "uid": update.uid}}


def _kinds() -> Iterator[rest_client.Resource]:
    for group in caches.GROUPS:
        yield rest_client.Resource(group=group, plural=rest_client.IMAGE_CACHES.plural)
    yield rest_client.JOBS
    yield rest_client.PODS
