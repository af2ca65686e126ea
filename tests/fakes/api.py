"""An API server in memory for tests in fake time: agent.clients.kube.rest_client.Client.

What merges how, and what is refused, is as in the real one; tests/kube has that and kmock.
"""

import asyncio
import copy
import datetime

from agent import errors
from agent.clients.kube import refusals, rest_client

START = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)


def refusal(status: int, reason: str) -> refusals.Refusal:
    return refusals.Refusal(request="test", status=status, reason=reason, text="")


def merged(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class Api:
    """`objects` by (plural, namespace, name). `failures` are raised first, one a request.

    A change is committed first and answered `answer_seconds` later: until then the
    client does not know of it, and others see it.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict] = {}
        self.failures: list[Exception] = []
        self.log: list[tuple] = []
        self.down = False
        self.before_patch = None
        """Called with each patch before it is applied: a change by another client."""
        self.answer_seconds = 0.0
        self._began: float | None = None

    def now(self) -> datetime.datetime:
        """START at the first call, then with the loop's clock."""
        time = asyncio.get_running_loop().time()
        if self._began is None:
            self._began = time
        return START + datetime.timedelta(seconds=time - self._began)

    async def _answer(self, body):
        answer = copy.deepcopy(body)
        if self.answer_seconds:
            await asyncio.sleep(self.answer_seconds)
        return answer

    def _ask(self, *request: object) -> None:
        self.log.append(request)
        if self.down:
            raise errors.TemporaryError("the API is away")
        if self.failures:
            raise self.failures.pop(0)

    def put(self, resource: rest_client.Resource, body, *, namespace: str = "") -> None:
        metadata = {"uid": "u1", "resourceVersion": "1", **body["metadata"]}
        key = resource.plural, namespace, metadata["name"]
        self.objects[key] = {**copy.deepcopy(body), "metadata": metadata}

    def names(self, resource: rest_client.Resource) -> list[str]:
        return [name for plural, _, name in self.objects if plural == resource.plural]

    def all(self, resource: rest_client.Resource) -> list[dict]:
        return [found for key, found in self.objects.items() if key[0] == resource.plural]

    async def get(self, resource: rest_client.Resource, name: str, *, namespace: str = ""):
        self._ask("get", resource.plural, name)
        try:
            body = self.objects[resource.plural, namespace, name]
        except KeyError:
            raise refusals.NotFound(refusal(404, "NotFound")) from None
        return await self._answer(body)

    async def create(self, resource: rest_client.Resource, body, *, namespace: str = ""):
        self._ask("create", resource.plural, body["metadata"]["name"])
        if (resource.plural, namespace, body["metadata"]["name"]) in self.objects:
            raise refusals.AlreadyExists(refusal(409, "AlreadyExists"))
        self.put(resource, body, namespace=namespace)
        made = self.objects[resource.plural, namespace, body["metadata"]["name"]]
        return await self._answer(made)

    async def patch(
        self,
        resource: rest_client.Resource,
        name: str,
        body,
        *,
        namespace: str = "",
        subresource: str = "",
        how: rest_client.Patch = rest_client.Patch.MERGE,
    ):
        self._ask("patch", resource.plural, name, body)
        if self.before_patch:
            self.before_patch(body)
        found = self.objects.get((resource.plural, namespace, name))
        if found is None:
            raise refusals.NotFound(refusal(404, "NotFound"))
        body = copy.deepcopy(body)
        wanted = body.get("metadata", {}).pop("resourceVersion", None)
        version = found["metadata"]["resourceVersion"]
        if wanted not in (None, version):
            raise refusals.Conflict(refusal(409, "Conflict"))
        if how is rest_client.Patch.STRATEGIC:
            assert list(body) == [subresource] == ["status"]
            status = found.setdefault("status", {})
            by_type = {each["type"]: each for each in status.get("conditions", [])}
            for new in body["status"]["conditions"]:
                by_type[new["type"]] = {**by_type.get(new["type"], {}), **new}
            status["conditions"] = list(by_type.values())
        else:
            assert "status" not in body
            found = merged(found, body)
        found["metadata"]["resourceVersion"] = str(int(version) + 1)
        self.objects[resource.plural, namespace, name] = found
        return await self._answer(found)
