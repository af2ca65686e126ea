"""The ConfigMap in which the leader keeps the table of pulls, for its successor and for readers.

`uimgacc advise` and the controller's page read it. It is a compressed JSON document, in a
ConfigMap because the people who read it have the API and not the store.
"""

import base64
import binascii
import datetime
import logging
import zlib

import msgspec

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.control.pulls import image_costs, pull_table
from agent.kits.aio import slices, threads
from agent.model import keys, times

logger = logging.getLogger(__name__)

CONFIG_MAP = "uimgacc-pulls"
_NAME = "pulls.json.zlib"
_FORMAT = 1
_IMAGES = 500
_LARGEST = 600_000
"""Bytes of the compressed document; a ConfigMap has 1 MiB at most, in base64."""
_LARGEST_READ = 16 << 20
_LABELS = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "controller"}


class Book(msgspec.Struct, kw_only=True):
    """The table as it was `written`, with all events up to a version."""

    format: int = _FORMAT
    written: datetime.datetime
    seen: int = 0
    began: int | None = None
    rows: list[pull_table.Row] = []
    others: pull_table.Row

    def table(self, *, most: int) -> pull_table.PullTable:
        """A table that has all of it."""
        made = pull_table.PullTable(most=most)
        made.load(self.rows, self.others, self.began)
        return made


class BookDamaged(errors.PermanentError):
    """The ConfigMap holds something else. `reason` says what."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the ConfigMap {CONFIG_MAP} cannot be read: {reason}. Delete it: the controller"
            " begins a new one"
        )
        self.reason = reason


async def encode(table: pull_table.PullTable, *, seen: int, now: datetime.datetime) -> bytes:
    """The document: of as many images as fit, the most expensive ones."""
    most = min(_IMAGES, len(table))
    while True:
        rows, others, began = await slices.run(table.listing(most=most))
        book = Book(written=now, seen=seen, began=began, rows=rows, others=others)
        data = await threads.run("pulls", zlib.compress, msgspec.json.encode(book))
        if len(data) <= _LARGEST or not most:
            return data
        most //= 2


def decode(data: bytes) -> Book:
    """Read the document; raise BookDamaged."""
    expanding = zlib.decompressobj()
    try:
        text = expanding.decompress(data, _LARGEST_READ)
        if expanding.unconsumed_tail:
            raise BookDamaged("it is too large")
        book = msgspec.json.decode(text, type=Book)
        for row in (*book.rows, book.others):
            int(row.nodes, 16)
    except (zlib.error, msgspec.DecodeError, ValueError) as error:
        raise BookDamaged(str(error)) from error
    if book.format != _FORMAT:
        raise BookDamaged(f"it is of format {book.format}")
    return book


class BookObject:
    """The ConfigMap of the installation in `namespace`. All raise AgentError."""

    def __init__(self, api: rest_client.Objects, *, namespace: str = keys.NAMESPACE) -> None:
        self._api = api
        self._namespace = namespace

    async def read(self) -> Book | None:
        """What it holds; None where it is not there. Raises BookDamaged."""
        try:
            body = await self._api.get(
                rest_client.CONFIG_MAPS, CONFIG_MAP, namespace=self._namespace
            )
        except refusals.NotFound:
            return None
        try:
            text = (body.get("binaryData") or {}).get(_NAME, "")
            return decode(base64.b64decode(text, validate=True))
        except (binascii.Error, TypeError, AttributeError, ValueError) as error:
            raise BookDamaged(str(error)) from error

    async def write(self, data: bytes) -> None:
        """Write a document of `encode`."""
        held = {"binaryData": {_NAME: base64.b64encode(data).decode()}}
        try:
            await self._api.patch(
                rest_client.CONFIG_MAPS, CONFIG_MAP, held, namespace=self._namespace
            )
        except refusals.NotFound:
            meta = {"name": CONFIG_MAP, "namespace": self._namespace, "labels": _LABELS}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **held}
            await self._api.create(rest_client.CONFIG_MAPS, body, namespace=self._namespace)


async def known_costs(
    book: BookObject, *, days: float = 1.0, most: int | None = None
) -> image_costs.Costs | None:
    """What the last pulls cost as the leader knows it; None without a table that can be read."""
    try:
        kept = await book.read()
    except errors.AgentError as error:
        logger.warning("what pulls cost is not known", extra={"reason": str(error)})
        return None
    if kept is None:
        return None
    now = times.now()
    table = kept.table(most=len(kept.rows) or 1)
    since = now - datetime.timedelta(days=days)
    return await slices.run(table.summing(since, now, most=most))
