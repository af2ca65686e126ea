"""The leader's account of pulls: follows the kubelets' events, and keeps the table in a ConfigMap.

What is lost with a leader is read again by the next one: the ConfigMap says up to which event
it has them, and the API server keeps events for an hour.
"""

import asyncio
import datetime
import logging
from collections.abc import Callable, Iterable

from agent import errors
from agent.control.caches import cache_object
from agent.control.pulls import (
    advice,
    image_costs,
    pull_book,
    pull_events,
    pull_table,
    pull_watch,
)
from agent.kits.aio import slices, tasks
from agent.metrics import pull_metrics

logger = logging.getLogger(__name__)

_FIRST_SECONDS = 60.0
_SECONDS = 600.0
_CACHES_SECONDS = 60.0


class PullAccount:
    """`most` is how many images it has, 0: it reads nothing. `now` is the API server's time.

    `observed` are the image caches, for the metrics.
    """

    def __init__(
        self,
        client: pull_watch.Client,
        book: pull_book.BookObject,
        *,
        most: int,
        observed: Callable[[], Iterable[cache_object.CacheObject]],
        now: Callable[[], datetime.datetime],
    ) -> None:
        self._book = book
        self._most = most
        self._observed = observed
        self._now = now
        self._table = pull_table.PullTable(most=most)
        self._watch = pull_watch.PullWatch(client, self._take)
        self._cached = advice.Cached(())
        self._cached_until = 0.0
        self._changed = False

    @property
    def reads(self) -> bool:
        """Whether it follows the kubelets' events at all."""
        return self._most > 0

    async def costs(
        self, since: datetime.datetime, *, most: int | None = None
    ) -> image_costs.Costs:
        """What the pulls since a time cost, a week back at most."""
        return await slices.run(self._table.summing(since, self._now(), most=most))

    async def run(self) -> None:
        """Follow and keep, for ever."""
        if self._most <= 0:
            await asyncio.Event().wait()
        await self._load()
        services = {"follow": self._watch.run(), "keep": self._keep()}
        await tasks.run_services(services, asyncio.Event())

    async def _load(self) -> None:
        """Take over what an earlier leader knew; wait for an API server that is away."""
        while True:
            try:
                kept = await self._book.read()
            except errors.TemporaryError as error:
                await asyncio.sleep(error.delay or _FIRST_SECONDS)
                continue
            except errors.AgentError as error:
                logger.warning("the account of pulls begins anew", extra={"reason": str(error)})
                return
            if kept is not None:
                self._table.load(kept.rows, kept.others, kept.began)
                self._watch.seen = kept.seen
            return

    async def _keep(self) -> None:
        pause = _FIRST_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = _SECONDS
            await self.save()

    async def save(self) -> None:
        """Write the table, unless nothing has come since, or a list is not complete."""
        now = self._now()
        await slices.run(self._table.forgetting(now))
        if not self._changed or not self._watch.is_whole:
            return
        self._changed = False
        data = await pull_book.encode(self._table, seen=self._watch.seen, now=now)
        try:
            await self._book.write(data)
        except errors.AgentError as error:
            self._changed = True
            logger.warning("the account of pulls is not kept", extra={"reason": str(error)})

    def _take(self, pull: pull_events.Pull) -> None:
        self._changed = True
        pull = self._table.add(pull, self._now())
        at = asyncio.get_running_loop().time()
        if at >= self._cached_until:
            self._cached = advice.Cached(self._observed())
            self._cached_until = at + _CACHES_SECONDS
        verdict = self._cached.verdict(pull.image)
        size = pull.size if pull_table.is_download(pull.seconds, pull.size) else 0
        pull_metrics.fleet_pulled(
            pull.times * pull.seconds,
            pull.times * size,
            cached=verdict is advice.Verdict.CACHED,
        )
