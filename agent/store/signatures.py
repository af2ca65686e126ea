"""What is signed in a store, and whether a signature counts. No I/O.

A record's *statement* is a text of what decides which bytes a container gets, and who may have
them. It begins with the version and the kind of the record, then the ID of the store, so a
signature counts for one kind of record of one store. Each other line is a word and its values,
percent-encoded and separated by spaces, so no value can look like another line. What changes
while a record lives is not in it: where a layer came from, whether it is damaged, and what
replaced it (a name that follows from the layer's own: `agent.model.digests`).

The private keys are in agent.store.signing_keys, which nodes never import.
"""

import base64
import binascii
import dataclasses
import datetime
import hashlib
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from agent import errors
from agent.model import digests, records, times

_VERSION = 1
_ATTESTED = "attested"
_SAFE = "/:@+,="
_PLAIN = re.compile(rf"[A-Za-z0-9_.~{_SAFE}-]*")
_CLOCKS = datetime.timedelta(minutes=5)
"""By which the clock of a node may differ from the controller's."""

Line = tuple[str, ...]

Signable = TypeVar(
    "Signable",
    records.LayerRecord,
    records.ChainRecord,
    records.ImageRecord,
    records.CacheRecord,
)


class NotSigned(errors.PermanentError):
    """A record has no signature that counts.

    `kind` is that of the record, `name` which one it is.
    """

    def __init__(self, kind: records.SignedKind, name: str) -> None:
        super().__init__(f"the record of {kind} {name} is not signed by a key that counts")
        self.kind = kind
        self.name = name


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    """What a signature of a record vouches for; `name` is what the record is stored under."""

    kind: records.SignedKind
    name: str
    lines: tuple[Line, ...]

    def text(self, store: str) -> bytes:
        """The bytes that are signed, for the store of this ID."""
        first: tuple[Line, ...] = (
            ("uimgacc", "signed", str(_VERSION), self.kind),
            ("store", store),
            ("name", self.name),
        )
        quoted = (" ".join(map(_quoted, line)) for line in (*first, *self.lines))
        return "\n".join(quoted).encode()


def of_layer(record: records.LayerRecord) -> Statement:
    """What a layer's file is, under the name that it is stored under."""
    lines: list[Line] = [("size", str(record.size)), ("sha256", record.sha256)]
    if (tree := record.verity) is not None:
        numbers = (str(tree.data_blocks), str(tree.offset), str(tree.tree_size))
        lines.append(("verity", tree.root_hash, tree.salt, *numbers, tree.sha256))
    if record.has_whiteouts:
        lines.append(("whiteouts",))
    # A build decides by these whether an image can use the layer as it is.
    lines += [("implied", name) for name in record.implied]
    return Statement("layer", record.diff_id, tuple(lines))


def of_chain(chain_id: str, record: records.ChainRecord) -> Statement:
    """Which layer file stands for a chain ID, and the chain below."""
    lines: list[Line] = [("layer", record.diff_id)]
    if record.parent is not None:
        lines.append(("parent", record.parent))
    if record.variant_of is not None:
        lines.append(("variant-of", record.variant_of))
    return Statement("chain", chain_id, tuple(lines))


def of_image(record: records.ImageRecord) -> Statement:
    """What a reference stands for, for each platform."""
    lines: list[Line] = [
        ("target", record.target, record.target_media_type, str(record.target_size))
    ]
    for one in record.platforms:
        size = str(one.manifest_size)
        lines.append(("platform", one.platform))
        lines.append(("manifest", one.manifest, one.manifest_media_type, size, one.config))
        lines += [("index", index) for index in one.indexes]
        if one.artifact is not None:
            lines.append(("artifact", one.artifact.manifest, one.artifact.type))
        lines += [
            ("layer", each.chain_id, each.diff_id, each.digest, each.media_type, str(each.size))
            for each in one.layers
        ]
    return Statement("image", record.ref, tuple(lines))


def of_cache(record: records.CacheRecord) -> Statement:
    """The images of a cache, and who may use them."""
    lines: list[Line] = [("called", record.name)]
    if record.namespaces is None:
        lines.append(("all-namespaces",))
    else:
        lines += [("namespace", name) for name in record.namespaces]
    for image in record.images:
        lines.append(("image", image.ref, image.target, str(image.size)))
        lines += [("layer", diff_id) for diff_id in image.layers]
    return Statement("cache", record.id, tuple(lines))


def digest_of(statements: Iterable[Statement], store: str) -> str:
    """One digest over any number of statements, in whatever order they are named."""
    each = sorted({hashlib.sha256(one.text(store)).digest() for one in statements})
    return digests.sha256(b"".join(each))


def attestation(digest: str) -> str:
    """A builder's message about what it vouches for."""
    return f"{_ATTESTED} {digest}"


def attested_digest(message: str) -> str:
    """The digest in a builder's message; "" where there is none."""
    word, _, digest = message.strip().partition(" ")
    return digest if word == _ATTESTED else ""


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):  # almost all of them are digests and numbers
        return text
    return urllib.parse.quote(text, safe=_SAFE)


@dataclasses.dataclass(frozen=True, slots=True)
class PublicKey:
    """A key by which records of the store `store` may be signed.

    `value` are its 32 bytes. It counts from `not_before` until `not_after` (None: without end).
    """

    value: bytes
    store: str
    not_before: datetime.datetime
    not_after: datetime.datetime | None = None

    @property
    def id(self) -> str:
        """What signatures name it by: it follows from the key."""
        return key_id(self.value)

    def counts(self, now: datetime.datetime) -> bool:
        """Whether its signatures count at a time."""
        if now < self.not_before - _CLOCKS:
            return False
        return self.not_after is None or now < self.not_after

    def verify(self, text: bytes, signature: str) -> bool:
        """Whether a signature (base64) of some bytes is of this key."""
        # 4 MiB of memory that a node without keys, and each worker, does without.
        from cryptography import exceptions  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

        try:
            signed = base64.b64decode(signature, validate=True)
            ed25519.Ed25519PublicKey.from_public_bytes(self.value).verify(signed, text)
        except (exceptions.InvalidSignature, binascii.Error, ValueError):
            return False
        return True


def key_id(value: bytes) -> str:
    """The ID of a public key of these bytes."""
    return hashlib.sha256(value).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, slots=True)
class Trust:
    """The keys of a store whose signatures count."""

    keys: tuple[PublicKey, ...]
    clock: times.Clock = times.now

    def has_signed(self, statement: Statement, signatures: Sequence[records.Signature]) -> bool:
        """Whether one of the signatures is of a key that counts."""
        return any(
            key.verify(statement.text(key.store), each.value)
            for key, each in self._candidates(signatures)
        )

    def check(self, statement: Statement, signatures: Sequence[records.Signature]) -> None:
        """Raise NotSigned unless one of the signatures is of a key that counts."""
        if not self.has_signed(statement, signatures):
            raise NotSigned(statement.kind, statement.name)

    def _candidates(
        self, signatures: Sequence[records.Signature]
    ) -> Iterator[tuple[PublicKey, records.Signature]]:
        """Each key that counts, with the first signature that names it: one check for each key."""
        now = self.clock()
        named = {each.key: each for each in reversed(signatures)}
        yield from (
            (key, named[key.id]) for key in self.keys if key.id in named and key.counts(now)
        )


def unsigned(record: Signable) -> Signable:
    """A record as a builder makes it: without signatures."""
    return msgspec.structs.replace(record, signatures=[])
