"""An API server over HTTP that is a fake: kmock's, with objects that behave as the real ones."""

import asyncio
import base64
import contextlib
import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import attrs
import kmock
from aiohttp import web

from tests.kube import objects

_BOOKMARK_SECONDS = 1.0

ANSWER = "lab/answer"
"""Annotation of a pod: what a command in its container prints, and what its port answers."""

LOG, PREVIOUS_LOG = "lab/log.", "lab/previous."
"""Annotations of a pod, before a container's name: its log."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request for objects. kmock (0.8) does not parse those for namespaces themselves."""

    method: str
    resource: kmock.resource
    namespace: str
    name: str
    subresource: str
    params: Mapping[str, str]
    raw: web.BaseRequest

    @property
    def kind(self) -> objects.Kind:
        return (str(self.resource.group), str(self.resource.plural))

    @property
    def api_version(self) -> str:
        group, version = self.resource.group, self.resource.version
        return f"{group}/{version}" if group else str(version)


def asked_of(request: web.BaseRequest) -> Asked | None:
    """What a request asks for; None: discovery, or no path of the API."""
    match request.path.strip("/").split("/"):
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        _, namespace, *rest = rest
    plural, name, subresource, *_ = (*rest, "", "", "")
    return Asked(
        method=request.method,
        resource=kmock.resource(group, version, plural),
        namespace=namespace,
        name=name,
        subresource=subresource,
        params=dict(request.query),
        raw=request,
    )


@attrs.define(kw_only=True)
class Emulator(kmock.KubernetesScaffold):
    """kmock's server, with a state. Anybody may do anything: there are no roles."""

    state: objects.Objects = attrs.field(factory=objects.Objects)
    release: tuple[str, str] = ("1", "36")

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        # load_bundled() of kmock 0.8 warns of its own deprecated call.
        bundled = importlib.resources.files("kmock._internal") / "resources.json.gz"
        with importlib.resources.as_file(bundled) as path:
            self.resources.load_path(path)
        # Younger than what kmock brings.
        young = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
        for kind in young if int(self.release[1]) >= 36 else ():
            name = kind.lower()
            plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
            resource = kmock.resource("admissionregistration.k8s.io", "v1", plural)
            self.resources[resource] = kmock.ResourceInfo(
                kind=kind,
                singular=kind.lower(),
                namespaced=False,
                subresources=set(),
                verbs={"get", "list", "watch", "create", "update", "patch", "delete"},
            )
        # The image caches' definition is applied like any other, by who needs it.
        for name in ("default", "kube-system"):
            self.state.create(("", "namespaces"), "", {"metadata": {"name": name}})

    async def __call__(self, raw_request: web.BaseRequest) -> web.StreamResponse:
        if raw_request.path == "/version":
            # kmock's own is one of years ago.
            return web.json_response(dict(zip(("major", "minor"), self.release, strict=True)))
        asked = asked_of(raw_request)
        if asked is None:
            return await super().__call__(raw_request)
        try:
            kind = self._kind(asked)
            if asked.subresource in ("exec", "log", "proxy"):
                return await _kubelets(self.state, asked)
            if asked.params.get("watch") in ("true", "1"):
                return await _Watch(self.state, asked, kind).serve()
            data = await raw_request.read()
            body, status = self._serve(asked, json.loads(data) if data else {})
        except objects.RefusedError as error:
            body, status = _status(error.status, error.reason, str(error)), error.status
        return web.json_response(body, status=status)

    def _kind(self, asked: Asked) -> str:
        if asked.resource not in self.resources:
            raise objects.RefusedError(404, "NotFound", "no such resource")
        return str(self.resources[asked.resource].kind)

    def _serve(self, asked: Asked, body: Any) -> tuple[dict[str, Any], int]:
        if not asked.name:
            if asked.method == "POST":
                return self._create(asked, body), 201
            return _list(self.state, asked, self._kind(asked)), 200
        kind, key = asked.kind, (asked.namespace, asked.name)
        status = asked.subresource == "status"
        match asked.method, asked.subresource:
            case "POST", "token":
                return {"status": {"token": f"{asked.namespace}:{asked.name}"}}, 201
            case "GET", _:
                return self.state.get(kind, key), 200
            case "PATCH", "" | "status":
                content_type = asked.raw.headers["Content-Type"]
                made = self.state.patch(kind, key, body, content_type, status=status)
                # A definition may be applied as well as created.
                is_definition = kind[1] == "customresourcedefinitions" and not status
                return self._establish(made) if is_definition else made, 200
            case "PUT", "" | "status":
                return self.state.replace(kind, key, body, status=status), 200
            case "DELETE", "":
                if "gracePeriodSeconds" in asked.params:
                    body["gracePeriodSeconds"] = int(asked.params["gracePeriodSeconds"])
                return self.state.delete(kind, key, body), 200
        raise objects.RefusedError(405, "MethodNotAllowed", f"{asked.method} {asked.subresource}")

    def _create(self, asked: Asked, body: Any) -> dict[str, Any]:
        made = self.state.create(asked.kind, asked.namespace, body)
        if asked.kind[1] == "customresourcedefinitions":
            made = self._establish(made)
        return made

    def _establish(self, definition: dict[str, Any]) -> dict[str, Any]:
        """Serve the resource that a definition defines."""
        spec = definition["spec"]
        for version in spec["versions"]:
            resource = kmock.resource(spec["group"], version["name"], spec["names"]["plural"])
            self.resources[resource] = kmock.ResourceInfo(
                kind=spec["names"]["kind"],
                singular=spec["names"].get("singular"),
                namespaced=spec["scope"] == "Namespaced",
                subresources=set(version.get("subresources", {})),
                verbs={"get", "list", "watch", "create", "update", "patch", "delete"},
            )
        body = {**definition, "status": {"conditions": [{"type": "Established", "status": "True"}]}}
        kind = ("apiextensions.k8s.io", "customresourcedefinitions")
        return self.state.replace(kind, ("", definition["metadata"]["name"]), body, status=True)


def _wanted(asked: Asked) -> dict[str, str]:
    return {
        "namespace": asked.namespace,
        "name": asked.name,
        "fields": asked.params.get("fieldSelector", ""),
        "labels": asked.params.get("labelSelector", ""),
    }


def _list(state: objects.Objects, asked: Asked, kind: str) -> dict[str, Any]:
    """A list, in parts where a limit is given."""
    if int(asked.params.get("resourceVersion") or 0) > state.version:
        raise objects.RefusedError(504, "Timeout", "Too large resource version")
    after: tuple[str, str] = ("", "")
    version = state.version
    if token := asked.params.get("continue"):
        version, *place = json.loads(base64.b64decode(token))
        if version < state.oldest:
            raise objects.RefusedError(410, "Expired", "The provided continue parameter is too old")
        after = (place[0], place[1])
    found = [
        (key, item)
        for key, item in state.all(asked.kind).items()
        if key > after and objects.matches(item, **_wanted(asked))
    ]
    meta: dict[str, Any] = {"resourceVersion": str(version)}
    limit = int(asked.params.get("limit") or 0)
    if limit and len(found) > limit:
        found = found[:limit]
        meta["continue"] = base64.b64encode(json.dumps([version, *found[-1][0]]).encode()).decode()
    return {
        "kind": f"{kind}List",
        "apiVersion": asked.api_version,
        "metadata": meta,
        "items": [item for _, item in found],
    }


async def _kubelets(state: objects.Objects, asked: Asked) -> web.StreamResponse:
    """What the server has a kubelet answer: it stands in the pod's annotations."""
    name = asked.name.partition(":")[0]
    pod = state.get(("", "pods"), (asked.namespace, name))
    annotations = pod["metadata"].get("annotations") or {}
    if asked.subresource == "log":
        prefix = PREVIOUS_LOG if asked.params.get("previous") else LOG
        text = annotations.get(f"{prefix}{asked.params['container']}")
    else:
        text = annotations.get(ANSWER)
    if text is None:
        raise objects.RefusedError(400, "BadRequest", f"{name} has no {asked.subresource}")
    if asked.subresource != "exec":
        return web.Response(text=text)
    socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
    await socket.prepare(asked.raw)
    await socket.send_bytes(b"\x01" + text.encode())
    await socket.send_bytes(b"\x03" + json.dumps({"status": "Success"}).encode())
    await socket.close()
    return socket


class _Watch:
    """One watch: what has changed since a version, until its time is over."""

    def __init__(self, state: objects.Objects, asked: Asked, kind: str) -> None:
        self._state = state
        self._asked = asked
        self._kind = kind
        self._changed = asyncio.Event()

    async def serve(self) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(self._asked.raw)
        self._state.on_change.add(self._changed.set)
        try:
            with contextlib.suppress(ConnectionError):  # a client may go whenever it likes
                await self._serve(response)
        finally:
            self._state.on_change.discard(self._changed.set)
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response

    async def _serve(self, response: web.StreamResponse) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + float(self._asked.params.get("timeoutSeconds") or 1800)
        asked = self._asked.params.get("resourceVersion", "")
        if asked in ("", "0"):
            version = self._state.version
            for item in self._state.all(self._asked.kind).values():
                if objects.matches(item, **_wanted(self._asked)):
                    await _say(response, "ADDED", item)
        else:
            version = int(asked)
        bookmarks = self._asked.params.get("allowWatchBookmarks") in ("true", "1")
        while True:
            if version < self._state.oldest:
                message = f"too old resource version: {version} ({self._state.oldest})"
                await _say(response, "ERROR", _status(410, "Expired", message))
                return
            self._changed.clear()
            for change in self._state.since(version):
                version = change.version
                await self._tell(response, change)
            if loop.time() >= until:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(until, loop.time() + _BOOKMARK_SECONDS)):
                    await self._changed.wait()
            # Not where the time is over: there may be a change since, which nobody would hear of.
            if not self._changed.is_set():
                version = max(version, self._state.version)
                if bookmarks:
                    await _say(response, "BOOKMARK", self._bookmark(version))

    async def _tell(self, response: web.StreamResponse, change: objects.Change) -> None:
        if change.kind != self._asked.kind:
            return
        wanted = _wanted(self._asked)
        was = change.before is not None and objects.matches(change.before, **wanted)
        is_now = change.after is not None and objects.matches(change.after, **wanted)
        if is_now:
            await _say(response, "MODIFIED" if was else "ADDED", change.after)
        elif was and change.before is not None:
            meta = {**change.before["metadata"], "resourceVersion": str(change.version)}
            await _say(response, "DELETED", {**change.before, "metadata": meta})

    def _bookmark(self, version: int) -> dict[str, Any]:
        meta = {"resourceVersion": str(version), "creationTimestamp": None}
        return {
            "kind": self._kind,
            "apiVersion": self._asked.api_version,
            "metadata": meta,
        }


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


async def _say(response: web.StreamResponse, kind: str, item: Any) -> None:
    await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
