"""What the agents write to their node objects and the controller reads there."""

import msgspec

SETUP_PROBLEM = "/run/uimgacc/node-setup-problem"
"""File on the node: a sentence of node set-up for the condition; usually not there."""


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and bytes that pulls did not take; `images` counts them by their result."""

    seconds: float = 0.0
    size: int = 0
    images: dict[str, int] = {}


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
