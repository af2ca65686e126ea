"""What builders and agents report to the controller, node set-up to the agent, and it to the
snapshotter.

A builder has no access to the API: it replaces one small file in the store. The
controller creates the file before it creates the Job: an NFS client believes for a
while that a file is not there, but asks the server for one that it knows each time
it is opened. An agent writes an annotation of its node, node set-up a file on the node.
"""

import re
from typing import Annotated

import msgspec

from agent.model import digests, records

SETUP_PROBLEM = "/run/uimgacc/node-setup-problem"
"""File on the node: a sentence of node set-up for the condition; usually not there."""

SETUP_WAITING = "/run/uimgacc/node-setup-waiting"
"""File on the node while node set-up waits for a slot, to restart containerd."""

SETUP_NOT_BACK = "/run/uimgacc/node-setup-not-back"
"""File on the node while it keeps its slot, because it is not back after a restart."""

SETUP_WAITS = "containerd is restarted when it is this node's turn"
SETUP_KEEPS = "this node keeps its slot until it is back"
"""Parts of such sentences, by which commands know them in the node's condition."""

_JOB = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


ANNOUNCED = "announced.json"
"""File in the snapshotter's root folder, written by the agent: see Announced."""


class Announced(msgspec.Struct, frozen=True, kw_only=True):
    """That deletions wait for this node: it has its annotation in this cluster (a UID).

    It holds for one `boot` of the machine: one that was off for long is waited for no more.
    """

    cluster: str
    boot: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a build ended: the record of the Ready cache, or the reason why there is none.

    `layers` are the names of those that the build vouches for.
    """

    cache: records.CacheRecord | None = None
    reason: str = ""
    layers: list[str] = []


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How far a build is.

    `percent` never goes back. `images` are those that are done, `step` says what is
    done at the moment. `result` is there at the end.
    """

    percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    images: list[str] = []
    step: str = ""
    result: Result | None = None


# Made in the one thread that imports; see agent.model.records.
_REPORT = msgspec.json.Decoder(Report)
_ANNOUNCED = msgspec.json.Decoder(Announced)


def is_job(text: str) -> bool:
    """Whether a string may be the name of a Job, and so of a report's file."""
    return _JOB.fullmatch(text) is not None


def encode(report: Report) -> bytes:
    """The bytes of the file."""
    return msgspec.json.encode(report)


def decode(data: bytes, name: str) -> Report:
    """Read a report; raise RecordError where it is none."""
    try:
        return _REPORT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise records.RecordError(name, str(error)) from error


def decode_announced(data: bytes) -> Announced | None:
    """Read the agent's announcement; None where the file holds something else."""
    try:
        return _ANNOUNCED.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class SavedImage(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and bytes that `count` pulls of an image did not take."""

    image: str
    seconds: float = 0.0
    size: int = 0
    count: int = 0


class SavedDay(msgspec.Struct, frozen=True, kw_only=True):
    """The same for a day of UTC, such as 2026-03-01, as far as the agent ran ("": none yet).

    `images` are those of them that saved most.
    """

    day: str = ""
    seconds: float = 0.0
    size: int = 0
    count: int = 0
    images: list[SavedImage] = []


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and bytes that pulls did not take; `images` counts them by their result."""

    seconds: float = 0.0
    size: int = 0
    images: dict[str, int] = {}
    today: SavedDay = SavedDay()


# Made in the one thread that imports; see agent.model.records.
_SAVED = msgspec.json.Decoder(Saved)


def encode_saved(saved: Saved) -> str:
    """The value of the annotation."""
    return msgspec.json.encode(saved).decode()


def decode_saved(text: str) -> Saved | None:
    """What an annotation says; None where it makes no sense."""
    try:
        return _SAVED.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


_TAG_DIGITS = 16
_POD = "pod-"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the annotation `held`, which everybody can read who can read nodes.

    `layer` and `holder` are tags: a layer's can be made from its diff ID by those who know
    the store's ID, a pod's from its UID by those who can read the pod. Agents of earlier
    versions have the diff ID and the pod's `namespace/name` there.
    """

    cache: str
    layer: str
    holder: str

    @property
    def is_pod(self) -> bool:
        """Whether the holder is the tag of a pod."""
        return self.holder.startswith(_POD)


def layer_tag(store_id: str, diff_id: str) -> str:
    """What stands for a layer of a store in the annotation `held`."""
    return digests.hex_of(digests.sha256(f"{store_id} {diff_id}".encode()))[:_TAG_DIGITS]


def pod_tag(uid: str) -> str:
    """What stands for a pod there. A UID is random, so it cannot be guessed from this."""
    return _POD + digests.hex_of(digests.sha256(f"pod {uid}".encode()))[:_TAG_DIGITS]


def encode_held(held: Held) -> str:
    """An entry as text."""
    return f"{held.cache or '-'}/{held.layer}: {held.holder}"


def decode_held(text: str) -> Held | None:
    """An entry of the annotation; None where it is none, as "and 7 more"."""
    thing, colon, holder = text.partition(": ")
    cache, slash, layer = thing.partition("/")
    return Held(cache=cache, layer=layer, holder=holder) if colon and slash and layer else None
