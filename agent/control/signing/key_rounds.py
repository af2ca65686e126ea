"""The leader's key: made once, published, replaced without a gap; and what it has signed.

Builds are signed through `sign`. Every minute the keys are read again, the ConfigMap is put
right, a rotation goes on by one step, and it is counted which caches are not signed. Those are
in a store that is older than its key: until none is left, nodes accept what is not signed, which
the log, a metric, and the status of each such cache say. From then on they refuse it, for good.
"""

import asyncio
import dataclasses
import datetime
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agent import errors
from agent.control.signing import key_objects, key_ring, signing_worker
from agent.kits.aio import backoff
from agent.kits.processes import workers
from agent.metrics import cache_metrics
from agent.model import records, times
from agent.store import signatures, signing_keys, trusted_keys
from agent.store.publish import record_signing

logger = logging.getLogger(__name__)

_ROUND = 60.0
_THOROUGH = datetime.timedelta(hours=1)
_SECONDS = 60.0
_AGAIN_SECONDS = 1800.0
_PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)


class SigningFailed(errors.PermanentError):
    """The records of a build were not signed."""


class NotReady(errors.TemporaryError):
    """The key or the store cannot be used at the moment. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"nothing can be signed at the moment: {reason}")
        self.reason = reason


class Signing:
    """Signs in the store at `root`; `on_unsigned` is called where other caches are not signed."""

    def __init__(
        self,
        root: str,
        pool: workers.Caller,
        objects: key_objects.KeyObjects,
        *,
        on_unsigned: Callable[[], None] = lambda: None,
        clock: times.Clock = times.now,
    ) -> None:
        self._root = root
        self._pool = pool
        self._objects = objects
        self._on_unsigned = on_unsigned
        self._clock = clock
        self._ring: key_ring.Ring | None = None
        self._unsigned: frozenset[str] = frozenset()
        self._looked_at: tuple[bytes, int] | None = None
        self._looked = times.EPOCH

    @property
    def document(self) -> str:
        """The public keys as JSON, for builders; "" before there are any."""
        ring = self._ring
        return "" if ring is None else msgspec.json.encode(ring.document).decode()

    @property
    def refuses(self) -> bool:
        """Whether nodes refuse what is not signed."""
        return self._ring is not None and self._ring.document.unsigned == "refuse"

    def has_signed(self, record: records.CacheRecord) -> bool:
        """Whether the record of a cache has a signature that counts."""
        if self._ring is None:
            return False
        trust = signatures.Trust(self._ring.public, self._clock)
        return trust.has_signed(signatures.of_cache(record), record.signatures)

    async def sign(self, wanted: record_signing.Wanted, digest: str, layers: Sequence[str]) -> None:
        """Sign the records of a build; raise SigningFailed, or NotReady: try again."""
        fields = dataclasses.asdict(wanted)
        kind, result = await self._call(
            "sign_build", fields, digest, list(layers), self._key(), seconds=_SECONDS
        )
        if kind != signing_worker.SIGNED:
            raise SigningFailed(result)
        logger.info("signed", extra={"cache": wanted.cache_id, "records": result})

    async def prepare(self, store: str) -> None:
        """Have a key for the store of this ID, and publish it; waits for an API that is away."""
        pauses = backoff.Backoff(_PAUSES)
        while True:
            try:
                self._ring = await self._ready(store)
                await self._objects.publish(self._ring)
            except errors.TemporaryError as error:
                logger.warning("no key yet", extra={"reason": str(error)})
                await asyncio.sleep(pauses.take())
            else:
                return

    async def run(self) -> None:
        """Do rounds for ever; a failed one is repeated by the next."""
        while True:
            try:
                await self.round()
            except errors.AgentError as error:
                logger.warning("the keys are left as they are", extra={"reason": str(error)})
            await asyncio.sleep(_ROUND)

    async def round(self) -> None:
        """Read the keys, do the next step of a rotation, count the caches that are not signed."""
        ring = await self._objects.read()
        if ring is None:
            raise NotReady(f"the Secret {key_objects.SECRET} is gone; restart the controller")
        ring = await self._rotate(ring)
        self._ring = ring
        if await self._objects.publish(ring):
            logger.info("keys published", extra={"keys": [key.id for key in ring.public]})
        unsigned = await self._look_for_unsigned(ring)
        cache_metrics.UNSIGNED_CACHES.set(len(unsigned))
        if not unsigned and not self.refuses:
            await self._save(key_ring.refusing(ring))
            logger.info("all caches are signed: from now on nodes refuse what is not")
        if unsigned != self._unsigned:
            self._unsigned = unsigned
            self._on_unsigned()
            if unsigned:
                logger.warning(
                    "caches are not signed: build them again, or run `uimgacc store sign`",
                    extra={"caches": len(unsigned), "nodes": _nodes(refuse=self.refuses)},
                )

    async def _look_for_unsigned(self, ring: key_ring.Ring) -> frozenset[str]:
        """The caches that are not signed: all are read where one has changed, or once an hour."""
        document = trusted_keys.encode(ring.document)
        state = document, await self._call("caches_time", seconds=_SECONDS)
        now = self._clock()
        if state == self._looked_at and now - self._looked < _THOROUGH:
            return self._unsigned
        unsigned = frozenset(await self._call("unsigned_caches", document, seconds=_SECONDS))
        self._looked_at, self._looked = state, now
        return unsigned

    async def _ready(self, store: str) -> key_ring.Ring:
        """The keys; made where there are none."""
        ring = await self._objects.read()
        if ring is None:
            refuses = await self._objects.refuses() or not await self._call(
                "has_caches", seconds=_SECONDS
            )
            ring = key_ring.created(
                store,
                self._clock(),
                signing_keys.generate(),
                unsigned="refuse" if refuses else "accept",
            )
            await self._objects.write(ring)
            ring = await self._objects.read() or ring
            logger.info("a key is made", extra={"keys": [key.id for key in ring.public]})
        if ring.store != store:
            # Another folder was put at the store's place: to sign it would vouch for it.
            raise key_objects.KeysDamaged(f"it is for the store {ring.store}, not for {store}")
        return ring

    async def _rotate(self, ring: key_ring.Ring) -> key_ring.Ring:
        now = self._clock()
        swept = key_ring.swept(ring, now)
        if swept is not ring:
            return await self._save(swept)
        replaced = ring.replaced(now)
        if not replaced:
            return ring
        self._ring = ring
        document = trusted_keys.encode(ring.document)
        kind, result = await self._call(
            "sign_again", self._key(), document, [], seconds=_AGAIN_SECONDS
        )
        if kind != signing_worker.SIGNED:
            logger.info("not signed again yet", extra={"reason": str(result)})
            return ring
        logger.info("signed again by the new key", extra={"records": result})
        if result.get("CHANGED"):
            return ring
        return await self._save(key_ring.retired(ring, now))

    async def _save(self, ring: key_ring.Ring) -> key_ring.Ring:
        await self._objects.write(ring)
        self._ring = await self._objects.read() or ring
        await self._objects.publish(self._ring)
        return self._ring

    def _key(self) -> dict[str, Any]:
        """The key that signs, for a worker."""
        ring = self._ring
        key = None if ring is None else ring.current(self._clock())
        if ring is None or key is None:
            raise NotReady("no key is in use")
        return {"pem": key.pem(), "store": ring.store}

    async def _call(self, operation: str, *arguments: Any, seconds: float) -> Any:
        try:
            return await self._pool.call(operation, self._root, *arguments, deadline=seconds)
        except (errors.AgentError, OSError) as error:
            raise NotReady(str(error)) from error


def _nodes(*, refuse: bool) -> str:
    return "pull their images as usual" if refuse else "still accept them"
