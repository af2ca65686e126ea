"""The files of a deletion under way, and its steps (docs/internals/store.md, "Deleting").

    meta/retired/<token>.pending    planned; a builder that wants some of it cancels it
    meta/retired/<n>.list           what will be generation n, before it is decided
    meta/retired/<n>.hiding         decided: images, chains and blobs are going
    meta/retired/<n>.json           hidden; nodes let go of it
    meta/retired/<n>-<token>.doomed all nodes have; a builder that wants some of it cancels
    meta/retired/<n>.deleting       decided: files are going

Planned becomes decided by one rename, and cancelled by one unlink, of the same file:
the server lets exactly one of them succeed, whatever a client has read before.
"""

import contextlib
import dataclasses
import enum
import errno
import fcntl
import os
import pathlib
import re
import secrets
from collections.abc import Iterator

from agent import errors
from agent.kits import files
from agent.model import records
from agent.store import decoding, layout

_NUMBER = re.compile(r"([1-9][0-9]{0,17})\.(list|hiding|json|deleting)")
_DOOMED = re.compile(r"(([1-9][0-9]{0,17})-[0-9a-f]{12})\.doomed")
_NODES_A_SECOND = 20.0
"""That acknowledge a generation: each patches its Node object for it."""
_TOKEN = re.compile(r"([0-9]{6}-[0-9a-f]{12})\.pending")


class CollectorBusy(errors.TemporaryError):
    """Another collector works in this store at the moment."""

    def __init__(self) -> None:
        super().__init__("another collector works on this store at the moment", delay=10.0)


class CollectionRefused(errors.PermanentError):
    """Nothing is deleted while a record is damaged: it is not known what it names.

    `name` is that record, `reason` what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"not deleting: {name} is damaged ({reason}); run `uimgacc store check`")
        self.name = name
        self.reason = reason


class Phase(enum.Enum):
    """How far the deletion of a generation is."""

    HIDING = "hiding"
    RETIRED = "retired"
    DOOMED = "doomed"
    DELETING = "deleting"


@dataclasses.dataclass(frozen=True, slots=True)
class Outstanding:
    """The deletions under way: `pending` tokens in their order, numbers with their phase.

    `doomed` has the tokens of generations in that phase, `leftovers` are files that
    belong to no step any more.
    """

    pending: tuple[str, ...]
    phases: dict[int, Phase]
    doomed: dict[int, str]
    leftovers: tuple[pathlib.Path, ...]


@contextlib.contextmanager
def locked(place: layout.Layout) -> Iterator[None]:
    """Be the only collector of a store; raise CollectorBusy where another one is.

    A collector that is stopped keeps the lock; one that dies loses it. Over NFS this
    is a lock at the server.
    """
    files.make_folder(place.collector_lock.parent)
    descriptor = os.open(place.collector_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise CollectorBusy from error
            raise
        yield
    finally:
        os.close(descriptor)


def outstanding(place: layout.Layout) -> Outstanding:
    """Look at what is under way."""
    pending = []
    kinds: dict[int, set[str]] = {}
    doomed: dict[int, str] = {}
    for name in _listed_twice(place.retired_records):
        if match := _TOKEN.fullmatch(name):
            pending.append(match[1])
        elif match := _DOOMED.fullmatch(name):
            doomed[int(match[2])] = match[1]
        elif match := _NUMBER.fullmatch(name):
            kinds.setdefault(int(match[1]), set()).add(match[2])
    phases = {}
    leftovers = []
    for number, kind in sorted(kinds.items()):
        if (phase := _phase(kind, is_doomed=number in doomed)) is not None:
            phases[number] = phase
        else:
            leftovers.append(marker(place, number, "list"))
    for number, token in doomed.items():
        if phases.get(number) is not Phase.DOOMED:
            leftovers.append(marker(place, token, "doomed"))
    return Outstanding(tuple(pending), phases, doomed, tuple(leftovers))


def _phase(kinds: set[str], *, is_doomed: bool) -> Phase | None:
    """The phase of a generation with files of these kinds; None where only a draft is there."""
    if "hiding" in kinds:
        return Phase.HIDING
    if "deleting" in kinds:
        return Phase.DELETING
    if "json" in kinds:
        return Phase.DOOMED if is_doomed else Phase.RETIRED
    return None


def newest(place: layout.Layout) -> int:
    """The newest generation that was published to nodes; raise CollectionRefused on damage."""
    try:
        return decoding.generation(place.generation_record.read_bytes()).generation
    except FileNotFoundError:
        return 0
    except records.RecordError as error:
        raise CollectionRefused(error.name, error.reason) from error


def nodes(place: layout.Layout) -> dict[str, records.KnownNode]:
    """The nodes that the collector waits for; raise CollectionRefused on damage."""
    try:
        return decoding.nodes(place.nodes_record.read_bytes()).nodes
    except FileNotFoundError:
        return {}
    except records.RecordError as error:
        raise CollectionRefused(error.name, error.reason) from error


def publish_newest(place: layout.Layout, number: int) -> None:
    """Publish a generation to the nodes; the number never goes back."""
    if newest(place) < number:
        spread = round(len(nodes(place)) / _NODES_A_SECOND, 1)
        record = records.GenerationRecord(generation=number, spread=spread)
        files.write(place.generation_record, records.encode(record), tmp=place.tmp)


def marker(place: layout.Layout, name: int | str, step: str) -> pathlib.Path:
    """The file that stands for a step."""
    return place.retired_records / f"{name}.{step}"


def plan(place: layout.Layout, order: int, record: records.RetiredRecord) -> None:
    """Write down what is to be retired; `order` says in which order within this round."""
    token = f"{order:06d}-{secrets.token_hex(6)}"
    files.write(marker(place, token, "pending"), records.encode(record), tmp=place.tmp)


def planned(place: layout.Layout, token: str) -> records.RetiredRecord | None:
    """What a plan wants to retire; None where it has been cancelled."""
    return _read(marker(place, token, "pending"), None)


def content(place: layout.Layout, number: int) -> records.RetiredRecord | None:
    """What a generation retires; None where all of it is gone. Raises CollectionRefused."""
    return _read(place.retired_record(number), number)


def decided(place: layout.Layout, number: int) -> records.RetiredRecord | None:
    """What a generation that is being hidden retires. Raises CollectionRefused."""
    return _read(marker(place, number, "list"), number)


def doom(place: layout.Layout, number: int) -> None:
    """Say that the files of a generation are about to go."""
    path = marker(place, f"{number}-{secrets.token_hex(6)}", "doomed")
    path.touch()
    files.sync_folder(path.parent)


def replace(place: layout.Layout, record: records.RetiredRecord) -> None:
    """Publish what a generation retires, or what is left of that; nothing is no file."""
    path = place.retired_record(record.generation)
    if record.layers:
        files.write(path, records.encode(record), tmp=place.tmp)
    else:
        remove(path)
        files.sync_folder(path.parent)


def move(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Decide a step: durably rename its file; False where it was cancelled meanwhile."""
    try:
        source.rename(target)
    except FileNotFoundError:
        return False
    files.sync_folder(target.parent)
    return True


def remove(path: pathlib.Path | str, *, folder: int | None = None) -> bool:
    """Remove a file; False where it was gone. `folder`: the descriptor that `path` starts from."""
    try:
        os.unlink(path, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _read(path: pathlib.Path, number: int | None) -> records.RetiredRecord | None:
    try:
        data = path.read_bytes()
        record = records.decode(data, records.RetiredRecord, str(path))
        return record if number is None else decoding.retired(data, number)
    except FileNotFoundError:
        return None
    except records.RecordError as error:
        raise CollectionRefused(error.name, error.reason) from error


def _listed_twice(folder: pathlib.Path) -> list[str]:
    """What is in a folder, seen twice: a file renamed meanwhile may be in one look by no name."""
    before, now = None, _listed(folder)
    while now != before:
        before, now = now, _listed(folder)
    return now


def _listed(folder: pathlib.Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are all that is wanted
    except FileNotFoundError:
        return []
