"""A registry over real HTTP that can be told to lie: one server, faults per path."""

import asyncio
import base64
import collections
import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import ssl
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from aiohttp import web

OCI = "application/vnd.oci.image"
Fault = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(**files: bytes) -> bytes:
    """A tar of some files, by name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def gzipped(data: bytes) -> bytes:
    """The same bytes at any time of day."""
    return gzip.compress(data, mtime=0)


@dataclasses.dataclass
class Content:
    """A blob or manifest, and what it says it is."""

    data: bytes
    media_type: str = "application/octet-stream"


class FakeRegistry:
    """`blobs` by digest, `manifests` by tag and digest; `faults` are used up, first first.

    `user` asks for basic authorization, `token` (with `user`) for a bearer token
    from /token, which is worth as many requests as `token_uses` says; `anonymous`
    has it give one to who says nothing, too, as Docker Hub does. `realm` is another URL
    for that endpoint.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.blobs: dict[str, Content] = {}
        self.manifests: dict[str, Content] = {}
        self.referrers: dict[str, Content] = {}
        self.faults: dict[str, list[Fault]] = collections.defaultdict(list)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.values: dict[str, list[list[str]]] = collections.defaultdict(list)
        """By the name of a header, its values in each request that had it."""
        self.paths: list[str] = []
        """Path and query of what was asked for, refused or not."""
        self.user = ""
        self.bearer = False
        self.realm = ""
        self.anonymous = False
        self.token_uses = 1000
        self.tokens: dict[str, int] = {}
        self.issued = 0
        self.token_requests: list[dict[str, str]] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "FakeRegistry":
        app = web.Application()
        app.router.add_route("*", "/token", self._token)
        app.router.add_get("/elsewhere/{name:.*}", self._elsewhere)
        app.router.add_get("/v2/{name:.+}/{kind:manifests|blobs|referrers}/{what}", self._get)
        # A request that stalls ends with its client.
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def host(self) -> str:
        return f"{'localhost' if self.tls else '127.0.0.1'}:{self.port}"

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    def passwords(self) -> list[str]:
        """What was sent in the header Authorization, in all requests."""
        said = [headers.get("Authorization", "") for _, _, headers in self.requests]
        said += [form["authorization"] for form in self.token_requests]
        return [text for text in said if text]

    def add_blob(self, data: bytes) -> str:
        self.blobs[digest(data)] = Content(data)
        return digest(data)

    def add_manifest(self, data: bytes, media_type: str, *tags: str) -> str:
        for name in (digest(data), *tags):
            self.manifests[name] = Content(data, media_type)
        return digest(data)

    def add_image(
        self,
        layers: Sequence[bytes],
        *tags: str,
        architecture: str = "amd64",
        compress: Callable[[bytes], bytes] = gzipped,
    ) -> str:
        """An image of these tars; returns the digest of its manifest."""
        config = {
            "os": "linux",
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        blobs = [compress(layer) for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self._described(json.dumps(config).encode(), f"{OCI}.config.v1+json"),
            "layers": [self._described(blob, f"{OCI}.layer.v1.tar+gzip") for blob in blobs],
        }
        return self.add_manifest(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json", *tags)

    def add_index(self, platforms: dict[str, str], *tags: str) -> str:
        """An index of manifests that are there: {"linux/arm64": digest}."""
        manifests = []
        for platform, name in platforms.items():
            os, architecture = platform.split("/")
            content = self.manifests[name]
            manifests.append(
                {
                    "mediaType": content.media_type,
                    "digest": name,
                    "size": len(content.data),
                    "platform": {"os": os, "architecture": architecture},
                }
            )
        index = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.image.index.v1+json".replace(".image.image", ".image"),
            "manifests": manifests,
        }
        data = json.dumps(index).encode()
        return self.add_manifest(data, index["mediaType"], *tags)

    def _described(self, data: bytes, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": self.add_blob(data), "size": len(data)}

    async def _get(self, request: web.Request) -> web.StreamResponse:
        kind, what = request.match_info["kind"], request.match_info["what"]
        self.requests.append((kind, what, dict(request.headers)))
        self.paths.append(request.path_qs)
        for name in {each.lower() for each in request.headers}:
            self.values[name].append(request.headers.getall(name))
        if (refusal := self._refusal(request)) is not None:
            return refusal
        kinds = {"manifests": self.manifests, "blobs": self.blobs, "referrers": self.referrers}
        found = kinds[kind].get(what)
        if found is None:
            return web.json_response({"errors": [{"code": "UNKNOWN"}]}, status=404)
        if self.faults[what]:
            return await self.faults[what].pop(0)(request, found.data)
        return answer(request, found.data, found.media_type)

    async def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(("elsewhere", request.match_info["name"], dict(request.headers)))
        return answer(request, self.blobs[request.match_info["name"]].data)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if not self.user:
            return None
        said = request.headers.get("Authorization", "")
        if self.bearer:
            token = said.removeprefix("Bearer ")
            if self.tokens.get(token, 0) > 0:
                self.tokens[token] -= 1
                return None
            realm = self.realm or f"{self.scheme}://{self.host}/token"
            asked = f'Bearer realm="{realm}",service="fake",scope="repository:x:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": asked})
        if said == "Basic " + base64.b64encode(self.user.encode()).decode():
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="fake"'})

    async def _token(self, request: web.Request) -> web.Response:
        form = dict(await request.post()) if request.method == "POST" else dict(request.query)
        said = request.headers.get("Authorization", "")
        self.token_requests.append({"method": request.method, "authorization": said, **form})
        good = said == "Basic " + base64.b64encode(self.user.encode()).decode()
        good |= self.anonymous and not said
        if not good and form.get("refresh_token") != self.user:
            return web.Response(status=401)
        self.issued += 1
        self.tokens[f"token-{self.issued}"] = self.token_uses
        return web.json_response({"access_token": f"token-{self.issued}", "expires_in": 60})


@contextlib.asynccontextmanager
async def serving(
    handlers: Mapping[str, Callable[[web.Request], Awaitable[web.StreamResponse]]],
) -> AsyncIterator[str]:
    """A server of some paths; yields its HOST:PORT."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answer(
    request: web.Request, data: bytes, media_type: str = "application/octet-stream"
) -> web.Response:
    """What an honest registry answers, ranges included."""
    headers = {"Content-Type": media_type, "Docker-Content-Digest": digest(data)}
    asked = request.headers.get("Range", "")
    if not asked:
        return web.Response(body=data, headers=headers)
    start = int(asked.removeprefix("bytes=").partition("-")[0])
    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return web.Response(body=data[start:], headers=headers, status=206)


def status(code: int, **headers: str) -> Fault:
    async def fault(request: web.Request, data: bytes) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, headers=named)

    return fault


def other_bytes(replacement: bytes) -> Fault:
    async def fault(request: web.Request, data: bytes) -> web.StreamResponse:
        return web.Response(body=replacement)

    return fault


def cut_after(count: int) -> Fault:
    """Promise all, send some, drop the connection."""

    async def fault(request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:count])
        assert request.transport is not None
        request.transport.close()
        return response

    return fault


def stall_after(count: int) -> Fault:
    """Send some, then nothing more, the connection staying open."""

    async def fault(request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:count])
        await asyncio.sleep(5)
        return response

    return fault


def ignoring_ranges(request: web.Request, data: bytes) -> web.Response:
    return web.Response(body=data)


def redirect(url: str) -> Fault:
    return status(307, Location=url)
