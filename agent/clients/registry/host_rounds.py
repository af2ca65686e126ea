"""Asking the hosts of a registry in turn: who fails is left for the next, and all are asked again.

A host that gives no answer at all is asked last for a while, so that a mirror which hangs costs
one wait and not one for each layer. What a host gave that turned out to be something else is asked
of the others first. A registry with one host is asked as long as the deadline allows.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence

from agent import errors
from agent.clients.registry import authorized_requests, failures
from agent.clients.registry.mirrors import registry_host
from agent.model import images

logger = logging.getLogger(__name__)

_REST_SECONDS = 60.0
_MOST_FAILURES = 1000
"""Failures that are remembered, so as not to be logged as warnings again."""
_DECIDED_SECONDS = 5.0
"""How long hosts that do not answer are waited for once another has said no."""
_RESTING_PATIENCE = 5.0
"""Seconds that a host has which did not answer a while ago."""


Key = tuple[str, str]
"""A repository, and the path of something in it."""


class Standing:
    """What is remembered of the hosts: which did not answer, and which gave something else."""

    def __init__(self) -> None:
        self._rests: dict[str, float] = {}
        self._failures: set[tuple[str, str]] = set()
        self._givers: dict[Key, dict[str, registry_host.Endpoint]] = {}
        self._wrong: dict[Key, set[str]] = {}

    def ordered(
        self, endpoints: Sequence[registry_host.Endpoint], key: Key
    ) -> list[registry_host.Endpoint]:
        """The hosts in the order in which to ask them for something now."""
        wrong = self._wrong.get(key, ())
        return sorted(endpoints, key=lambda each: (each.url("") in wrong, self.is_resting(each)))

    def is_resting(self, endpoint: registry_host.Endpoint) -> bool:
        """Whether a host did not answer a while ago."""
        return self._rests.get(endpoint.origin, 0.0) > asyncio.get_running_loop().time()

    def rest(self, endpoint: registry_host.Endpoint) -> None:
        """A host did not answer."""
        until = asyncio.get_running_loop().time() + _REST_SECONDS
        self._rests[endpoint.origin] = until

    def is_first(self, endpoint: registry_host.Endpoint, reason: str) -> bool:
        """Whether a host has not failed like that before, as far as is remembered."""
        failure = (endpoint.origin, reason)
        is_first = failure not in self._failures
        if len(self._failures) < _MOST_FAILURES:
            self._failures.add(failure)
        return is_first

    def note_giver(self, key: Key, endpoint: registry_host.Endpoint) -> None:
        """A host gives something, or a part of it."""
        self._givers.setdefault(key, {})[endpoint.url("")] = endpoint

    def givers(self, key: Key) -> list[registry_host.Endpoint]:
        """Who gave something."""
        return list(self._givers.get(key, {}).values())

    def distrust_givers(self, key: Key) -> set[str]:
        """What was given is wrong; returns the URLs of all who gave it wrong so far."""
        wrong = self._wrong.setdefault(key, set())
        wrong.update(self._givers.pop(key, {}))
        return wrong


class Rounds:
    """The hosts to ask for one thing, one after another: `async for endpoint in rounds`.

    The body asks within `noted`, and leaves the loop when it has its answer. `rest` is the path in
    the repository of what is asked for, `what` its name in messages. Raises
    RegistryUnreachable at the deadline, and before it what no host can mend.
    """

    def __init__(
        self,
        requests: authorized_requests.Requests,
        standing: Standing,
        endpoints: Sequence[registry_host.Endpoint],
        *,
        reference: images.Reference,
        rest: str,
        what: str,
    ) -> None:
        self._requests = requests
        self._standing = standing
        self._endpoints = endpoints
        self._reference = reference
        self.what = what
        self.rest = rest
        self._key = (reference.name, rest)
        self._waits = requests.waits()
        self._decided: float | None = None
        self._known_silent = {each.origin for each in endpoints if standing.is_resting(each)}
        self._asked: registry_host.Endpoint | None = None
        self._left = standing.ordered(endpoints, self._key)
        self._failed: list[tuple[registry_host.Endpoint, Exception]] = []

    @property
    def patience(self) -> float | None:
        """Seconds that one of several hosts has to begin an answer; None: as others may take."""
        if not self.has_others:
            return None
        patience = self._requests.options.host_timeout
        is_resting = self._asked is not None and self._standing.is_resting(self._asked)
        return min(patience, _RESTING_PATIENCE) if is_resting else patience

    @property
    def has_others(self) -> bool:
        """Whether there is more than one host."""
        return len(self._endpoints) > 1

    def gave(self, endpoint: registry_host.Endpoint) -> None:
        """A host gives it, or a part of it."""
        self._standing.note_giver(self._key, endpoint)

    def progressed(self) -> None:
        """Something came: the deadline is for the time without."""
        self._waits = self._requests.waits()

    def __aiter__(self) -> "Rounds":
        return self

    async def __anext__(self) -> registry_host.Endpoint:
        if not self._left:
            await self._settle()
            self._failed = []
            self._left = self._standing.ordered(self._endpoints, self._key)
        self._asked = self._left.pop(0)
        return self._asked

    @contextlib.contextmanager
    def noted(self, endpoint: registry_host.Endpoint) -> Iterator[None]:
        """Keep why a host failed, for the next to be asked; of a lone host only what may pass."""
        try:
            yield
        except failures.Again as again:
            self._note(endpoint, again)
            if not again.answered:
                self._standing.rest(endpoint)
        except errors.AgentError as error:
            if not self.has_others:
                raise
            self._note(endpoint, error)

    def _note(self, endpoint: registry_host.Endpoint, error: Exception) -> None:
        self._failed.append((endpoint, error))
        if self.has_others:
            reason = failures.in_short(error)
            logger.log(
                # Once: not again for each layer, and in each round.
                logging.WARNING if self._standing.is_first(endpoint, reason) else logging.DEBUG,
                "a host of a registry fails: the next one is asked"
                if self._left
                else "the last host of a registry fails",
                extra={
                    "image": str(self._reference),
                    "host": endpoint.host.authority,
                    "asked": self.what,
                    "reason": reason,
                },
            )

    async def _settle(self) -> None:
        """After a round: wait for the next one, or raise what the hosts have said."""
        if not self.has_others:
            endpoint, error = self._failed[0]
            assert isinstance(error, failures.Again)
            url = endpoint.url(self.rest)
            logger.info("asking again", extra={"url": url, "reason": str(error)})
            await self._requests.pause(self._waits, url, error)
            return
        final = [
            (endpoint.host.authority, error)
            for endpoint, error in self._failed
            if isinstance(error, errors.PermanentError)
        ]
        said = "; ".join(
            f"{endpoint.host.authority}: {failures.in_short(error)}"
            for endpoint, error in self._failed
        )
        if len(final) == len(self._failed):
            raise failures.of_all(str(self._reference), self.what, final)
        if final and self._is_decided(final[-1][0]):
            raise failures.RequestRefused(f"no host gave {self.what} of {self._reference}: {said}")
        await self._requests.pause(
            self._waits, f"the hosts of {self._reference}", failures.Again(said)
        )

    def _is_decided(self, refuser: str) -> bool:
        """Whether to wait no longer for the others, once a host has said no: `refuser`.

        In a cluster that reaches the mirror alone, the registry itself never answers.
        """
        silent = [
            endpoint
            for endpoint, error in self._failed
            if isinstance(error, failures.Again) and not error.answered
        ]
        others = [
            error for _, error in self._failed if not isinstance(error, errors.PermanentError)
        ]
        if len(silent) < len(others) and refuser != self._endpoints[-1].host.authority:
            return False
        now = asyncio.get_running_loop().time()
        self._decided = now + _DECIDED_SECONDS if self._decided is None else self._decided
        return now >= self._decided or (
            len(silent) == len(others) and all(each.origin in self._known_silent for each in silent)
        )
