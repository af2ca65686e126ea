"""`uimgacc controller`: turns ImageCache objects into caches of the store, and back.

Of several replicas one leads and does the work; the others wait. It may be killed at any time: its
whole state is in the API server and in the store.
"""

import asyncio
import contextlib
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from agent import errors
from agent.clients.kube import connection, event_writer, lease, rest_client
from agent.clients.registry import connections
from agent.clients.registry.mirrors import mirror_folder
from agent.control.admission import twin_classes, waiting_pods
from agent.control.caches import cache_object
from agent.control.decisions import retention
from agent.control.gc import collector_rounds, node_list
from agent.control.jobs import job_manifest, job_template
from agent.control.policies import policy_rounds
from agent.control.pulls import pull_account, pull_book
from agent.control.reconcile import (
    cache_events,
    cache_store,
    cache_upkeep,
    cluster,
    leader_election,
    observed,
    step,
    watches,
    work_queue,
)
from agent.control.signing import key_objects, key_rounds
from agent.control.tags import tag_access, tag_hints, tag_rounds
from agent.kits import jsonlog, units
from agent.kits.aio import tasks, threads
from agent.kits.processes import stop_deadline, workers
from agent.kits.web import listener
from agent.metrics import cache_metrics, registries
from agent.model import caches, keys
from agent.roles import cluster_identity, controller_flags
from agent.roles.endpoints import controller_api, controller_pushes, controller_webhook
from agent.settings import controller_settings

logger = logging.getLogger(__name__)

_AGAIN = 5.0
_TAG_SECONDS = 10.0
"""For each answer of a registry about a tag."""
_STEPS = 8
"""Caches for which steps run in parallel."""


class _Controller:
    """The parts, from the settings to what the leader runs."""

    def __init__(
        self,
        wanted: controller_settings.Controller,
        client: rest_client.Client,
        election: leader_election.Election,
    ) -> None:
        self._wanted = wanted
        self._client = client
        self.election = election
        self.hints = tag_hints.Hints()
        self._problem = "starting"

    @property
    def missing(self) -> str:
        """Why this controller cannot work, or cannot take over; "" where it can."""
        return self._problem or self.election.problem

    async def run(self, stack: contextlib.AsyncExitStack) -> None:
        """Wait for the lead, then lead, for ever."""
        wanted = self._wanted
        pool = await stack.enter_async_context(
            workers.Pool(
                "agent.control.reconcile.cache_store", name="the controller", size=2, packages=True
            )
        )
        store = cache_store.CacheStore(str(wanted.store), pool, deadline=wanted.store_seconds)
        # A replica that waits is ready to take over: it must not block a rollout.
        self._problem = ""
        await self.election.win()
        cache_metrics.LEADING.set(1)
        try:
            await self._lead(stack, store)
        finally:
            cache_metrics.LEADING.set(0)
            await asyncio.shield(self.election.resign())

    async def _lead(self, stack: contextlib.AsyncExitStack, store: cache_store.CacheStore) -> None:
        services = {"lead": self.election.keep(), "work": self._work(stack, store)}
        await tasks.run_services(services, asyncio.Event())

    async def _work(self, stack: contextlib.AsyncExitStack, store: cache_store.CacheStore) -> None:
        wanted, client = self._wanted, self._client
        identity, cluster_id = await self._prepare(store)
        queue: work_queue.Queue[cache_object.Key] = work_queue.Queue()
        view = observed.Observed(queue, parallel=wanted.parallel_builds)
        nodes = node_list.Nodes(client, view)
        events = event_writer.EventWriter(client, cache_events.LIMITS)
        emitter = cache_events.CacheEvents(events)
        collector = await self._collector(stack, nodes, cluster_id)
        signing = await self._signing(stack, view)
        await signing.prepare(identity)
        api = cluster.Cluster(client, namespace=wanted.namespace)
        await self._say_mirrors()
        reconciling = step.Settings(template=await self._template(), rules=_rules(wanted))
        tags = await self._tags(stack, view, api, store)
        tools = step.Tools(
            api=api, store=store, holders=collector, events=emitter, signing=signing, tags=tags
        )
        reconciler = step.Reconciler(view, tools, reconciling)
        keeper = cache_upkeep.Upkeep(api, view, nodes, emitter, reconciling.rules, clock=client.now)
        await keeper.prime()
        pusher = controller_api.alias_pusher(wanted, client)

        def deliver(plural: str, kind: str | None, body: rest_client.Object) -> None:
            view.deliver(plural, kind, body)
            if plural == "imagecaches":
                pusher.deliver(kind, body)

        watcher = watches.Watcher(client, namespace=wanted.namespace, deliver=deliver)
        twins = twin_classes.TwinClasses(client)
        waiting = waiting_pods.WaitingPods(
            client, twins, events, settings=_waiting(wanted), now=client.now
        )
        account = pull_account.PullAccount(
            client,
            pull_book.BookObject(client, namespace=wanted.namespace),
            most=wanted.pull_images,
            observed=view.caches.values,
            now=client.now,
        )
        policies = policy_rounds.PolicyRounds(client, view, account, events, clock=client.now)
        services = {
            "watches": watcher.run(),
            "watch of policies": policies.run_watch(),
            "policies": policies.run(),
            "pulls": account.run(),
            "events": events.run(),
            "collector": collector.run(),
            "aliases": pusher.run(),
            "lists": keeper.run(),
            "keys": signing.run(),
            "counts": keeper.run_counts(),
            "runtime classes": twins.run(),
            "waiting pods": waiting.run(),
            "tags": tags.run(),
            **{f"steps {at}": queue.run(reconciler.step) for at in range(_STEPS)},
        }
        await tasks.run_services(services, asyncio.Event())

    async def _collector(
        self, stack: contextlib.AsyncExitStack, nodes: node_list.Nodes, cluster_id: str
    ) -> collector_rounds.Collector:
        pool = await stack.enter_async_context(
            workers.Pool(
                "agent.control.gc.collector_worker", name="the collector", size=1, packages=True
            )
        )
        return collector_rounds.Collector(
            collector_rounds.Where(str(self._wanted.store), cluster_id),
            pool,
            nodes,
            patience=_patience(self._wanted),
        )

    async def _signing(
        self, stack: contextlib.AsyncExitStack, view: observed.Observed
    ) -> key_rounds.Signing:
        pool = await stack.enter_async_context(
            workers.Pool(
                "agent.control.signing.signing_worker", name="signing", size=2, packages=True
            )
        )
        return key_rounds.Signing(
            str(self._wanted.store),
            pool,
            key_objects.KeyObjects(self._client, namespace=self._wanted.namespace),
            on_unsigned=view.queue_all,
        )

    async def _tags(
        self,
        stack: contextlib.AsyncExitStack,
        view: observed.Observed,
        api: cluster.Cluster,
        store: cache_store.CacheStore,
    ) -> tag_rounds.Rounds:
        """What looks tags up, with the credentials that caches name."""
        wanted = self._wanted
        options = connections.Options(
            denied=connections.denied(wanted.registry_deny, os.environ),
            allowed=frozenset(wanted.allowed_registries),
            ca_file=str(wanted.ca or ""),
            mirrors=wanted.mirror_folders,
            read_timeout=_TAG_SECONDS,
            connect_timeout=_TAG_SECONDS,
            # One try: the next one is that of the next round.
            delays=(math.inf,),
        )
        accesses = await stack.enter_async_context(
            tag_access.Accesses(api, options, seconds=wanted.tag_seconds)
        )
        return tag_rounds.Rounds(
            view,
            accesses,
            tag_rounds.Settings(
                interval=wanted.tag_seconds,
                rate=wanted.tag_rate,
                plain_http=wanted.plain_http_registries,
            ),
            hints=self.hints if wanted.push_listen else None,
            publish=store.write_tags,
        )

    async def _say_mirrors(self) -> None:
        """Say in the log of which registries other hosts are asked."""
        for folder in self._wanted.mirror_folders:
            try:
                named = await threads.run("mirrors", mirror_folder.registries, folder)
            except mirror_folder.MirrorsUnusable as error:
                logger.warning("builds will fail", extra={"reason": str(error)})
                continue
            extra = {"folder": str(folder), "registries": ", ".join(named)}
            if named:
                logger.info("hosts of registries", extra=extra)
            else:
                logger.warning("no hosts of registries: these are asked themselves", extra=extra)

    async def _template(self) -> job_manifest.Template:
        """The template of all builds; it waits for an API server that is away."""
        while True:
            try:
                return await job_template.read(self._client, self._wanted)
            except errors.TemporaryError as error:
                logger.warning("this pod cannot be read yet", extra={"reason": str(error)})
                await asyncio.sleep(error.delay or 1.0)

    async def _prepare(self, store: cache_store.CacheStore) -> tuple[str, str]:
        """Have the folder be a store of this cluster; wait for one that is away.

        Returns the store's ID and the cluster's UID.
        """
        while True:
            try:
                cluster_id = await cluster_identity.read(self._client)
                identity = await store.prepare(self._wanted.compression, cluster_id)
            except errors.AgentError as error:
                self._problem = str(error)
                logger.warning("no store yet", extra={"reason": self._problem})
                await asyncio.sleep(_AGAIN)
            else:
                self._problem = ""
                logger.info("the store is there", extra={"store": identity, "cluster": cluster_id})
                return identity, cluster_id


def _credentials(wanted: controller_settings.Controller) -> connection.Credentials:
    if wanted.kubeconfig:
        return connection.Kubeconfig(wanted.kubeconfig)
    return connection.ServiceAccount(wanted.service_account)


def _rules(wanted: controller_settings.Controller) -> retention.Rules:
    return retention.Rules(
        retry_seconds=wanted.retry_seconds,
        deletion_seconds=wanted.deletion_seconds,
        unused_days=wanted.unused_days,
        used_days=wanted.used_days,
        failed_hours=wanted.failed_hours,
        refresh_hours=wanted.refresh_hours,
        auto_caches=wanted.auto_caches,
        auto_namespace=wanted.auto_namespace_caches,
        auto_bytes=units.quantity(wanted.auto_bytes),
        auto_factor=wanted.auto_factor,
        auto_share=units.quantity(wanted.auto_share),
        serve_stale=caches.serve_stale(wanted.serve_stale),
    )


def _waiting(wanted: controller_settings.Controller) -> waiting_pods.Settings:
    return waiting_pods.Settings(wait=wanted.waiting_seconds, spare=wanted.move_pods == "capable")


def _patience(wanted: controller_settings.Controller) -> collector_rounds.Patience:
    return collector_rounds.Patience(
        interval=wanted.collect_seconds,
        settle=wanted.settle_seconds,
        grace=wanted.grace_seconds,
    )


@contextlib.asynccontextmanager
async def _opened(wanted: controller_settings.Controller) -> AsyncIterator[tuple[_Controller, str]]:
    async with (
        _client(wanted) as client,
        # On connections of its own: a renewal must not wait for the requests of all caches.
        _client(wanted) as electing,
    ):
        controller = _Controller(wanted, client, _election(wanted, electing))
        app = web.Application()
        listener.add_metrics(app, registries.CONTROLLER)
        listener.add_probes(app, lambda: controller.missing)
        async with listener.serving(app, wanted.listen) as where:
            yield controller, where


def _client(wanted: controller_settings.Controller) -> rest_client.Client:
    return rest_client.Client(
        _credentials(wanted), deadline=wanted.api_seconds, user_agent=keys.CONTROLLER
    )


def _election(
    wanted: controller_settings.Controller, client: rest_client.Client
) -> leader_election.Election:
    return leader_election.Election(
        lease.Leasing(client, namespace=wanted.namespace, name=keys.CONTROLLER_LEASE),
        times=leader_election.Times(lasts=wanted.lease_seconds),
        identity=wanted.pod or f"{os.uname().nodename}-{secrets.token_hex(4)}",
    )


async def run(wanted: controller_settings.Controller) -> None:
    """Serve until SIGTERM. Raises what the services raised, as an ExceptionGroup."""
    with stop_deadline.Watchdog(wanted.stop_seconds) as watchdog:
        async with (
            tasks.stop_on_signals() as stop,
            _opened(wanted) as (controller, where),
            contextlib.AsyncExitStack() as stack,
        ):
            logger.info("listening", extra={"address": where})
            services = {
                "controller": controller.run(stack),
                "api": controller_api.run(wanted, _credentials(wanted)),
                "webhook": controller_webhook.run(wanted, _credentials(wanted)),
                "pushes": controller_pushes.run(
                    wanted,
                    _credentials(wanted),
                    hints=controller.hints,
                    election=controller.election,
                ),
                "watchdog": watchdog.run(stop),
            }
            try:
                await tasks.run_services(services, stop)
            finally:
                watchdog.start()


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    wanted = controller_flags.parse(arguments)
    code = 0
    with jsonlog.to_stderr(logging.DEBUG if wanted.verbose else logging.INFO):
        try:
            asyncio.run(run(wanted))
        except* (errors.AgentError, OSError) as group:
            reasons = "; ".join(map(str, _leaves(group)))
            logger.error("ended", extra={"reason": reasons})  # noqa: TRY400 - foreseen
            code = 1
    return code


def _leaves(group: BaseExceptionGroup) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
