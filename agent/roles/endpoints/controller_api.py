"""The HTTP servers of the controller for users: UCloud's API, and the page for people.

Every controller answers, whether it leads or not: the whole state is in the cluster's objects.
The leader does what takes long.
"""

import asyncio
import contextlib
import logging
import os

from aiohttp import web

from agent import errors
from agent.clients.kube import connection, rest_client
from agent.clients.registry import connections
from agent.control.page import api_keys, page_data, page_routes
from agent.control.reconcile import cache_store
from agent.kits.aio import tasks
from agent.kits.processes import workers
from agent.kits.web import listener, tls
from agent.model import keys, times
from agent.roles.endpoints import served_certificate
from agent.settings import controller_settings
from agent.ucloud import actions, activation, alias_push, endpoint, image_objects, operation_lock

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 10.0
_AGAIN = 1.0


class _Store:
    """Whether the store answers; `problem` is the sentence of the last probe."""

    def __init__(self, store: cache_store.CacheStore) -> None:
        self._store = store
        self.problem = "it has not been probed yet"

    async def run(self) -> None:
        """Probe it every few seconds, for ever."""
        while True:
            try:
                await self._store.probe()
                self.problem = ""
            except errors.AgentError as error:
                self.problem = str(error)
            await asyncio.sleep(_AGAIN if self.problem else _PROBE_SECONDS)


async def run(wanted: controller_settings.Controller, credentials: connection.Credentials) -> None:
    """Serve for ever; where no address is set, wait."""
    if not wanted.api_listen:
        await asyncio.Event().wait()
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            rest_client.Client(credentials, deadline=wanted.api_seconds, user_agent=keys.CONTROLLER)
        )
        pool = await stack.enter_async_context(
            workers.Pool(
                "agent.control.reconcile.cache_store", name="the API", size=1, packages=True
            )
        )
        store = _Store(
            cache_store.CacheStore(str(wanted.store), pool, deadline=wanted.store_seconds)
        )
        app = _application(wanted, client, store)
        certificate = tls.Certificate(wanted.api_tls) if wanted.api_tls is not None else None
        context = certificate.context if certificate is not None else None
        where = await stack.enter_async_context(
            listener.serving(app, wanted.api_listen, tls=context, without_host="")
        )
        logger.info("the API is listening", extra={"address": where})
        services = {"store": store.run(), "certificate": served_certificate.renew(certificate)}
        await tasks.run_services(services, asyncio.Event())


def alias_pusher(
    wanted: controller_settings.Controller, client: rest_client.Client
) -> alias_push.AliasPusher:
    """The part of the API's work that the leader does."""
    switch = _activation(wanted, client)
    options = connections.Options(
        read_timeout=alias_push.READ_TIMEOUT,
        denied=connections.denied(wanted.registry_deny, os.environ),
        allowed=frozenset(wanted.allowed_registries),
        mirrors=wanted.mirror_folders,
    )
    return alias_push.AliasPusher(switch, _images(wanted, client, switch), options=options)


def _activation(
    wanted: controller_settings.Controller, client: rest_client.Client
) -> activation.Activation:
    return activation.Activation(client, namespace=wanted.namespace, hosts=_list(wanted.uhub))


def _images(
    wanted: controller_settings.Controller,
    client: rest_client.Client,
    switch: activation.Activation,
) -> image_objects.ImageObjects:
    return image_objects.ImageObjects(
        client,
        switch,
        namespace=wanted.namespace,
        settings=image_objects.Settings(
            plain_http=wanted.plain_http_registries, serves=_list(wanted.uhub_namespaces)
        ),
    )


def _application(
    wanted: controller_settings.Controller, client: rest_client.Client, store: _Store
) -> web.Application:
    if wanted.api_keys is None:
        raise errors.PermanentError(
            "--api-listen needs --api-keys, the keys of those who may use it"
        )
    switch = _activation(wanted, client)
    ucloud = actions.Actions(
        _images(wanted, client, switch),
        switch,
        operation_lock.OperationLock(client, namespace=wanted.namespace),
        actions.Store(nfs=wanted.nfs, problem=lambda: store.problem),
    )
    pairs = api_keys.Keys(wanted.api_keys)
    app = endpoint.application(endpoint.Api(ucloud, pairs, cluster=wanted.cluster_id))
    page = page_routes.Pages(
        client,
        pairs,
        lambda: page_data.read(client, namespace=wanted.namespace, store_problem=store.problem),
        clock=times.now,
    )
    page.add_to(app)
    return app


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
