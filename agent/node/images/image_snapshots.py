"""The snapshots of images: which exist, and having the snapshotter serve them from the store.

Everything goes through containerd, which keeps its own record of each snapshot
beside the snapshotter's: a snapshot exists only where both have it.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.clients.containerd import objects, rpc
from agent.kits.aio import shared_lock, tasks
from agent.model import keys

_LEASE_SECONDS = 600.0
_REMEMBERED = 512
"""Chains whose snapshots are known to exist: other images share layers with them."""
_MOUNTED = 4096
_LABEL_DIGITS = 12


def random_key() -> str:
    """A part that makes the key of a snapshot unique."""
    return secrets.token_hex(6)


class Prover(Protocol):
    """Proves to the snapshotter that the agent makes a request."""

    async def labels(self, chain_id: str) -> Mapping[str, str]:
        """The labels of a request for a chain ID; none where it cannot be proved."""


class Chains:
    """The chains of one snapshotter in containerd."""

    def __init__(
        self,
        client: rpc.Client,
        prover: Prover,
        *,
        snapshotter: str,
        make_key: Callable[[], str] = random_key,
    ) -> None:
        self._client = client
        self._prover = prover
        self._make_key = make_key
        self.gate = shared_lock.Gate()
        """Registrations share it; the removal of lost snapshots holds it alone."""
        self.snapshotter = snapshotter
        self._existing: dict[str, Sequence[str]] = {}
        self._mounted: set[str] = set()

    async def exists(self, chain_id: str, *, snapshotter: str = "") -> bool:
        """Whether a snapshot exists, in the uimgacc snapshotter or in another one."""
        try:
            await self._client.stat(snapshotter or self.snapshotter, chain_id)
        except rpc.NotFoundError:
            return False
        except rpc.RefusedError:
            # containerd no longer has that snapshotter. About the own one this says nothing.
            if not snapshotter:
                raise
            return False
        return True

    def remember(self, chain: Sequence[str]) -> None:
        """Note that the snapshots of a chain exist: chains that begin alike are partly here."""
        if chain:
            self._existing.pop(chain[-1], None)  # the oldest go first
            self._existing[chain[-1]] = chain
            while len(self._existing) > _REMEMBERED:
                del self._existing[next(iter(self._existing))]

    async def count(self, chain: Sequence[str]) -> int:
        """How many layers of a chain, from the bottom, have snapshots.

        Nearly always it is all of them or none. Otherwise, as each needs the one below it,
        a bisection finds the first that is missing.
        """
        if not chain:
            return 0
        bottom, top = await tasks.together(self.exists(chain[0]), self.exists(chain[-1]))
        if top or not bottom:
            return len(chain) if top else 0
        low, high = 1, len(chain) - 1
        while low < high:
            middle = (low + high) // 2
            if await self.exists(chain[middle]):
                low = middle + 1
            else:
                high = middle
        return low

    async def count_shared(self, chain: Sequence[str]) -> int:
        """How many layers a chain shares with another one whose snapshots exist."""
        shared = [(_common(chain, other), top) for top, other in self._existing.items()]
        for number, top in sorted(shared, reverse=True):
            if not number:
                break
            if await self.exists(top):
                return number
            # Two callers may ask at once, and the other one may have removed it.
            self._existing.pop(top, None)
        return 0

    async def serve(self, chain: Sequence[str], *, lease: str) -> bool:
        """Have all of a chain served from the store as one snapshot; whether it is.

        Without a parent, the snapshotter takes a chain ID for all its layers: whatever their
        number, one request of containerd has them mounted and recorded. False where the
        snapshotter would unpack the chain instead.
        """
        if chain and not await self._serve(chain[-1], "", lease):
            return False
        self.remember(chain)
        return True

    async def lay_out(self, chain: Sequence[str], *, lease: str) -> bool:
        """Have each layer of a chain served as a snapshot of its own; whether all are.

        A pull looks for these snapshots one by one, from the bottom.
        """
        parents = ["", *chain]
        for parent, chain_id in zip(parents, chain, strict=False):
            if not await self._serve(chain_id, parent, lease):
                return False
        return True

    async def complete(
        self, chain: Sequence[str], config: str, *, lease: str = ""
    ) -> Sequence[str]:
        """Have each layer of an image be a snapshot of its own, as long as the image is there.

        A pull looks for them one by one, and so does containerd where the image is a volume
        (client/image.go, Unpack). Returns the chain IDs that have none, which is none of them
        where all went well. `config` is the image's, `lease` one of the caller's.
        """
        below = chain[:-1]
        if not below:
            return ()
        async with contextlib.AsyncExitStack() as stack:
            parents = await self._parents(below)
            if None in parents:
                lease = lease or await stack.enter_async_context(self.lease())
                await self.lay_out(below, lease=lease)
                parents = await self._parents(below)
            if None not in parents and await self._protect(config, _heads(below, parents)):
                # A garbage collection may have come before that.
                parents = await self._parents(below)
        return [each for each, parent in zip(below, parents, strict=True) if parent is None]

    async def _parents(self, chain: Sequence[str]) -> Sequence[str | None]:
        """The parents of the snapshots of a chain, "" for none; None where there is no snapshot."""
        return await tasks.together(*(self._parent(each) for each in chain))

    async def _parent(self, chain_id: str) -> str | None:
        try:
            return (await self._client.stat(self.snapshotter, chain_id)).parent
        except rpc.NotFoundError:
            return None

    async def _protect(self, config: str, chain_ids: Sequence[str]) -> bool:
        """Have an image's config protect chains below its top from garbage collection.

        Returns whether it did not before.
        """
        wanted = {self._label_below(each): each for each in chain_ids}
        existing = (await self._client.blob(config)).labels
        if wanted.items() <= existing.items():
            return False
        await self._client.label_blob(config, wanted)
        return True

    async def _serve(self, chain_id: str, parent: str, lease: str) -> bool:
        key = f"extract-uimgacc-{self._make_key()} {chain_id}"
        labels = {keys.SNAPSHOT_REF: chain_id, **await self._prover.labels(chain_id)}
        try:
            await self._client.prepare(
                self.snapshotter, key, parent=parent, labels=labels, lease=lease
            )
        except rpc.ExistsError:
            return True
        with contextlib.suppress(errors.AgentError):
            # If this fails, the end of the lease removes it.
            await self._client.remove(self.snapshotter, key)
        return False

    async def lease_for_pull(self, top: str) -> str:
        """A lease that keeps what a pull of the image with this top chain ID will need.

        It ends by itself: the pull comes within minutes, or never.
        """
        return await self._client.renew_lease(_name_for_pull(top), _LEASE_SECONDS)

    async def end_lease_for_pull(self, top: str) -> None:
        """End that lease now; one that is gone is fine."""
        await self._client.end_lease(_name_for_pull(top))

    async def ensure_mounted(self, chain_id: str) -> None:
        """Have the layers of a chain mounted, as after a reboot; does nothing where they are.

        A view of the chain makes the snapshotter mount all of it.
        """
        if not chain_id or chain_id in self._mounted:
            return
        async with self.lease() as lease:
            key = f"uimgacc-view-{self._make_key()}"
            await self._client.view(self.snapshotter, key, parent=chain_id, lease=lease)
            await self._client.remove(self.snapshotter, key)
        self.note_mounted(chain_id)

    def note_mounted(self, chain_id: str) -> None:
        """Note that the layers of a chain are mounted."""
        if len(self._mounted) >= _MOUNTED:
            # It takes months to get here; each image is then checked once more.
            self._mounted.clear()
        self._mounted.add(chain_id)

    def forget_mounts(self) -> None:
        """Check mounts again: the snapshotter has restarted, perhaps with nothing mounted."""
        self._mounted.clear()

    async def remove(self, key: str) -> None:
        """Remove a snapshot from containerd; one that is gone is fine.

        Raises StateError where another snapshot has it as its parent.
        """
        with contextlib.suppress(rpc.NotFoundError):
            await self._client.remove(self.snapshotter, key)

    async def refer(self, config: str, chain_id: str, *, lease: str) -> None:
        """Have the config of an image protect its chain from garbage collection."""
        labels = {
            f"{keys.GC_SNAPSHOT}{self.snapshotter}": chain_id,
            f"{keys.SET_ASIDE}{self.snapshotter}": "",
        }
        await self._client.label_blob(config, labels, lease=lease)

    def _label_below(self, chain_id: str) -> str:
        """The label that protects a chain below the top of an image."""
        # The part after the slash makes the reference unique: containerd, core/metadata/gc.go.
        return f"{self._references_below}{chain_id.rpartition(':')[2][:_LABEL_DIGITS]}"

    @property
    def _references_below(self) -> str:
        return f"{keys.GC_SNAPSHOT}{self.snapshotter}/"

    async def _let_go(self, config: str, labels: Mapping[str, str]) -> None:
        """End all protection of an image's chains, and set other labels of its config."""
        existing = (await self._client.blob(config)).labels
        below = (key for key in existing if key.startswith(self._references_below))
        own = f"{keys.GC_SNAPSHOT}{self.snapshotter}"
        await self._client.label_blob(config, {**dict.fromkeys((own, *below), ""), **labels})

    async def set_aside(self, config: str) -> None:
        """End that protection, with a note that the image was on the uimgacc snapshotter.

        Without the note, an agent that is killed before the image is served again
        would not know that it has to restore the image.
        """
        await self._let_go(config, {f"{keys.SET_ASIDE}{self.snapshotter}": "true"})

    async def forget(self, config: str) -> None:
        """Remove all references to the uimgacc snapshotter: the image is on another one."""
        await self._let_go(config, {f"{keys.SET_ASIDE}{self.snapshotter}": ""})

    async def served(self, chain_ids: Collection[str]) -> frozenset[str]:
        """Those of some snapshots that are served from the store: they take no inode of the local
        disk."""
        served = set()
        for chain_id in chain_ids:
            try:
                if not await self._client.usage(self.snapshotter, chain_id):
                    served.add(chain_id)
            except rpc.NotFoundError:
                continue
        return frozenset(served)

    async def elsewhere(self, containers: Collection[objects.Container]) -> Collection[str]:
        """The IDs of containers that read the store by the other snapshotter.

        They began before node set-up went from that to this one: here from --native.
        """
        name = keys.NATIVE_SNAPSHOTTER
        there = [each for each in containers if each.snapshotter == name]
        if not there:
            return ()
        linked = await self._client.snapshots_with(name, keys.NATIVE_LAYER)
        standing = standing_on(linked, await self._client.snapshots(name))
        return [each.id for each in there if each.snapshot_key in standing]

    async def collect(self) -> None:
        """Have containerd collect its garbage, and wait for that."""
        lease = await self._client.create_lease(_LEASE_SECONDS)
        await self._client.delete_lease(lease, collect=True)

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[str]:
        """A lease for the time of the context; if deleting it fails, it expires."""
        lease = await self._client.create_lease(_LEASE_SECONDS)
        try:
            yield lease
        finally:
            with contextlib.suppress(errors.AgentError):
                await self._client.delete_lease(lease)


def standing_on(bases: Collection[str], parents: Mapping[str, str]) -> frozenset[str]:
    """Of snapshots, with their parents, those that are or have one of `bases` below them."""
    standing = set(bases)
    cleared = {""}
    for name in parents:
        above, at = [], name
        while at not in standing and at not in cleared:
            above.append(at)
            at = parents.get(at, "")
        (standing if at in standing else cleared).update(above)
    return frozenset(standing)


def _name_for_pull(top: str) -> str:
    return f"pull-{top.rpartition(':')[2][:24]}"


def _heads(chain: Sequence[str], parents: Sequence[str | None]) -> list[str]:
    """The snapshots of a chain that no other one of it keeps, given the parents of all.

    The topmost is one. Another layer is one where the layer above was served as one snapshot
    with all below it, for an image that ends there: that snapshot has no parent.
    """
    above = [*parents[1:], ""]
    return [each for each, parent in zip(chain, above, strict=True) if parent != each]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many layers two chains share; a chain ID stands for all below it."""
    return sum(left == right for left, right in zip(one, other, strict=False))
