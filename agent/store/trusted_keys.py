"""The keys that a store's signatures are verified by, as a folder of JSON documents.

In a cluster that folder is the ConfigMap `uimgacc-keys`: the controller writes `keys.json`, and
people may add others, such as that of the cluster that a store was released by. A node reads it
again when it changes. A document that is damaged changes nothing on a node that has keys; on one
that has none yet, nothing unsigned is accepted until it is corrected.
"""

import base64
import binascii
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from agent import errors
from agent.metrics import shared_metrics
from agent.model import times
from agent.store import signatures

logger = logging.getLogger(__name__)

NAME = "keys.json"
"""The document that the controller writes."""

Unsigned = Literal["accept", "refuse"]
"""What a node does with records that are not signed."""

Wanted = Literal["auto", "accept", "refuse"]
"""The same as a setting; auto: as the documents say, and accept where there are none."""

_LIMIT = 1 << 20
_READ_AGAIN = 5.0
_MOST_KEYS = 32
_MOST_REFUSED = 1000


class KeysUnusable(errors.PermanentError):
    """A document of keys cannot be used. `name` is the file, `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the keys in {name} cannot be used: {reason}")
        self.name = name
        self.reason = reason


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key: `ed25519` are its 32 bytes in base64, times are RFC 3339."""

    id: str
    ed25519: str
    not_before: str
    not_after: str | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one store, and what nodes do without a signature of them."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    store: str
    unsigned: Unsigned = "refuse"
    keys: Annotated[list[KeyEntry], msgspec.Meta(max_length=_MOST_KEYS)]


# Made in the one thread that imports; see agent.model.records.
_DOCUMENT = msgspec.json.Decoder(Document)


def encode(document: Document) -> bytes:
    """The bytes of a document."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def decode(data: bytes, name: str) -> Document:
    """Read a document; raise KeysUnusable."""
    try:
        document = _DOCUMENT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeysUnusable(name, str(error)) from error
    keys_of(document, name)
    return document


def entry_of(key: signatures.PublicKey) -> KeyEntry:
    """A key as an entry of a document."""
    return KeyEntry(
        id=key.id,
        ed25519=base64.b64encode(key.value).decode(),
        not_before=times.stamp(key.not_before),
        not_after=None if key.not_after is None else times.stamp(key.not_after),
    )


def keys_of(document: Document, name: str = NAME) -> tuple[signatures.PublicKey, ...]:
    """The keys of a document; raise KeysUnusable."""
    return tuple(_key(entry, document.store, name) for entry in document.keys)


def _key(entry: KeyEntry, store: str, name: str) -> signatures.PublicKey:
    try:
        value = base64.b64decode(entry.ed25519, validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeysUnusable(name, f"key {entry.id}: {error}") from error
    since, until = times.parse(entry.not_before), times.parse(entry.not_after)
    if len(value) != 32 or signatures.key_id(value) != entry.id:
        raise KeysUnusable(name, f"key {entry.id} is not an Ed25519 key of that ID")
    if since is None or (entry.not_after is not None and until is None):
        raise KeysUnusable(name, f"key {entry.id} has a time that is none")
    return signatures.PublicKey(value=value, store=store, not_before=since, not_after=until)


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """Which signatures count, and whether a record needs one."""

    trust: signatures.Trust
    refuses: bool = False


def read(place: pathlib.Path) -> list[Document]:
    """The documents of a folder, or one; none where there is none. Raises KeysUnusable."""
    documents = []
    try:
        paths = sorted(place.glob("*.json")) if not place.is_file() else [place]
        for path in paths:
            if not path.name.startswith("."):
                with path.open("rb") as file:
                    documents.append(decode(file.read(_LIMIT), str(path)))
    except OSError as error:
        raise KeysUnusable(str(place), str(error)) from error
    return documents


def policy_of(documents: list[Document], wanted: Wanted) -> Policy:
    """What follows from documents and setting."""
    keys = tuple(key for document in documents for key in keys_of(document))
    refuses = wanted == "refuse" or (
        wanted == "auto" and any(document.unsigned == "refuse" for document in documents)
    )
    return Policy(signatures.Trust(keys), refuses)


class Keys:
    """The keys of a node, by the documents in `folder` (None: there are none).

    Keys that were read once stay until others are there: an empty folder is no reason to accept
    what is not signed.
    """

    def __init__(
        self,
        folder: pathlib.Path | None = None,
        wanted: Wanted = "auto",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._wanted = wanted
        self._clock = clock
        self._seen: tuple[int, ...] | None = None
        self._look_at = float("-inf")
        self._policy = policy_of([], wanted)
        self._has_keys = False
        self._refused: dict[tuple[str, str], None] = {}

    @property
    def policy(self) -> Policy:
        """What counts now; the folder is looked at every 5 s."""
        now = self._clock()
        if self._folder is not None and now >= self._look_at:
            self._look_at = now + _READ_AGAIN
            self._look(self._folder)
        return self._policy

    def accept(
        self,
        record: signatures.Signable,
        statement_of: Callable[[signatures.Signable], signatures.Statement],
    ) -> bool:
        """Whether a record may be used; one that may not is counted, and logged once."""
        policy = self.policy
        if not policy.refuses:
            return True
        statement = statement_of(record)
        if policy.trust.has_signed(statement, record.signatures):
            self._refused.pop((statement.kind, statement.name), None)
            return True
        shared_metrics.record_unsigned(statement.kind)
        self._log_once(statement)
        return False

    @property
    def note(self) -> str:
        """A sentence about what was refused; "" where nothing was."""
        first = next(iter(self._refused), None)
        if first is None:
            return ""
        more = f" and {len(self._refused) - 1} more" if len(self._refused) > 1 else ""
        return (
            f"Records of the store are not signed, and are not used: {' '.join(first)}{more}"
            " (docs/install/upgrade.md)."
        )

    def _log_once(self, statement: signatures.Statement) -> None:
        which = (statement.kind, statement.name)
        if which not in self._refused and len(self._refused) < _MOST_REFUSED:
            self._refused[which] = None
            logger.warning(
                "a record of the store has no signature that counts, and is not used: build its"
                " cache again, or run `uimgacc store sign` where you trust the store",
                extra={"kind": statement.kind, "record": statement.name},
            )

    def _look(self, folder: pathlib.Path) -> None:
        try:
            seen = _mark(folder)
            if seen == self._seen:
                return
            documents = read(folder)
        except (OSError, KeysUnusable) as error:
            logger.error("keys cannot be read", extra={"reason": str(error)})  # noqa: TRY400
            if not self._has_keys and self._wanted != "accept":
                self._policy = Policy(signatures.Trust(()), refuses=True)
            return
        self._seen = seen
        self._refused.clear()
        if documents or not self._has_keys:
            self._policy = policy_of(documents, self._wanted)
            self._has_keys = bool(documents)
            logger.info(
                "keys of the store",
                extra={
                    "keys": [key.id for key in self._policy.trust.keys],
                    "unsigned": "refused" if self._policy.refuses else "accepted",
                },
            )


def _mark(folder: pathlib.Path) -> tuple[int, ...]:
    """What changes when the folder's files do: the kubelet replaces a link in it."""
    try:
        status = folder.stat()
        files = sorted(folder.glob("*.json"))
        return (status.st_mtime_ns, *(path.stat().st_mtime_ns for path in files))
    except FileNotFoundError:
        return ()
