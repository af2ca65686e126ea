"""The cluster's twins: RuntimeClasses with the label keys.TWIN_OF, followed by a watch."""

import contextlib
import logging

from agent.clients.kube import reflector, rest_client, selection
from agent.matching import pod_moves
from agent.model import keys, manifests

logger = logging.getLogger(__name__)


class TwinClasses:
    """The twins as they are now; none before the first list."""

    def __init__(self, client: rest_client.Client) -> None:
        source = selection.Selection(
            client,
            rest_client.RUNTIME_CLASSES,
            selection.Selectors(labels=keys.TWIN_OF),
            parse=_parse,
        )
        self._reflector = reflector.Reflector(source, subject="runtime classes")
        self._twins: dict[str, pod_moves.Twin] = {}

    @property
    def synced(self) -> bool:
        """Whether the first list is complete."""
        return self._reflector.synced

    def all(self) -> tuple[pod_moves.Twin, ...]:
        """The twins."""
        return tuple(self._twins.values())

    async def run(self) -> None:
        """Follow them, for ever."""
        async with contextlib.aclosing(self._reflector.changes()) as updates:
            async for update in updates:
                if update.item is None:
                    self._twins.pop(update.key, None)
                else:
                    self._twins[update.key] = update.item


def _parse(document: rest_client.Object) -> pod_moves.Twin | None:
    try:
        return pod_moves.read_twin(document)
    except manifests.ManifestError as error:
        logger.warning("a runtime class cannot be read", extra={"reason": str(error)})
        return None
