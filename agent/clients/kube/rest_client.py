"""A client of the Kubernetes API: few verbs, deadlines, errors with a meaning.

Requests go through kubernetes_asyncio (agent.clients.kube.requests), and answers are
decoded with msgspec: a model of the library costs twenty times the memory of its JSON.
The callers make their own types of the objects (agent.clients.kube.selection).
Errors are those of agent.clients.kube.refusals.
"""

import contextlib
import dataclasses
import datetime
import enum
import random
import urllib.parse
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, Protocol

import aiohttp
import msgspec

from agent.clients.kube import connection, refusals, requests
from agent.model import keys

Object = Mapping[str, Any]

FIELD_MANAGER = "uimgacc"
"""Whose fields of an object a change is, where the caller names no other."""

_PAGE = 200
_METADATA = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_WATCH_SECONDS = (300.0, 600.0)
_SILENCE_SECONDS = 150.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind of objects, as its path names it; the core group is ""."""

    group: str = ""
    version: str = "v1"
    plural: str

    def path(self, name: str = "", *, namespace: str = "", subresource: str = "") -> str:
        """The path of an object, or of all of them ("" as namespace: of every namespace)."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        parts += ["namespaces", namespace] if namespace else []
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)


PODS = Resource(plural="pods")
NODES = Resource(plural="nodes")
NAMESPACES = Resource(plural="namespaces")
EVENTS = Resource(plural="events")
SECRETS = Resource(plural="secrets")
CONFIG_MAPS = Resource(plural="configmaps")
JOBS = Resource(group="batch", plural="jobs")
LEASES = Resource(group="coordination.k8s.io", plural="leases")
RUNTIME_CLASSES = Resource(group="node.k8s.io", plural="runtimeclasses")
WEBHOOK_CONFIGURATIONS = Resource(
    group="admissionregistration.k8s.io", plural="mutatingwebhookconfigurations"
)
DAEMON_SETS = Resource(group="apps", plural="daemonsets")
DEPLOYMENTS = Resource(group="apps", plural="deployments")
IMAGE_CACHES = Resource(group=keys.GROUP, plural="imagecaches")
IMAGE_CACHE_POLICIES = Resource(
    group=keys.GROUP, version=keys.POLICY_VERSION.partition("/")[2], plural="imagecachepolicies"
)


class Patch(enum.Enum):
    """How the body of a patch is meant; the value is its content type."""

    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    JSON = "application/json-patch+json"
    APPLY = "application/apply-patch+yaml"


class Kind(enum.Enum):
    """What a line of a watch says of its object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """An event of a watch. A bookmark's object has nothing but its resourceVersion."""

    kind: Kind
    object: Object

    @property
    def version(self) -> str:
        """The version from which to watch on after this event."""
        return str(self.object["metadata"]["resourceVersion"])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a list; `version` is that of the list, the same in all its parts."""

    raw: Sequence[msgspec.Raw]
    version: str
    more: str = ""

    @property
    def items(self) -> Iterator[Object]:
        """The objects, each decoded when it is asked for: together they would be many MB."""
        return (_decoded(bytes(each), "a list's item") for each in self.raw)


class _Line(msgspec.Struct):
    """A line of a watch on the wire."""

    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    """The part that all lists of the API share."""

    metadata: _ListMeta
    # Go writes null for a list that was never filled.
    items: list[msgspec.Raw] | None = None


class Objects(Protocol):
    """What Client does with single objects, for those that need no more of it."""

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """Read an object."""

    async def create(self, resource: Resource, body: Object, *, namespace: str = "") -> Object:
        """Create an object."""

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: object,
        *,
        namespace: str = "",
        subresource: str = "",
        how: Patch = Patch.MERGE,
        manager: str = FIELD_MANAGER,
    ) -> Object:
        """Change parts of an object."""


class Client:
    """Requests to the API server; a context manager.

    `deadline` is for one request in seconds, a watch's lines apart.
    """

    def __init__(
        self,
        credentials: connection.Credentials,
        *,
        deadline: float = 10.0,
        user_agent: str = "uimgacc",
    ) -> None:
        self._requests = requests.Requests(credentials, deadline=deadline, user_agent=user_agent)

    async def __aenter__(self) -> "Client":
        await self._requests.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._requests.__aexit__(*exc)

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return self._requests.sent

    def now(self) -> datetime.datetime:
        """The time by the API server's clock: see Requests.now."""
        return self._requests.now()

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """One object; raise NotFound."""
        return await self._ask("GET", resource.path(name, namespace=namespace))

    async def pages(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        fields: str = "",
        labels: str = "",
        not_older_than: str = "",
        metadata_only: bool = False,
        limit: int | None = None,
        after: str = "",
    ) -> AsyncGenerator[Page]:
        """All objects, in parts. Raises Gone when that takes too long: begin again.

        `fields` and `labels` are selectors. `not_older_than` is a version: any answer
        as new will do, "0" stands for whatever the server has in memory. Without it
        the server asks its database, for which a list by node means to read every pod
        of the cluster before Kubernetes 1.31. With `metadata_only` objects have nothing else.
        `limit` is how many are in one part at most, None: the usual number. `after` is the `more`
        of a page of such a list, some minutes old at most: the list goes on behind it.
        """
        accept = _METADATA if metadata_only else "application/json"
        query = _query(fields=fields, labels=labels) | {"limit": str(limit or _PAGE)}
        if after:
            query |= {"continue": after}
        elif not_older_than:
            query |= {"resourceVersion": not_older_than, "resourceVersionMatch": "NotOlderThan"}
        while True:
            path = resource.path(namespace=namespace)
            request = requests.Request(method="GET", path=path, query=query, accept=accept)
            page = _page(await self._requests.send(request))
            yield page
            if not page.more:
                return
            query = _query(fields=fields, labels=labels)
            query |= {"limit": str(limit or _PAGE), "continue": page.more}

    async def watch(
        self,
        resource: Resource,
        *,
        version: str,
        namespace: str = "",
        fields: str = "",
        labels: str = "",
        seconds: float | None = None,
        silence: float = _SILENCE_SECONDS,
    ) -> AsyncGenerator[Event]:
        """The changes after a version, until the server ends it: then watch on, from the last.

        Close the iterator. The first event is a bookmark of the version asked for: the
        server has begun. `seconds` is when the server is to end it (default: five to
        ten minutes, so that a fleet's watches do not end together). A server sends a
        bookmark a minute; `silence` for longer than that many seconds is a broken
        connection. Raises Gone when the version is too old, else what requests raise.
        """
        query = _query(fields=fields, labels=labels)
        asked = random.uniform(*_WATCH_SECONDS) if seconds is None else seconds  # noqa: S311
        query |= {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, round(asked))),
        }
        path = resource.path(namespace=namespace)
        request = requests.Request(method="GET", path=path, query=query)
        async with contextlib.aclosing(self._requests.lines(request, silence=silence)) as lines:
            async for line in lines:
                if line:
                    yield _event(line, f"watch of {path}")
                else:
                    yield Event(Kind.BOOKMARK, {"metadata": {"resourceVersion": version}})

    async def text(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """What the server answers under a path, whatever it is: a log, a page of a pod's own."""
        request = requests.Request(method="GET", path=path, query=query or {}, accept="*/*")
        return await self._requests.send(request)

    def websocket(
        self, path: str, query: Sequence[tuple[str, str]], *, protocol: str
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """See Requests.websocket."""
        return self._requests.websocket(path, query, protocol=protocol)

    async def create(self, resource: Resource, body: Object, *, namespace: str = "") -> Object:
        """Create an object; raise AlreadyExists, Invalid."""
        return await self._ask("POST", resource.path(namespace=namespace), body=body)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: object,
        *,
        namespace: str = "",
        subresource: str = "",
        how: Patch = Patch.MERGE,
        manager: str = FIELD_MANAGER,
        force: bool = False,
    ) -> Object:
        """Change parts of an object; the whole of it afterwards.

        With `metadata.resourceVersion` in the body it is done only if the object has
        not changed since: raises Conflict. `force` takes fields from other managers
        (APPLY only).
        """
        path = resource.path(name, namespace=namespace, subresource=subresource)
        query = {"fieldManager": manager} | ({"force": "true"} if force else {})
        return await self._ask("PATCH", path, query, body=body, content_type=how.value)

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        propagation: str = "",
    ) -> None:
        """Delete an object, only the one with this uid if given; raise NotFound, Conflict.

        `propagation` is Background or Foreground: what it owns goes after or before it.
        """
        body: dict[str, object] = {"preconditions": {"uid": uid}} if uid else {}
        body |= {"propagationPolicy": propagation} if propagation else {}
        await self._ask("DELETE", resource.path(name, namespace=namespace), body=body or None)

    async def release(self) -> tuple[int, int]:
        """The server's Kubernetes release, like (1, 36)."""
        version = await self._ask("GET", "/version")
        # Vendors append a sign to the second: "30+".
        numbers = [str(version.get(name, "")).rstrip("+") for name in ("major", "minor")]
        if not all(number.isdigit() for number in numbers):
            raise refusals.Unavailable(f"/version: no release in {numbers}")
        return int(numbers[0]), int(numbers[1])

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: object = None,
        content_type: str = "application/json",
    ) -> Object:
        request = requests.Request(
            method=method, path=path, query=query or {}, body=body, content_type=content_type
        )
        return _decoded(await self._requests.send(request), str(request))


def _query(*, fields: str, labels: str) -> dict[str, str]:
    query = {"fieldSelector": fields, "labelSelector": labels}
    return {key: value for key, value in query.items() if value}


def _decoded(body: bytes, request: str) -> Object:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refusals.Unavailable(f"{request}: the answer cannot be read: {error}") from error


def _page(body: bytes) -> Page:
    try:
        part = msgspec.json.decode(body, type=_List)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refusals.Unavailable(f"the list cannot be read: {error}") from error
    meta = part.metadata
    return Page(raw=part.items or [], version=meta.resource_version, more=meta.continue_)


def _event(line: bytes, request: str) -> Event:
    """The event of a line; an ERROR is raised as what an answer of its code would raise."""
    try:
        parsed = msgspec.json.decode(line, type=_Line)
        if parsed.type == "ERROR":
            status = msgspec.json.decode(parsed.object, type=refusals.Status)
            raise refusals.error_of(request, status.code, bytes(parsed.object), {})
        event = Event(Kind(parsed.type), _decoded(bytes(parsed.object), request))
        _ = event.version
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise refusals.Unavailable(f"{request}: a line cannot be read: {error}") from error
    return event
