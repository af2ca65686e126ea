"""What a look-up answers, and what is asked of it."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from agent.metrics import snapshotter_metrics
from agent.mounts import verification
from agent.mounts.devices import device_mapper
from agent.store.lookup import layer_permissions


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A layer on top of a chain: its diff ID, its file in the store and that file's size in bytes.

    `device` is the st_dev of its mount where the look-up has mounted it, `confirmed`
    says that the store had the chain afterwards, too. `tree` is what it is verified by.
    """

    chain_id: str
    diff_id: str
    path: pathlib.Path
    size: int
    device: int | None = None
    confirmed: bool = False
    tree: device_mapper.Tree | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """What one snapshot is served from: the layer of its chain ID first, then those below."""

    layers: tuple[Layer, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Miss:
    """It cannot be served; `reason` is the label of uimgacc_fallback_total.

    `mounted` where the look-up may have mounted layers all the same, which no snapshot has.
    """

    reason: snapshotter_metrics.LayerReason
    mounted: bool = False


class Lookup(Protocol):
    """What is asked: store_lookup.StoreLookup, or near_lookup.NearLookup before it."""

    @property
    def verified(self) -> verification.Verification | None:
        """What verifies each block as it is read; None where nothing does."""

    def path(self, diff_id: str) -> pathlib.Path:
        """The file of a layer in the store; where there is a copy here, that is mounted instead."""

    def is_out_of_reach(self, diff_ids: Iterable[str]) -> bool:
        """Whether one of some layers could be had from the store alone, which is not asked now."""

    def pause_after(self, error: Exception) -> None:
        """Do not ask the store for a while."""

    async def find(
        self, chain_id: str, requester: layer_permissions.Requester, *, whole: bool
    ) -> Hit | Miss:
        """Look a chain ID up; `whole`: with all that it stands on. Raises nothing."""

    async def confirm(self, layers: Sequence[Layer]) -> Miss | None:
        """Look again whether the store has chains, after their layers' mounts. Raises nothing."""

    async def damaged(self, diff_ids: Sequence[str]) -> Mapping[str, str] | None:
        """Which layers the store calls damaged, and why; None where it does not answer now."""

    async def tree(self, diff_id: str, size: int) -> device_mapper.Tree | None:
        """What a layer is verified by that was served before; AgentError, OSError."""
