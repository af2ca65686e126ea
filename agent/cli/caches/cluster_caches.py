"""`uimgacc get`, `create` and `delete` on a cluster: image caches by the Kubernetes API."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rich.progress

from agent import errors
from agent.cli import cluster_access, output
from agent.cli.caches import create_command
from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object, cache_state, status_format
from agent.control.objects import operation_lock
from agent.kits import units
from agent.model import cache_manifest, caches, keys, times
from agent.ucloud import actions, activation, image_objects, protocol

_POLL = 0.5
_LED_POLL = 5.0
_LEADERLESS_SECONDS = 60.0
_CAPABLE = "uimgacc=true"
_NO_KIND = "this cluster has no ImageCaches{}: `uimgacc enable` installs them"


def show_all(target: cluster_access.Target, *, as_json: bool) -> None:
    """Print all image caches, or with JSON how the acceleration is, in UCloud's words."""
    if as_json:
        output.show_json(cluster_access.run(target, lambda client: _situation(client, target)))
        return
    found = cluster_access.run(target, _all)
    if not found:
        output.say("no image caches in this cluster")
        return
    made = output.table("KIND", "NAME", "CACHEID", "PHASE", "PROGRESS", "SIZE", "IMAGES", "AGE")
    for each in found:
        made.add_row(
            each.dialect.value,
            each.key.name,
            each.cache_id,
            _phase(each),
            f"{each.state.progress}%",
            units.size(each.state.size) if each.state.size else "-",
            str(len(each.request.images)) if each.request else "-",
            output.age(each.created.isoformat(), times.now()),
        )
    output.console().print(made)


def show_one(target: cluster_access.Target, name: str, *, as_json: bool) -> None:
    """Print an image cache with its images and what it says of itself."""
    each = cluster_access.run(target, lambda client: _find(client, name))
    if as_json:
        output.show_json(_shape(each))
        return
    console = output.console()
    request = each.request
    keep = f"until {each.state.expires:%Y-%m-%d %H:%M} UTC" if each.state.expires else "for ever"
    who = "every namespace"
    if request is not None and request.namespaces is not None:
        who = ", ".join(request.namespaces)
    lines = {
        "Cache": each.cache_id,
        "Name": each.key.name,
        "Phase": f"{_phase(each)} {each.state.progress}%",
        "Says": each.state.message or "-",
        "In store": units.size(each.state.size),
        "Kept": keep,
        "Serves": who,
        "Last used": f"{output.age(each.matched.isoformat(), times.now())} ago"
        if each.matched
        else "-",
    }
    for title, value in lines.items():
        console.print(f"{title + ':':<10} {value}")
    console.print()
    made = output.table("IMAGE", "PULLED", "DIGEST")
    for image in each.state.images:
        made.add_row(image.image, units.size(image.size), image.digest[:19])
    console.print(made)


def create(
    target: cluster_access.Target, wanted: create_command.Wanted, *, wait: bool, as_json: bool
) -> None:
    """Make ImageCache objects and follow their builds to the end."""
    bodies = manifests_of(wanted)

    async def work(client: rest_client.Client) -> list[cache_object.CacheObject]:
        made = []
        for body in bodies:
            key = await _apply(client, body)
            made.append(
                await _follow(client, target, key, quiet=as_json)
                if wait
                else cache_object.parse(await client.get(_resource(key.group), key.name))
            )
        return made

    found = cluster_access.run(target, work)
    if as_json:
        shown = [_shape(each) for each in found]
        output.show_json(shown if wanted.file else shown[0])
        return
    for each in found:
        output.console().print(f"{each.key.name} is {_phase(each)} as {each.cache_id}")


def create_alias(
    target: cluster_access.Target,
    other: str,
    wanted: create_command.Wanted,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    """As `create ORIGINAL TARGET` of UCloud's script: build, and push the other name."""
    asked = protocol.parse(
        {"Action": "CreateUK8SImageAccelerate", "OriginalImage": wanted.name, "TargetImage": other}
    )
    settings = image_objects.Settings(
        plain_http=sorted(wanted.plain_http),
        insecure=sorted(wanted.insecure),
        named=wanted.namespaces,
    )
    _act(target, asked, settings=settings, wait=wait, as_json=as_json)


def delete(target: cluster_access.Target, name: str, *, wait: bool, as_json: bool) -> None:
    """Delete an image cache by its name or ID, or by the original image's name."""
    if _is_alias(name):
        asked = protocol.parse({"Action": "DeleteUK8SImageAccelerate", "Image": name})
        _act(target, asked, wait=wait, as_json=as_json)
        return

    async def work(client: rest_client.Client) -> str:
        each = await _find(client, name)
        await client.delete(_resource(each.key.group), each.key.name, uid=each.uid)
        if wait:
            await _wait_gone(client, target, each, quiet=as_json)
        return each.cache_id

    cache_id = cluster_access.run(target, work)
    if as_json:
        output.show_json({"id": cache_id})
    else:
        print(f"deleted {cache_id}" if wait else f"{cache_id} is being deleted")


def _is_alias(name: str) -> bool:
    """Whether a name can only be an image's: no object's name has a slash or a colon."""
    return "/" in name or ":" in name


def manifests_of(wanted: create_command.Wanted) -> list[Mapping[str, Any]]:
    """The manifests to apply; raise UsageError, ManifestError."""
    if wanted.file:
        found = create_command.manifests_in(wanted.file)
        for each in found:
            caches.parse_request(each)  # as below
        return found
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
    caches.parse_request(body)  # an error is reported before the cluster is asked
    return [body]


def _resource(group: str) -> rest_client.Resource:
    return rest_client.Resource(group=group, plural="imagecaches")


async def _apply(client: rest_client.Client, body: Mapping[str, Any]) -> cache_object.Key:
    group = str(body["apiVersion"]).partition("/")[0]
    name = str(body["metadata"]["name"])
    try:
        await client.patch(
            _resource(group), name, body, how=rest_client.Patch.APPLY, manager="uimgacc", force=True
        )
    except refusals.NotFound as error:
        raise output.NotFound(_NO_KIND.format(f" of {group}"), name=group) from error
    return cache_object.Key(group, name)


async def _all(client: rest_client.Client) -> list[cache_object.CacheObject]:
    found, missing = [], 0
    for group in caches.GROUPS:
        try:
            found += [
                cache_object.parse(body)
                async for page in client.pages(_resource(group))
                for body in page.items
            ]
        except refusals.NotFound:
            missing += 1  # that dialect is not installed
    if missing == len(caches.GROUPS):
        raise output.NotFound(_NO_KIND.format(""), name=keys.IMAGE_CACHE)
    return sorted(found, key=lambda each: each.key)


async def _find(client: rest_client.Client, name: str) -> cache_object.CacheObject:
    found = [each for each in await _all(client) if name in (each.key.name, each.cache_id)]
    if not found:
        raise output.NotFound(f"no image cache {name} in this cluster", name=name)
    if len(found) > 1:
        ids = ", ".join(each.cache_id for each in found)
        raise output.UsageError(f"several image caches are called {name}; give the ID: {ids}")
    return found[0]


def _phase(each: cache_object.CacheObject) -> str:
    if each.deleted is not None:
        return "Deleting"
    return (each.state.phase or cache_state.Phase.PENDING).value


def _shape(each: cache_object.CacheObject) -> dict[str, Any]:
    return {
        "name": each.key.name,
        "group": each.key.group,
        "id": each.cache_id,
        "phase": _phase(each),
        "progress": each.state.progress,
        "message": each.state.message,
        "size": each.state.size,
        "created": status_format.stamp(each.created),
        "last_matched": status_format.stamp(each.matched),
        "images": [dataclasses.asdict(image) for image in each.state.images],
    }


def _is_done(each: cache_object.CacheObject) -> bool:
    """Built as it is wanted now; raise where that has failed."""
    build = each.state.build
    if each.request is None or (each.spec_hash and build.failed == each.spec_hash):
        raise BuildFailed(each.key.name, each.problem or each.state.message)
    return each.state.phase is cache_state.Phase.READY and build.spec == each.spec_hash


class BuildFailed(errors.PermanentError):
    """A cache could not be built. `name` is its object, `reason` what the controller says."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class NotDone(errors.PermanentError):
    """What was asked for did not succeed; the message is the controller's."""


class _Led:
    """Whoever waits for the controller gives up where none has led for a minute."""

    def __init__(self, client: rest_client.Client, target: cluster_access.Target) -> None:
        self._activation = activation.Activation(client, namespace=target.namespace)
        self._seen = self._asked = asyncio.get_running_loop().time()

    async def check(self) -> None:
        """Raise NotDone; asks every few seconds."""
        now = asyncio.get_running_loop().time()
        if now - self._asked < _LED_POLL:
            return
        self._asked = now
        if await self._activation.has_leader():
            self._seen = now
        elif now - self._seen > _LEADERLESS_SECONDS:
            raise NotDone(actions.LEADERLESS)


async def _follow(
    client: rest_client.Client, target: cluster_access.Target, key: cache_object.Key, *, quiet: bool
) -> cache_object.CacheObject:
    led = _Led(client, target)
    with bar(quiet=quiet) as tell:
        while True:
            each = cache_object.parse(await client.get(_resource(key.group), key.name))
            if _is_done(each):
                return each
            tell(each.state.message or "waiting for the controller", each.state.progress)
            await led.check()
            await asyncio.sleep(_POLL)


async def _wait_gone(
    client: rest_client.Client,
    target: cluster_access.Target,
    each: cache_object.CacheObject,
    *,
    quiet: bool,
) -> None:
    led = _Led(client, target)
    with bar(quiet=quiet) as tell:
        while True:
            try:
                body = await client.get(_resource(each.key.group), each.key.name)
            except refusals.NotFound:
                return
            found = cache_object.parse(body)
            if found.uid != each.uid:
                return
            tell(found.state.message or "it is being deleted", 0)
            await led.check()
            await asyncio.sleep(_POLL)


def _act(
    target: cluster_access.Target,
    asked: protocol.Request,
    *,
    settings: image_objects.Settings | None = None,
    wait: bool,
    as_json: bool,
) -> None:
    """Do what UCloud's API would, from here; follow it to its end."""

    async def work(client: rest_client.Client) -> dict[str, Any]:
        ucloud = _actions(client, target, settings)
        await ucloud.do(asked)
        with bar(quiet=as_json) as tell:
            while wait:
                found = await ucloud.do(protocol.Get())
                assert found is not None
                if found.status not in protocol.BUSY:
                    break
                tell(found.status.value, 0)
                await asyncio.sleep(_POLL)
        return await _situation(client, target)

    shown = cluster_access.run(target, work)
    if as_json:
        output.show_json(shown)
    if shown["Error"]:
        raise NotDone(shown["Error"])
    if not as_json:
        print(shown["Status"])


def _actions(
    client: rest_client.Client,
    target: cluster_access.Target,
    settings: image_objects.Settings | None = None,
) -> actions.Actions:
    switch = activation.Activation(client, namespace=target.namespace)
    return actions.Actions(
        image_objects.ImageObjects(client, switch, namespace=target.namespace, settings=settings),
        switch,
        operation_lock.OperationLock(client, namespace=target.namespace),
        # Only the controller knows whether the store is there: a build that cannot begin waits.
        actions.Store(nfs="", problem=str),
    )


async def _situation(client: rest_client.Client, target: cluster_access.Target) -> dict[str, Any]:
    """What UCloud's `get` prints, and all other caches beside it."""
    found = await _actions(client, target).do(protocol.Get())
    assert found is not None
    nodes = [
        node
        async for page in client.pages(rest_client.NODES, labels=_CAPABLE)
        for node in page.items
    ]
    # Whether the store is there is seen by the nodes that serve images from it.
    found = dataclasses.replace(found, nfs_ready=bool(nodes))
    others: list[Any] = []
    with contextlib.suppress(output.NotFound):  # nothing is installed, which is said above
        others = [_shape(each) for each in await _all(client)]
    return protocol.described("GetUK8SImageAccelerate", found) | {"Caches": others}


@contextlib.contextmanager
def bar(*, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Shows a sentence and percents to a person; a line for each new sentence in a log."""
    console = output.console(stderr=True)
    if quiet:
        yield lambda _sentence, _percent: None
        return
    if not console.is_terminal:
        told: list[str] = []

        def say(sentence: str, _percent: int) -> None:
            if told[-1:] != [sentence]:
                told.append(sentence)
                output.say(sentence)

        yield say
        return
    bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bars:
        task = bars.add_task("", total=100)
        yield lambda sentence, percent: bars.update(
            task, description=sentence[:100], completed=percent
        )
