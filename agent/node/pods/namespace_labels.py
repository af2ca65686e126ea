"""Namespaces whose label stands for the annotation on their pods (keys.CACHE).

The admission policy, or the webhook, writes that annotation when a pod is created. Here it is
for pods that neither has changed: those that were created while the webhook did not answer, and all
pods where neither is installed (overlay default-snapshotter).

One list and one watch of the namespaces that have the label, so an agent that is idle asks for
nothing, and a pod that is decided for waits for no request.
"""

import asyncio
import contextlib

from agent.clients.kube import reflector, rest_client, selection
from agent.matching import annotations, pod_moves
from agent.model import keys

_FIRST_LIST_SECONDS = 5.0


class NamespaceLabels:
    """The namespaces with the label. Never raises for what the API server does."""

    def __init__(
        self, client: rest_client.Client, *, first_list: float = _FIRST_LIST_SECONDS
    ) -> None:
        source = selection.Selection(
            client,
            rest_client.NAMESPACES,
            selection.Selectors(labels=f"{keys.CACHE}={annotations.NAMESPACE_VALUE}"),
            parse=lambda _: annotations.NAMESPACE_VALUE,
        )
        self._reflector = reflector.Reflector(source, subject="namespaces")
        self._first_list = first_list
        self._names: set[str] = set()

    def value_of(self, namespace: str) -> str:
        """The label's value, "" where a namespace has none that means something."""
        if namespace in pod_moves.LEFT_OUT or namespace not in self._names:
            return ""
        return annotations.NAMESPACE_VALUE

    async def wait_known(self) -> None:
        """Until the first list is complete, but for some seconds only: it may not be allowed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._first_list):
                await self._reflector.wait_synced()

    async def run(self) -> None:
        """Follow them, for ever."""
        async with contextlib.aclosing(self._reflector.changes()) as updates:
            async for update in updates:
                if update.item is None:
                    self._names.discard(update.key)
                else:
                    self._names.add(update.key)
