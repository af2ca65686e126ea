"""The objects of one kind that selectors match, as values of the caller's type.

An object arrives with its history (managedFields) and the annotations of every tool of
the cluster, tens of kilobytes: `parse` keeps what the caller needs, as each is read.
"""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Generic, TypeVar

from agent.clients.kube import rest_client
from agent.model import manifests

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[Item]):
    """An object's identity, and the object; `item` is None where it cannot be read."""

    uid: str
    item: Item | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part(Generic[Item]):
    """A part of a list, by `namespace/name` (or name); `version` is that of the whole list."""

    version: str
    entries: Mapping[str, Entry[Item]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[Item]):
    """A change of a watch, which knows everything up to `version`.

    `key` is "" where only the version has moved on. `gone`: the object was deleted, or
    is no longer selected.
    """

    version: str
    key: str = ""
    entry: Entry[Item] | None = None
    gone: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selectors:
    """`namespace` "" is every namespace; `fields` and `labels` as in a request."""

    namespace: str = ""
    fields: str = ""
    labels: str = ""


class Selection(Generic[Item]):
    """The selected objects. Raises what agent.clients.kube.rest_client raises.

    `parse` returns None for an object that cannot be read: others are not affected.
    """

    def __init__(
        self,
        client: rest_client.Client,
        resource: rest_client.Resource,
        selectors: Selectors,
        *,
        parse: Callable[[rest_client.Object], Item | None],
    ) -> None:
        self._client = client
        self._resource = resource
        self._selectors = selectors
        self._parse = parse

    async def list(self, *, not_older_than: str) -> AsyncGenerator[Part[Item]]:
        """All objects, in parts; for `not_older_than` see rest_client.Client.pages."""
        pages = self._client.pages(
            self._resource,
            namespace=self._selectors.namespace,
            fields=self._selectors.fields,
            labels=self._selectors.labels,
            not_older_than=not_older_than,
        )
        async with contextlib.aclosing(pages):
            async for page in pages:
                entries = {_key(item): self._entry(item) for item in page.items}
                entries.pop("", None)
                yield Part(version=page.version, entries=entries)

    async def watch(self, version: str) -> AsyncGenerator[Change[Item]]:
        """The changes since a version, until the server ends it. Close the iterator."""
        events = self._client.watch(
            self._resource,
            version=version,
            namespace=self._selectors.namespace,
            fields=self._selectors.fields,
            labels=self._selectors.labels,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                if event.kind is rest_client.Kind.BOOKMARK:
                    yield Change(version=event.version)
                    continue
                gone = event.kind is rest_client.Kind.DELETED
                entry = None if gone else self._entry(event.object)
                yield Change(version=event.version, key=_key(event.object), entry=entry, gone=gone)

    def _entry(self, manifest: rest_client.Object) -> Entry[Item]:
        if not _key(manifest):
            return Entry(uid="")
        uid = str(manifest["metadata"].get("uid") or "")
        return Entry(uid=uid, item=self._parse(manifest))


def _key(manifest: rest_client.Object) -> str:
    """`namespace/name`, or name; "" for what is no object, as only a broken proxy sends it."""
    meta = manifests.Field(manifest).get("metadata")
    try:
        namespace, name = meta.get("namespace").text(""), meta.get("name").text()
    except manifests.ManifestError:
        return ""
    return f"{namespace}/{name}" if namespace else name
