"""Types of settings that several roles use, and how the text of a value is checked.

What is named after a value (`Address`, `Socket`, ...) is written into an annotation beside the
type, and refuses a text that is no such value. The others are complete annotations.
"""

import pathlib
import re
from typing import Annotated, Literal

from agent.kits import addresses, flags, networks, units
from agent.model import caches

_LABEL = re.compile(r'[^:,"\s]+:[^:,"\s]+:[^:,"\s]+(:[^"\s]+)?')

_SOCKET_LIMIT = 107
"""Bytes of a Unix socket's path; sockaddr_un has 108 with the zero at its end."""


def comma_separated(text: str) -> tuple[str, ...]:
    """Return the parts of a list that is written with commas, without empty ones."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _check_address(text: str) -> None:
    if text:
        addresses.split(text)


def _check_socket(text: str) -> None:
    path = str(pathlib.Path(text).absolute())
    if len(path.encode("utf-8", "surrogateescape")) > _SOCKET_LIMIT:
        raise ValueError(f"a socket's path has at most {_SOCKET_LIMIT} bytes: {path}")


def _check_label(text: str) -> None:
    if text not in ("auto", "off") and not _LABEL.fullmatch(text):
        raise ValueError(f"auto, off, or USER:ROLE:TYPE[:LEVEL]: {text}")


def _check_share(text: str) -> None:
    units.share(text, 0)


def _check_rate(text: str) -> None:
    if float(text) <= 0:
        raise ValueError("expected more than 0")


def _check_serve_stale(text: str) -> None:
    if text and caches.serve_stale(text) is None:
        raise ValueError(caches.stale_expected(text))


Address = flags.Checked(_check_address)
Networks = flags.Checked(networks.parse)
Quantity = flags.Checked(units.quantity)
Share = flags.Checked(_check_share)
Rate = flags.Checked(_check_rate)
ServeStale = flags.Checked(_check_serve_stale)
Socket = flags.Checked(_check_socket)

TrustedKeys = Annotated[
    pathlib.Path | None,
    "Folder of the JSON documents with the keys that signatures of the store are verified by;"
    " it is read again when it changes. Empty: none are verified.",
]
SELinuxContext = Annotated[
    str,
    "Where SELinux is active: the label that layers are mounted with; auto: the one that the"
    " node's policy has for images (container_ro_file_t), off: none.",
    flags.Checked(_check_label),
]
Unsigned = Annotated[
    Literal["auto", "accept", "refuse"],
    "What to do with records of the store that no key has signed: refuse them (their images"
    " are pulled as usual), accept them, or as the documents of keys say; without keys, auto"
    " accepts.",
]
Local = Annotated[
    Literal["off", "after-start", "before-start"],
    "Copies of the layers that containers run on, on the node's disk: none, made in the background"
    " after a start, or from the moment when an image is made ready. Agent and snapshotter of a"
    " node have the same value.",
]
