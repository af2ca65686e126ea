"""The API of Alibaba Cloud Container Registry over HTTP, for the official SDK to talk to."""

import collections
import dataclasses
import time

from aiohttp import web


@dataclasses.dataclass
class Instance:
    """An instance: who its passwords are for, how long they live, its custom domains."""

    user: str
    seconds: float = 3600
    domains: tuple[str, ...] = ()


class FakeAcr:
    """`refusals` are used up first: (status, code, headers). Signatures are there, not checked."""

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.refusals: list[tuple[int, str, dict[str, str]]] = []
        self.asked: list[tuple[str, str]] = []
        self.issued: collections.Counter[str] = collections.Counter()
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "FakeAcr":
        app = web.Application()
        app.router.add_post("/", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _answer(self, request: web.Request) -> web.Response:
        signed = request.headers.get("Authorization", "")
        assert signed.startswith("ACS3-HMAC-SHA256 Credential="), signed
        assert request.headers["x-acs-version"] == "2018-12-01"
        action, name = request.headers["x-acs-action"], request.query["InstanceId"]
        self.asked.append((action, name))
        if self.refusals:
            status, code, headers = self.refusals.pop(0)
            body = {"Code": code, "Message": "no", "RequestId": "1"}
            return web.json_response(body, status=status, headers=headers)
        instance = self.instances.get(name)
        if instance is None:
            return web.json_response({"IsSuccess": False, "Code": "INSTANCE_NOT_EXIST"})
        answer = {"GetAuthorizationToken": self._password, "ListInstanceEndpoint": self._endpoints}
        return web.json_response({"IsSuccess": True, "Code": "success", **answer[action](name)})

    def _password(self, name: str) -> dict[str, object]:
        self.issued[name] += 1
        instance = self.instances[name]
        return {
            "TempUsername": instance.user,
            "AuthorizationToken": f"password-{self.issued[name]}-of-{name}",
            "ExpireTime": int((time.time() + instance.seconds) * 1000),
        }

    def _endpoints(self, name: str) -> dict[str, object]:
        domains = [{"Domain": each, "Type": "USER"} for each in self.instances[name].domains]
        return {"Endpoints": [{"EndpointType": "internet", "Enable": True, "Domains": domains}]}
