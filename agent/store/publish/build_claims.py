"""The builder's side of deleting safely: it says what it counts on before it looks for it.

A build writes its claim first, then looks at the deletions under way. A collector
writes its plan first, then, after the time that caches of the shared file system may
lag, looks at claims and caches. So at least one of the two sees the other. What is
planned is cancelled by the builder; what is being taken away at the moment is waited for.
"""

import contextlib
import logging
import os
import pathlib
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator

from agent import errors
from agent.kits import files
from agent.model import records
from agent.store import decoding, layout
from agent.store.gc import generations

logger = logging.getLogger(__name__)

HEARTBEAT = 60.0
EXPIRES = 3600.0
"""Seconds without a sign of life after which a build is taken for dead."""

LINGERS = 600.0
"""Seconds for which the claim of a finished build counts: its cache may be seen later."""


class ClaimLost(errors.TemporaryError):
    """A build was silent for so long that its claim has been removed: it must begin anew."""

    def __init__(self) -> None:
        super().__init__(
            "this build was stopped for so long that others took it for dead: build again"
        )


class Claim:
    """What one build counts on. Use as a context; leaving it does not end the claim.

    A build that fails leaves its claim to expire, which keeps its finished layers for
    the next try; `finish` and `withdraw` end it sooner.
    """

    def __init__(self, place: layout.Layout, build: str, *, heartbeat: float = HEARTBEAT) -> None:
        self._place = place
        self._heartbeat = heartbeat
        self._id = f"{build}.{socket.gethostname()[:32]}.{secrets.token_hex(4)}"
        self._path = place.claims / f"{self._id}.json"
        self._names: set[str] = set()
        self._images: set[str] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._lost = False

    def __enter__(self) -> "Claim":
        with self._lock:
            self._write(finished=False)
        threading.Thread(target=self._beat, name="claim", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()

    def add(self, names: Iterable[str], images: Iterable[str] = ()) -> int | None:
        """Count on more things, and cancel the plans to delete one of them.

        Returns the generation that is taking one of them away at this moment, if any:
        call again later until it is None; only then look for them. Raises ClaimLost,
        and CollectionRefused where a record of a deletion is damaged.
        """
        with self._lock:
            more = set(names) - self._names, set(images) - self._images
            self._names |= more[0]
            self._images |= more[1]
            if any(more):
                self.check()
                self._write(finished=False)
            return _clear_the_way(self._place, self._names, self._images)

    def check(self) -> None:
        """Raise ClaimLost where the claim does not count any more."""
        if self._lost or not self._path.exists():
            raise ClaimLost

    def finish(self) -> None:
        """All that was claimed is named by a cache now, or is not wanted any more."""
        with self._lock:
            self._write(finished=True)
        self._ended.set()

    def withdraw(self) -> None:
        """Nothing of what was claimed is wanted, and nothing of it was published."""
        with self._lock:
            self._path.unlink(missing_ok=True)
        self._ended.set()

    def others(self) -> set[str]:
        """What the other builds count on: names and images."""
        with self._lock:
            self._write(finished=False)  # which makes this machine look at the folder anew
        return {
            name
            for record in standing(self._place)
            if record.id != self._id
            for name in (*record.names, *record.images)
        }

    def _write(self, *, finished: bool) -> None:
        record = records.ClaimRecord(
            id=self._id,
            names=sorted(self._names),
            images=sorted(self._images),
            finished=finished,
        )
        files.write(self._path, records.encode(record), tmp=self._place.tmp)

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                self._lost = True
                return
            except OSError as error:
                # The store is away. How long that was shows when it is back.
                logger.debug("no sign of life of a build", extra={"reason": str(error)})


def standing(place: layout.Layout) -> Iterator[records.ClaimRecord]:
    """The claims that count, by the clock of the store's server; dead ones are removed.

    Raises CollectionRefused where one is damaged.
    """
    now = files.time_at(place.claims)
    for path in sorted(place.claims.glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            record = read(path)
            silent = now - path.stat().st_mtime
        except FileNotFoundError:
            continue
        if silent <= (LINGERS if record.finished else EXPIRES):
            yield record
        else:
            logger.info("a build's claim has ended", extra={"claim": record.id})
            path.unlink(missing_ok=True)


def read(path: pathlib.Path) -> records.ClaimRecord:
    """One claim; raise CollectionRefused where it is damaged."""
    try:
        return decoding.claim(path.read_bytes(), path.stem)
    except records.RecordError as error:
        raise generations.CollectionRefused(str(path), error.reason) from error


def _clear_the_way(place: layout.Layout, names: set[str], images: set[str]) -> int | None:
    """Cancel what is planned; the number of a generation that cannot be cancelled."""
    deletions = generations.outstanding(place)
    for token in deletions.pending:
        record = generations.planned(place, token)
        if record is not None and _wants(record, names, images):
            path = generations.marker(place, token, "pending")
            if not _cancel(path):
                return generations.newest(place) + 1
    for number, phase in deletions.phases.items():
        if phase is generations.Phase.RETIRED:
            continue
        if phase is generations.Phase.HIDING:
            record = generations.decided(place, number)
            wanted = record is None or _wants(record, names, images)
        else:
            record = generations.content(place, number)
            wanted = record is not None and any(one.diff_id in names for one in record.layers)
        if not wanted:
            continue
        doomed = generations.marker(place, deletions.doomed.get(number, str(number)), "doomed")
        if phase is not generations.Phase.DOOMED or not _cancel(doomed):
            return number
    return None


def _cancel(path: pathlib.Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        files.sync_folder(path.parent)
        logger.info(
            "a planned deletion is cancelled: it is wanted again", extra={"plan": path.stem}
        )
        return True
    return False


def _wants(record: records.RetiredRecord, names: set[str], images: set[str]) -> bool:
    if not names.isdisjoint(record.blobs) or not images.isdisjoint(record.images):
        return True
    return any(
        layer.diff_id in names or not names.isdisjoint(layer.chains) for layer in record.layers
    )
