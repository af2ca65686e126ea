"""Reads the kubelets' events of pulls: those of the last hour, then each as it comes.

Events are kept by no one here: each is taken in once, by its version. The API server has no events
in memory (its watch cache leaves them out), so their lists are read from its database, and their
watches get no bookmarks: a watch is silent for as long as nothing is pulled.
"""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from agent.clients.kube import reflector, rest_client, selection
from agent.control.pulls import pull_events
from agent.metrics import pull_metrics

_PAGE = 500
_SILENCE_SECONDS = 660.0
"""Longer than any watch is asked to last."""

Take = Callable[[pull_events.Pull], object]


class Client(Protocol):
    """What agent.clients.kube.rest_client.Client does for this."""

    def pages(
        self, resource: rest_client.Resource, *, fields: str = "", limit: int | None = None
    ) -> AsyncGenerator[rest_client.Page]:
        """All objects, in parts."""

    def watch(
        self,
        resource: rest_client.Resource,
        *,
        version: str,
        fields: str = "",
        silence: float = 0.0,
    ) -> AsyncGenerator[rest_client.Event]:
        """The changes after a version, until the server ends it."""


class PullWatch:
    """Takes in every event once. `seen` is the version up to which all were taken in, 0: none."""

    def __init__(self, client: Client, take: Take, *, seen: int = 0) -> None:
        self._client = client
        self._take = take
        self._listed: set[int] = set()
        self.seen = seen

    @property
    def is_whole(self) -> bool:
        """Whether `seen` says what was taken in: not amid a list, nor after one that broke off."""
        return not self._listed

    async def run(self) -> None:
        """Read for ever; an API server that is away is asked again, with growing pauses."""
        following = reflector.Reflector(self, subject="events of pulls")
        async with contextlib.aclosing(following.changes()) as updates:
            async for _ in updates:
                raise AssertionError("no event is kept, so none can change")

    async def list(self, *, not_older_than: str) -> AsyncGenerator[selection.Part[None]]:
        """Take in the events that the API server has (reflector.Source).

        They come in the order of their names: until all have come, each is remembered.
        """
        del not_older_than  # it would have the same answer: see above
        before, version = self.seen, "0"
        pages = self._client.pages(rest_client.EVENTS, fields=pull_events.SELECTOR, limit=_PAGE)
        async with contextlib.aclosing(pages):
            async for page in pages:
                version = page.version
                for body in page.items:
                    at = _version_of(body)
                    if at > before and at not in self._listed:
                        self._listed.add(at)
                        self._read(body, anew=before == 0)
                yield selection.Part(version=version, entries={})
        self._listed.clear()
        # Also where it is older than what was seen, after a database was restored.
        self.seen = int(version) if version.isdigit() else 0

    async def watch(self, version: str) -> AsyncGenerator[selection.Change[None]]:
        """Take in the events as they come (reflector.Source)."""
        events = self._client.watch(
            rest_client.EVENTS,
            version=version,
            fields=pull_events.SELECTOR,
            silence=_SILENCE_SECONDS,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                if event.kind in (rest_client.Kind.ADDED, rest_client.Kind.MODIFIED):
                    self._read(event.object, anew=event.kind is rest_client.Kind.ADDED)
                self.seen = max(self.seen, _version_of(event.object))
                yield selection.Change(version=event.version)

    def _read(self, body: rest_client.Object, *, anew: bool) -> None:
        """Take an event in. One that is not `anew` has been counted before, and once more now."""
        try:
            pull = pull_events.read(body)
        except pull_events.NotUnderstood:
            pull_metrics.pull_event("unknown")
            return
        if pull is None:
            pull_metrics.pull_event("present")
            return
        pull_metrics.pull_event("pulled")
        self._take(pull if anew else dataclasses.replace(pull, times=1))


async def read_all(client: Client, take: Take) -> None:
    """Take in the events that the API server has, an hour's in most clusters. Raises AgentError."""
    watch = PullWatch(client, take)
    async with contextlib.aclosing(watch.list(not_older_than="")) as parts:
        async for _ in parts:
            pass


def _version_of(body: rest_client.Object) -> int:
    version = str((body.get("metadata") or {}).get("resourceVersion") or "")
    return int(version) if version.isdigit() else 0
