"""`uimgacc create` and `delete` on a cluster: ImageCache objects, followed to their end."""

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from agent import errors
from agent.cli import cluster_access, output, progress
from agent.cli.caches import cache_holders, cluster_objects, create_command, image_actions
from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object, cache_state
from agent.model import cache_manifest, keys
from agent.ucloud import actions, activation

_POLL = 0.5
_LEADER_POLL = 5.0
_LEADERLESS_SECONDS = 60.0
_NAMES_POLL = 5.0
_NAMES = 10


class BuildFailed(errors.PermanentError):
    """A cache could not be built. `name` is its object, `reason` what the controller says."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


def create(
    target: cluster_access.Target, wanted: create_command.Wanted, *, wait: bool, as_json: bool
) -> None:
    """Apply ImageCache objects and follow their builds to the end."""
    bodies = manifests_of(wanted)

    async def work(client: rest_client.Client) -> list[cache_object.CacheObject]:
        made = []
        for body in bodies:
            key = await apply(client, body)
            made.append(
                await _follow(client, target, key, quiet=as_json)
                if wait
                else cache_object.parse(
                    await client.get(cluster_objects.resource_of(key.group), key.name)
                )
            )
        return made

    created = cluster_access.run(target, work)
    if as_json:
        shown = [cluster_objects.described(each) for each in created]
        output.show_json(shown if wanted.file else shown[0])
        return
    for each in created:
        output.console().print(
            f"{each.key.name} is {cluster_objects.phase_of(each)} as {each.cache_id}"
        )


def delete(target: cluster_access.Target, name: str, *, wait: bool, as_json: bool) -> None:
    """Delete an image cache by its name or ID, or by the original image's name."""
    if image_actions.is_image(name):
        image_actions.delete(target, name, wait=wait, as_json=as_json)
        return

    async def work(client: rest_client.Client) -> str:
        each = await cluster_objects.find(client, name)
        await client.delete(
            cluster_objects.resource_of(each.key.group), each.key.name, uid=each.uid
        )
        if wait:
            await _wait_gone(client, target, each, quiet=as_json)
        return each.cache_id

    cache_id = cluster_access.run(target, work)
    if as_json:
        output.show_json({"id": cache_id})
    else:
        print(f"deleted {cache_id}" if wait else f"{cache_id} is being deleted")


def manifests_of(wanted: create_command.Wanted) -> list[Mapping[str, Any]]:
    """The manifests to apply; raise UsageError, ManifestError."""
    if wanted.file:
        manifests = create_command.manifests_in(wanted.file)
        for each in manifests:
            cache_manifest.read(each)  # as below
        return manifests
    (request,) = create_command.requests_of(wanted)
    body = cache_manifest.write(
        cache_manifest.Draft(
            name=request.name,
            images=request.images,
            pull_secrets=wanted.pull_secrets,
            namespaces=wanted.namespaces,
            size_gib=request.size_gib,
            retention_days=request.retention_days,
            plain_http=request.plain_http_registries,
            insecure=request.insecure_registries,
            acr_instances=wanted.acr_instances,
        )
    )
    cache_manifest.read(body)  # an error is reported before the cluster is asked
    return [body]


async def apply(client: rest_client.Client, body: Mapping[str, Any]) -> cache_object.Key:
    """Apply an ImageCache on the server; raise NotFound where the kind is not installed."""
    group = str(body["apiVersion"]).partition("/")[0]
    name = str(body["metadata"]["name"])
    try:
        await client.patch(
            cluster_objects.resource_of(group),
            name,
            body,
            how=rest_client.Patch.APPLY,
            manager=keys.COMPONENT,
            force=True,
        )
    except refusals.NotFound as error:
        raise cluster_objects.not_installed(group) from error
    return cache_object.Key(group, name)


def _is_done(each: cache_object.CacheObject) -> bool:
    """Built as it is wanted now; raise where that has failed."""
    build = each.state.build
    if each.request is None or (each.spec_hash and build.failed == each.spec_hash):
        raise BuildFailed(each.key.name, each.problem or each.state.message)
    return each.state.phase is cache_state.Phase.READY and build.spec == each.spec_hash


class _LeaderCheck:
    """Ends a wait for the controller where none has led for a minute."""

    def __init__(self, client: rest_client.Client, target: cluster_access.Target) -> None:
        self._activation = activation.Activation(client, namespace=target.namespace)
        self._seen = self._asked = asyncio.get_running_loop().time()

    async def check(self) -> None:
        """Raise image_actions.NotDone; asks every few seconds."""
        now = asyncio.get_running_loop().time()
        if now - self._asked < _LEADER_POLL:
            return
        self._asked = now
        if await self._activation.has_leader():
            self._seen = now
        elif now - self._seen > _LEADERLESS_SECONDS:
            raise image_actions.NotDone(actions.LEADERLESS)


async def _follow(
    client: rest_client.Client, target: cluster_access.Target, key: cache_object.Key, *, quiet: bool
) -> cache_object.CacheObject:
    leader = _LeaderCheck(client, target)
    with progress.shown(quiet=quiet) as report:
        while True:
            each = cache_object.parse(
                await client.get(cluster_objects.resource_of(key.group), key.name)
            )
            if _is_done(each):
                return each
            report(each.state.message or "waiting for the controller", each.state.progress)
            await leader.check()
            await asyncio.sleep(_POLL)


async def _wait_gone(
    client: rest_client.Client,
    target: cluster_access.Target,
    each: cache_object.CacheObject,
    *,
    quiet: bool,
) -> None:
    leader = _LeaderCheck(client, target)
    named_at, names = -math.inf, ""
    with progress.shown(quiet=quiet) as report:
        while True:
            try:
                body = await client.get(cluster_objects.resource_of(each.key.group), each.key.name)
            except refusals.NotFound:
                return
            current = cache_object.parse(body)
            if current.uid != each.uid:
                return
            now = asyncio.get_running_loop().time()
            if not quiet and now - named_at > _NAMES_POLL:
                named_at, names = now, await _holders(client, each.cache_id)
            report(f"{current.state.message or 'it is being deleted'}{names}", 0)
            await leader.check()
            await asyncio.sleep(_POLL)


async def _holders(client: rest_client.Client, cache_id: str) -> str:
    """A sentence with the pods that hold a cache; "" for none that this user may see."""
    names = await cache_holders.named(client, cache_id)
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f" The pods are {', '.join(names[:_NAMES])}{more}." if names else ""
