"""What this node knows of how images start: its own profiles, and those of the store.

Its own are in a folder beside the local copies: they are there without a cluster, and before the
controller has taken them. Which one is used is decided here: this node's and the store's of the
very build together; else, of layers that another build of the repository has as well.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from agent import errors
from agent.kits.aio import threads
from agent.local import copy_paths
from agent.metrics import start_metrics
from agent.model import images, records
from agent.model.starts import start_profiles
from agent.node.health import node_root
from agent.store import profile_files
from agent.store.publish import start_reports

logger = logging.getLogger(__name__)

_KEPT = 512
"""Files of a node's own; of more the oldest go."""


class Catalog(Protocol):
    """The store's records: agent.store.lookup.catalog.Catalog."""

    async def profiles(self, reference: images.Reference) -> list[records.ProfileRecord]:
        """The start profiles of an image, and then the newest of its repository."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The profile to read ahead by, and where it is from.

    `observed` are the layers that this build was seen to start from by the store's nodes;
    None where no node has observed this build yet. `own`: this node has.
    """

    source: start_metrics.ProfileSource = "none"
    profile: start_profiles.Profile | None = None
    observed: frozenset[str] | None = None
    own: bool = False


class Book:
    """Looks profiles up, and keeps those of this node."""

    def __init__(self, store: Catalog, node: node_root.Rooted) -> None:
        self._store = store
        self._node = node

    @property
    def _folder(self) -> pathlib.Path | None:
        root = self._node.root
        return pathlib.Path(copy_paths.of(root).profiles) if root else None

    async def find(
        self,
        record: records.ImageRecord,
        made: records.PlatformImage,
        files_of: Callable[[], Awaitable[Sequence[str]]],
    ) -> Known:
        """What is known of an image. A store that does not answer knows nothing.

        `files_of` says which layer files it has; that is asked where another build may share some.
        """
        reference = images.parse_reference(record.ref)
        own: list[records.ProfileRecord] = []
        if (folder := self._folder) is not None:
            own = await threads.run("profiles", profile_files.read_all, folder, reference)
        try:
            stored = await self._store.profiles(reference)
        except errors.AgentError as error:
            logger.info("the store's start profiles are not known", extra={"reason": str(error)})
            stored = []
        known = _chosen(own, stored, made)
        if known.profile is None and (others := [*stored, *own]):
            shared = profile_files.profile_shared(others, made.platform, await files_of())
            known = Known(source="shared", profile=shared) if shared is not None else known
        return known

    async def is_stored(
        self, record: records.ImageRecord, made: records.PlatformImage, layers: Sequence[str]
    ) -> bool:
        """Whether the store has these layers' part of the profile. Raises AgentError."""
        stored = await self._store.profiles(images.parse_reference(record.ref))
        profile = profile_files.profile_of(stored, made.manifest)
        return profile is not None and set(layers) <= set(profile.layers)

    async def keep(
        self,
        record: records.ImageRecord,
        made: records.PlatformImage,
        profile: start_profiles.Profile,
    ) -> None:
        """Keep what this node has observed; raises OSError."""
        if (folder := self._folder) is not None:
            await threads.run("profiles", _keep, folder, record.ref, made, profile)


def _keep(
    folder: pathlib.Path,
    ref: str,
    made: records.PlatformImage,
    profile: start_profiles.Profile,
) -> None:
    start_reports.put(folder, ref, made, profile, tmp=folder)
    profile_files.keep_newest(folder, _KEPT)


def _chosen(
    own: list[records.ProfileRecord],
    stored: list[records.ProfileRecord],
    made: records.PlatformImage,
) -> Known:
    mine = profile_files.profile_of(own, made.manifest)
    theirs = profile_files.profile_of(stored, made.manifest)
    observed = frozenset(theirs.layers) if theirs is not None else None
    if mine is not None:
        both = start_profiles.merged(mine, theirs) if theirs is not None else mine
        return Known(source="node", profile=both, observed=observed or frozenset(), own=True)
    if theirs is not None:
        return Known(source="store", profile=theirs, observed=observed)
    return Known()
