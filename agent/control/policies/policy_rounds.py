"""Carries policies out: follows them, and does a few steps for each once a minute.

Caches are applied and deleted as objects; what follows from these is the reconciler's work, as with
those of people. A controller that ends between any two calls is continued by the next one: what
there is to do is decided anew from the objects each time.
"""

import asyncio
import contextlib
import datetime
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from agent import errors
from agent.clients.kube import event_writer, reflector, refusals, rest_client, selection
from agent.control.caches import cache_object, cache_state
from agent.control.policies import policy_cache, policy_object, policy_plan, policy_status
from agent.control.pulls import image_costs
from agent.kits import units
from agent.metrics import cache_metrics
from agent.model import keys, times

logger = logging.getLogger(__name__)

_SECONDS = 60.0
_GATHER_SECONDS = 0.5
_AGAIN_SECONDS = 5.0
_REFUSED = datetime.timedelta(minutes=10)
"""Until an image is tried again of which the API server took no cache: an admission policy may
forbid it, and the others must not wait for it."""


class Client(Protocol):
    """What agent.clients.kube.rest_client.Client does for this."""

    def pages(
        self,
        resource: rest_client.Resource,
        *,
        labels: str = "",
        metadata_only: bool = False,
    ) -> AsyncIterator[rest_client.Page]:
        """List objects, in parts."""

    async def patch(
        self,
        resource: rest_client.Resource,
        name: str,
        body: object,
        *,
        subresource: str = "",
        how: rest_client.Patch = rest_client.Patch.MERGE,
        manager: str = "",
        force: bool = False,
    ) -> rest_client.Object:
        """Change parts of an object."""

    async def delete(self, resource: rest_client.Resource, name: str, *, uid: str = "") -> None:
        """Delete an object."""


class View(Protocol):
    """The caches: agent.control.reconcile.observed.Observed."""

    @property
    def caches(self) -> Mapping[cache_object.Key, cache_object.CacheObject]:
        """By their keys."""

    def put_cache(self, body: Mapping[str, Any]) -> cache_object.CacheObject:
        """Take in an object as it is now."""


class Account(Protocol):
    """What pulls cost: agent.control.pulls.pull_account.PullAccount."""

    @property
    def reads(self) -> bool:
        """Whether it follows the kubelets' events at all."""

    async def costs(self, since: datetime.datetime) -> image_costs.Costs:
        """What the pulls since a time cost."""


class Events(Protocol):
    """Where events go (agent.clients.kube.event_writer.EventWriter)."""

    def emit(self, record: event_writer.Record) -> None:
        """Take an event for delivery. Never waits, never raises."""


class _Figures:
    """What pulls cost at the time of a round: each sum reads the whole account, so it is kept."""

    def __init__(self, account: Account, now: datetime.datetime) -> None:
        self._account = account
        self._now = now
        self._costs: dict[datetime.timedelta, image_costs.Costs] = {}

    async def costs(self, window: datetime.timedelta) -> image_costs.Costs:
        """Of the pulls within so much time until now."""
        if window not in self._costs:
            self._costs[window] = await self._account.costs(self._now - window)
        return self._costs[window]

    async def recent(self) -> frozenset[str]:
        """The images that were pulled lately."""
        return frozenset(each.image for each in (await self.costs(policy_plan.RECENT)).images)


class PolicyRounds:
    """Follows the policies of the cluster and carries them out, for ever."""

    def __init__(
        self,
        client: rest_client.Client,
        view: View,
        account: Account,
        events: Events,
        *,
        clock: times.Clock = times.now,
    ) -> None:
        self._client: Client = client
        self._view = view
        self._account = account
        self._events = events
        self._clock = clock
        self._policies: dict[str, policy_object.Policy] = {}
        self._changed = asyncio.Event()
        self._complete = False
        self._refused: dict[tuple[str, str], datetime.datetime] = {}
        """Until when images of policies are left alone."""
        selected = selection.Selection(
            client,
            rest_client.IMAGE_CACHE_POLICIES,
            selection.Selectors(),
            parse=policy_object.parse,
        )
        self._following = reflector.Reflector(selected, subject="policies", optional=True)

    async def run_watch(self) -> None:
        """Follow the objects, for ever; the kind may not be installed."""
        async with contextlib.aclosing(self._following.changes()) as updates:
            async for update in updates:
                if update.item is None:
                    self._policies.pop(update.key, None)
                    continue
                known = self._policies.get(update.key)
                self._policies[update.key] = update.item
                # A status that this controller has written is no reason for a round.
                if known is None or known.generation != update.item.generation:
                    self._changed.set()

    async def run(self) -> None:
        """Carry them out, for ever."""
        await self._following.wait_synced()
        while True:
            pause = _SECONDS
            try:
                if not await self.round():
                    pause = _AGAIN_SECONDS
            except errors.AgentError as error:
                logger.warning("policies are not carried out", extra={"reason": str(error)})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
                    await asyncio.sleep(_GATHER_SECONDS)
            self._changed.clear()

    async def round(self) -> bool:
        """A few steps for each policy; False where the watch of caches is not complete yet."""
        policies = [each for each in self._policies.values() if not each.deleted]
        if not policies:
            self._count(caches=0, size=0, budget=0)
            return True
        if not self._complete:
            self._complete = await self._is_complete()
            if not self._complete:
                return False
        own: dict[str, list[cache_object.CacheObject]] = {each.name: [] for each in policies}
        elsewhere: dict[str, str] = {}
        for cache in self._view.caches.values():
            if policy_cache.image_of(cache) and cache.policy in own:
                own[cache.policy].append(cache)
            elif _has_or_will_have(cache) and cache.request is not None:
                elsewhere |= {str(image): cache.key.name for image in cache.request.images}
        sizes, budgets = 0, 0
        figures = _Figures(self._account, self._clock())
        for policy in sorted(policies, key=lambda each: each.name):
            # A plan takes a while: others have their turn between two of them.
            await asyncio.sleep(0)
            try:
                plan = await self._carry_out(policy, own, elsewhere, figures)
            except errors.AgentError as error:
                logger.warning(
                    "a policy is not carried out",
                    extra={"policy": policy.name, "reason": str(error)},
                )
                continue
            if plan is not None:
                sizes += plan.size
                # Another policy that selects the same images leaves them to this one.
                elsewhere |= {each.image: policy.name for each in plan.created}
            budgets += policy.spec.budget if policy.spec is not None else 0
        self._count(caches=sum(map(len, own.values())), size=sizes, budget=budgets)
        return True

    def _count(self, *, caches: int, size: int, budget: int) -> None:
        cache_metrics.POLICY_CACHES.set(caches)
        cache_metrics.POLICY_BYTES.set(size)
        cache_metrics.POLICY_BUDGET_BYTES.set(budget)

    async def _is_complete(self) -> bool:
        """Whether all caches of policies are known: else their bytes would not be counted."""
        async for page in self._client.pages(
            rest_client.IMAGE_CACHES, labels=keys.POLICY, metadata_only=True
        ):
            for body in page.items:
                key = cache_object.Key(keys.GROUP, body["metadata"]["name"])
                if key not in self._view.caches:
                    return False
        return True

    async def _carry_out(
        self,
        policy: policy_object.Policy,
        own: Mapping[str, list[cache_object.CacheObject]],
        elsewhere: Mapping[str, str],
        figures: _Figures,
    ) -> policy_plan.Plan | None:
        """Do the next steps of a policy, and write its status where that says something else."""
        now = self._clock().replace(microsecond=0)
        verdict, plan = await self._planned(policy, own, elsewhere, figures, now)
        if plan is not None and policy.spec is not None:
            plan = await self._act(policy, policy.spec, plan)
        status = policy_status.changed(policy, verdict, plan, now=now)
        if status is not None:
            with contextlib.suppress(refusals.NotFound):
                await self._client.patch(
                    rest_client.IMAGE_CACHE_POLICIES,
                    policy.name,
                    {"status": status},
                    subresource="status",
                    manager=keys.POLICY_MANAGER,
                )
            self._say(policy, status)
        return plan

    async def _planned(
        self,
        policy: policy_object.Policy,
        own: Mapping[str, list[cache_object.CacheObject]],
        elsewhere: Mapping[str, str],
        figures: _Figures,
        now: datetime.datetime,
    ) -> tuple[policy_status.Verdict, policy_plan.Plan | None]:
        spec = policy.spec
        if spec is None:
            return _not("InvalidSpec", f"The spec cannot be used: {policy.problem}"), None
        if spec.suspended:
            return _not("Suspended", "spec.suspend is true: its caches stay as they are."), None
        if not self._account.reads:
            return _not("NoFigures", "UIMGACC_PULL_IMAGES is 0: no pull is counted."), None
        others = {image for image, name in elsewhere.items()}
        others |= {
            policy_cache.image_of(each)
            for name, held in own.items()
            if name != policy.name
            for each in held
        }
        seen = policy_plan.Seen(
            now=now,
            costs=await figures.costs(spec.window),
            recent=await figures.recent(),
            namespaces=await self._namespaces(spec),
            own=own[policy.name],
            elsewhere=others,
            refused=self._refused_of(policy, now),
        )
        return policy_status.CARRIED_OUT, policy_plan.plan(policy, spec, seen)

    async def _namespaces(self, spec: policy_object.Spec) -> set[str] | None:
        """The namespaces that a policy selects; None: all."""
        if not spec.selector:
            return set(spec.namespaces) or None
        names = set()
        async for page in self._client.pages(
            rest_client.NAMESPACES, labels=spec.selector, metadata_only=True
        ):
            names |= {str(body["metadata"]["name"]) for body in page.items}
        return names

    def _refused_of(self, policy: policy_object.Policy, now: datetime.datetime) -> set[str]:
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        return {image for name, image in self._refused if name == policy.name}

    async def _act(
        self, policy: policy_object.Policy, spec: policy_object.Spec, plan: policy_plan.Plan
    ) -> policy_plan.Plan:
        """Carry a plan out; returns it without what the API server has refused."""
        for gone in plan.dropped:
            await self._drop(policy, gone)
        for held in plan.changed:
            request = held.cache.request
            limit = request.size_gib if request is not None else policy_cache.limit_of(0)
            await self._applied(policy, spec, held.image, size_gib=limit)
        created = []
        for cost in plan.created:
            limit = policy_cache.limit_of(cost.size)
            name = await self._applied(policy, spec, cost.image, size_gib=limit)
            if not name:
                self._refused[policy.name, cost.image] = self._clock() + _REFUSED
                continue
            created.append(cost)
            message = (
                f"{cost.image} is cached as {name}: its pulls took {units.span(cost.seconds)}."
            )
            self._emit(policy, "ImageCacheCreated", message)
        return policy_plan.without(plan, created)

    async def _applied(
        self, policy: policy_object.Policy, spec: policy_object.Spec, image: str, *, size_gib: int
    ) -> str:
        """The name of the cache of an image; "" where the API server refuses it."""
        try:
            return await self._apply(policy, spec, image, size_gib=size_gib)
        except (refusals.Invalid, refusals.Denied) as error:
            extra = {"policy": policy.name, "image": image, "reason": str(error)}
            logger.warning("a policy's cache is refused", extra=extra)
            return ""

    async def _apply(
        self, policy: policy_object.Policy, spec: policy_object.Spec, image: str, *, size_gib: int
    ) -> str:
        body = policy_cache.manifest(policy, spec, image, size_gib=size_gib)
        name = str(body["metadata"]["name"])
        applied = await self._client.patch(
            rest_client.IMAGE_CACHES,
            name,
            body,
            how=rest_client.Patch.APPLY,
            manager=keys.POLICY_MANAGER,
            force=True,
        )
        self._view.put_cache(applied)
        logger.info("a policy's cache is applied", extra={"policy": policy.name, "cache": name})
        return name

    async def _drop(self, policy: policy_object.Policy, gone: policy_plan.Dropped) -> None:
        cache = gone.held.cache
        try:
            await self._client.delete(rest_client.IMAGE_CACHES, cache.key.name, uid=cache.uid)
        except refusals.NotFound:
            return
        logger.info("a policy's cache goes", extra={"policy": policy.name, "cache": cache.key.name})
        message = f"{cache.key.name} ({gone.held.image}) is deleted: {gone.why}."
        self._emit(policy, "ImageCacheDeleted", message)

    def _say(self, policy: policy_object.Policy, status: Mapping[str, Any]) -> None:
        """Warn of a condition that has become False."""
        before = {
            each.get("type"): each.get("status") for each in policy.status.get("conditions") or ()
        }
        for each in status["conditions"]:
            if each["status"] == "False" and before.get(each["type"]) != "False":
                warns = each["reason"] != "Suspended"
                self._emit(policy, each["reason"], each["message"], warns=warns)

    def _emit(
        self, policy: policy_object.Policy, reason: str, message: str, *, warns: bool = False
    ) -> None:
        involved = event_writer.Involved(
            api_version=keys.POLICY_VERSION,
            kind=keys.IMAGE_CACHE_POLICY,
            name=policy.name,
            uid=policy.uid,
        )
        kind = "Warning" if warns else "Normal"
        self._events.emit(
            event_writer.Record(involved=involved, reason=reason, message=message, type=kind)
        )


def _has_or_will_have(cache: cache_object.CacheObject) -> bool:
    """Whether the images of a cache that is none of a policy's need no other one."""
    failed = cache.state.phase is cache_state.Phase.FAILED
    return not cache.auto and cache.deleted is None and not failed


def _not(reason: str, message: str) -> policy_status.Verdict:
    return policy_status.Verdict(ready=False, reason=reason, message=message)
