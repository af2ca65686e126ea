"""The controller ends between any two calls: the next one goes on, and builds nothing twice."""

import base64
import contextlib
import datetime
import pathlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from agent.clients import kube
from agent.control import (
    cache_work,
    cluster,
    expiring,
    jobs,
    knowledge,
    reconciling,
    specs,
    steps,
    storage,
)
from agent.model import builds, caches, records
from agent.store import layout, publishing, reading
from tests.kube import apis
from tests.kube.conftest import Fixed

pytestmark = pytest.mark.timeout(300)

PLATFORMS = ("linux/amd64",)
RESOURCE = kube.Resource(group="uimgacc.io", plural="imagecaches")


class KilledError(BaseException):
    """The end of the process."""


class Calls:
    """Counts calls of all kinds; ends the process at one of them, if told to."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.count = 0
        self._at = at
        self._after = after

    @contextlib.asynccontextmanager
    async def one(self) -> Any:
        number = self.count
        self.count += 1
        if number == self._at and not self._after:
            raise KilledError
        yield
        if number == self._at:
            raise KilledError


class DyingApi:
    """The API client, with a process around it that ends."""

    def __init__(self, client: kube.Client, calls: Calls) -> None:
        self._client = client
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            async with self._calls.one():
                return await getattr(self._client, name)(*arguments, **more)

        return call


class DyingPool:
    """Does the work in the store in this process."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        del deadline
        if operation in ("look", "is_going"):  # changes nothing
            return cache_work.OPERATIONS[operation](*arguments)
        async with self._calls.one():
            return cache_work.OPERATIONS[operation](*arguments)


class Nobody:
    """No layers are held, and nobody listens to events."""

    def ask(self) -> None:
        """Not collected here."""

    def holders(self, _cache_id: str, _layers: Any = ()) -> str:
        return ""

    def tell(self, _cache: specs.CacheObject, _event: steps.Event) -> None:
        """Nobody listens."""


class World:
    """One cache in a cluster of its own, and what builds it."""

    def __init__(self, api: apis.Api, folder: pathlib.Path) -> None:
        self.api = api
        self.name = f"c-{uuid.uuid4().hex[:10]}"
        self.key = specs.Key("uimgacc.io", self.name)
        self.place = layout.Layout(folder / uuid.uuid4().hex)
        self.place.root.mkdir(parents=True)
        publishing.create(self.place.root)
        self.built: list[str] = []
        self._clock = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
        body = {
            "apiVersion": "uimgacc.io/v1",
            "kind": "ImageCache",
            "metadata": {"name": self.name},
            "spec": {
                "images": ["nginx:1"],
                "imagePullSecrets": [f"{api.namespace}/pull"],
                "imageCacheSize": 20,
            },
        }
        api.create(RESOURCE, body)

    def now(self) -> datetime.datetime:
        self._clock += datetime.timedelta(seconds=1)
        return self._clock

    def known(self) -> knowledge.Knowledge:
        """What a controller knows that has just begun."""
        found = knowledge.Knowledge()
        found.platforms = PLATFORMS
        for job in self.jobs():
            found.put_job(job)
        with contextlib.suppress(apis.RefusedError):
            found.put_cache(self.api.get(RESOURCE, self.name))
        return found

    def jobs(self) -> list[apis.Object]:
        mine = caches.id_of_name(self.name)
        return [
            job
            for job in self.api.list(kube.JOBS, namespace=self.api.namespace)
            if job["metadata"]["labels"][jobs.CACHE_LABEL] == mine
        ]

    def turn(self) -> None:
        """What else happens: Jobs that may run are done, what is deleted goes, also layers."""
        for path in self.place.deleted_caches.glob("*.json"):
            path.unlink()
        for job in self.jobs():
            meta = job["metadata"]
            name = meta["name"]
            if meta.get("deletionTimestamp"):
                self.api.patch(
                    kube.JOBS, name, {"metadata": {"finalizers": None}},
                    namespace=self.api.namespace,
                )  # fmt: skip
            elif not job["spec"].get("suspend") and name not in self.built:
                self._build(job)

    def _build(self, job: apis.Object) -> None:
        name = job["metadata"]["name"]
        held = self.api.get(kube.SECRETS, name, namespace=self.api.namespace)
        assert held["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
        (image,) = [each[8:] for each in arguments if each.startswith("--image=")]
        digest = f"sha256:{'1' * 64}"
        record = records.CacheRecord(
            id=caches.id_of_name(self.name),
            name=self.name,
            images=[records.CachedImage(ref=image, target=digest, size=1, layers=[])],
            size=1,
            capacity=20 << 30,
            created=self.now().isoformat(),
            namespaces=[self.api.namespace],
        )
        publishing.publish_cache(self.place, record)
        report = builds.Report(percent=100, result=builds.Result(cache=record))
        assert self.place.build_report(name).exists(), "the report is to be there before the Job"
        self.place.build_report(name).write_bytes(builds.encode(report))
        self.built.append(name)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": stamp}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {"startTime": stamp, "completionTime": stamp, "succeeded": 1}
        self.api.patch(
            kube.JOBS, name, {"status": {**status, "conditions": conditions}},
            namespace=self.api.namespace, subresource="status",
        )  # fmt: skip

    def status(self) -> apis.Object:
        return dict(self.api.get(RESOURCE, self.name).get("status", {}))

    def is_gone(self) -> bool:
        try:
            self.api.get(RESOURCE, self.name)
        except apis.RefusedError as error:
            return error.status == 404
        return False

    def close(self) -> None:
        with contextlib.suppress(apis.RefusedError):
            self.api.patch(RESOURCE, self.name, {"metadata": {"finalizers": None}})
        self.api.delete(RESOURCE, self.name)


def reconciler(world: World, client: kube.Client, calls: Calls) -> tuple[Any, knowledge.Knowledge]:
    known = world.known()
    api: Any = DyingApi(client, calls)
    nobody: Any = Nobody()
    made = reconciling.Reconciler(
        known=known,
        api=cluster.Cluster(api, namespace=world.api.namespace),
        store=storage.Storage(str(world.place.root), DyingPool(calls)),
        holders=nobody,
        teller=nobody,
        template=jobs.Template(
            namespace=world.api.namespace,
            image="uimgacc:test",
            store="/store",
            volume={"name": "s", "emptyDir": {}},
        ),
        rules=expiring.Rules(deletion_seconds=0),
        parallel=4,
        wall_clock=world.now,
    )
    return made, known


async def go_on(world: World, client: kube.Client, calls: Calls, until: Any) -> None:
    """Controllers, one after the other as each ends, until something holds."""
    made, known = reconciler(world, client, calls)
    for _ in range(40):
        fresh = world.known()
        known.caches = fresh.caches
        for job in world.jobs():
            known.put_job(job)
        for name in known.job_names() - {job["metadata"]["name"] for job in world.jobs()}:
            known.drop_job(name)
        try:
            await made.step(world.key)
        except KilledError:
            made, known = reconciler(world, client, calls)
        if until():
            return
        world.turn()
    raise AssertionError(f"it has not come to that: {world.status()}")


async def live(world: World, client: kube.Client, calls: Calls) -> None:
    """A cache's whole life."""

    def is_ready(image: str) -> bool:
        status = world.status()
        held = [each["image"] for each in status.get("images", ())]
        return status.get("phase") == "Ready" and held == [image]

    await go_on(world, client, calls, lambda: is_ready("docker.io/library/nginx:1"))
    world.api.patch(RESOURCE, world.name, {"spec": {"images": ["nginx:2"]}})
    await go_on(world, client, calls, lambda: is_ready("docker.io/library/nginx:2"))
    world.api.delete(RESOURCE, world.name)
    await go_on(world, client, calls, world.is_gone)


@pytest.fixture
def worlds(api: apis.Api, kinds: None, tmp_path: pathlib.Path) -> Iterator[list[World]]:
    body = {
        "metadata": {"name": "pull"},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(b'{"auths": {}}').decode()},
    }
    api.create(kube.SECRETS, body, namespace=api.namespace)
    made: list[World] = []
    yield made
    for world in made:
        world.close()


async def test_killed_at_every_call(
    api: apis.Api, worlds: list[World], tmp_path: pathlib.Path
) -> None:
    access = Fixed(api.access.server)
    access.read = lambda: _given(api)  # type: ignore[method-assign]
    async with kube.Client(access, deadline=20) as client:
        worlds.append(World(api, tmp_path))
        whole = Calls()
        await live(worlds[0], client, whole)
        assert len(worlds[0].built) == 2
        assert whole.count > 15
        for at in range(whole.count):
            for after in (False, True):
                world = World(api, tmp_path)
                worlds.append(world)
                await live(world, client, Calls(at, after=after))

                where = f"killed {'after' if after else 'before'} call {at}"
                assert len(world.built) == 2, f"{where}: {world.built}"
                assert not list(reading.Reader(world.place).caches()), where
                left = api.list(kube.SECRETS, namespace=api.namespace)
                owners = {
                    owner["name"]
                    for secret in left
                    for owner in secret["metadata"].get("ownerReferences", ())
                }
                assert owners <= set(world.built), f"{where}: a Secret that nobody owns"
                for name in owners:
                    api.delete(kube.SECRETS, name, namespace=api.namespace)


async def _given(api: apis.Api) -> Any:
    return api.access


async def test_two_controllers_at_once_build_once(
    api: apis.Api, worlds: list[World], tmp_path: pathlib.Path
) -> None:
    """In the moment in which one does not know yet that it leads no more."""
    access = Fixed(api.access.server)
    access.read = lambda: _given(api)  # type: ignore[method-assign]
    async with kube.Client(access, deadline=20) as client:
        world = World(api, tmp_path)
        worlds.append(world)
        pair = [reconciler(world, client, Calls()) for _ in range(2)]
        for made, _ in pair:
            with contextlib.suppress(Exception):  # a conflict is what is to be expected
                await made.step(world.key)
        assert len(world.jobs()) == 1

        await live(world, client, Calls())

        assert len(world.built) == 2
