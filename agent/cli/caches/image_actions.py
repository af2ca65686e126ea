"""`create IMAGE TARGET` and `delete IMAGE`: UCloud's actions, done from here and followed."""

import asyncio
import contextlib
import dataclasses
from typing import Any

from agent import errors
from agent.cli import cluster_access, output, progress
from agent.cli.caches import cluster_objects, create_command
from agent.clients.kube import rest_client
from agent.model import keys
from agent.ucloud import actions, activation, image_objects, operation_lock, protocol

_POLL = 0.5


class NotDone(errors.PermanentError):
    """The operation did not succeed; the message is the controller's."""


def create(
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


def delete(target: cluster_access.Target, image: str, *, wait: bool, as_json: bool) -> None:
    """Delete what `create IMAGE TARGET` has created for an image."""
    asked = protocol.parse({"Action": "DeleteUK8SImageAccelerate", "Image": image})
    _act(target, asked, wait=wait, as_json=as_json)


def is_image(name: str) -> bool:
    """Whether a name can only be an image's: no object's name has a slash or a colon."""
    return "/" in name or ":" in name


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
        with progress.shown(quiet=as_json) as report:
            while wait:
                state = await ucloud.do(protocol.Get())
                assert state is not None
                if state.status not in protocol.BUSY:
                    break
                report(state.status.value, 0)
                await asyncio.sleep(_POLL)
        return await situation(client, target)

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


async def situation(client: rest_client.Client, target: cluster_access.Target) -> dict[str, Any]:
    """What UCloud's `get` prints, and all other caches beside it."""
    state = await _actions(client, target).do(protocol.Get())
    assert state is not None
    nodes = [
        node
        async for page in client.pages(rest_client.NODES, labels=f"{keys.CAPABLE}=true")
        for node in page.items
    ]
    # Whether the store is there is seen by the nodes that serve images from it.
    state = dataclasses.replace(state, nfs_ready=bool(nodes))
    others: list[Any] = []
    with contextlib.suppress(output.NotFound):  # nothing is installed, which is said above
        others = [
            cluster_objects.described(each) for each in await cluster_objects.read_all(client)
        ]
    return protocol.described("GetUK8SImageAccelerate", state) | {"Caches": others}
