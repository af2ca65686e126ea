"""A cluster with one cache, seen by controllers that end at a call of a test's choice.

The API server and the store are real, and so is all that a step does; Jobs, nodes and the
collector are played, and the clock goes a second with each look at it.
"""

import contextlib
import datetime
import pathlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.control.decisions import outcome, retention
from agent.control.jobs import job_manifest
from agent.control.reconcile import cache_store, cluster, observed, step, work_queue
from agent.model import caches, images, keys, records, reports
from agent.store import layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from tests.kube import apis

PLATFORMS = ("linux/amd64",)
RESOURCE = rest_client.Resource(group="uimgacc.io", plural="imagecaches")
PULL_SECRET = "pull"


class KilledError(BaseException):
    """The end of the process."""


class Calls:
    """Counts calls of all kinds; ends the process at one of them, if asked to."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.count = 0
        self._at = at
        self._after = after

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        number = self.count
        self.count += 1
        if number == self._at and not self._after:
            raise KilledError
        yield
        if number == self._at:
            raise KilledError


class DyingApi:
    """The API client, with a process around it that ends."""

    def __init__(self, client: rest_client.Client, calls: Calls) -> None:
        self._client = client
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            async with self._calls.one():
                return await getattr(self._client, name)(*arguments, **more)

        return call

    async def pages(self, *arguments: Any, **more: Any) -> AsyncIterator[Any]:
        async with self._calls.one():
            found = [page async for page in self._client.pages(*arguments, **more)]
        for page in found:
            yield page


class DyingPool:
    """Does the work in the store in this process."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        del deadline
        if operation in ("look", "is_going"):  # changes nothing
            return cache_store.OPERATIONS[operation](*arguments)
        async with self._calls.one():
            return cache_store.OPERATIONS[operation](*arguments)


class NoEvents:
    """Drops all events."""

    def emit(self, _cache: cache_object.CacheObject, _event: outcome.Event) -> None:
        """Not here."""


class World:
    """One cache in a cluster of its own, and what builds it.

    An `automatic` one is made for a pod, as an agent does it; the pod goes as soon as the
    controller has noted that it has seen it. `failing` builds fail before one does not; while
    `holder` says something, a node holds the layers of what was deleted.
    """

    def __init__(
        self,
        api: apis.Api,
        folder: pathlib.Path,
        *,
        automatic: bool = False,
        failing: int = 0,
        rules: retention.Rules | None = None,
    ) -> None:
        self.api = api
        self.rules = rules or retention.Rules()
        self.failing = failing
        self.automatic = automatic
        self.holder = ""
        self.place = layout.Layout(folder / uuid.uuid4().hex)
        self.place.root.mkdir(parents=True)
        writer.create(self.place.root)
        self.built: list[str] = []
        self.jobs: list[apis.Object] = []
        """As they were after the last `turn`."""
        # Beside the server's, which says when an object was deleted.
        self._clock = datetime.datetime.now(datetime.UTC)
        self._pod = ""
        unique = uuid.uuid4().hex[:10]
        self.image = f"docker.io/library/nginx:{unique}"
        self.cache_id = self._automatic_id() if automatic else caches.id_of_name(f"c-{unique}")
        self.name = caches.name_of_auto_cache(self.cache_id) if automatic else f"c-{unique}"
        self.key = cache_object.Key("uimgacc.io", self.name)
        spec = {
            "images": [self.image],
            "imagePullSecrets": [f"{api.namespace}/{PULL_SECRET}"],
            "imageCacheSize": 20,
            **({} if automatic else {"keepWarm": True}),
        }
        meta = {"name": self.name, **(self._made_for_a_pod(f"p-{unique}") if automatic else {})}
        kind = {"apiVersion": "uimgacc.io/v1", "kind": "ImageCache"}
        api.create(RESOURCE, {**kind, "metadata": meta, "spec": spec})

    def _automatic_id(self) -> str:
        secret = caches.SecretName(self.api.namespace, PULL_SECRET)
        return caches.id_of_images([images.parse_reference(self.image)], pull_secrets=[secret])

    def _made_for_a_pod(self, pod: str) -> apis.Object:
        node = self.api.node()
        made = self.api.pod(
            pod,
            node,
            image=self.image,
            annotations={"uimgacc.io/image-cache": "auto"},
            spec={"imagePullSecrets": [{"name": PULL_SECRET}]},
        )
        self._pod = pod
        said = {
            keys.CREATED_FOR: f"{self.api.namespace}/{pod}",
            keys.CREATED_FOR_UID: made["metadata"]["uid"],
            keys.CREATED_ON: node,
        }
        return {"labels": {keys.AUTO_CREATED: "true"}, "annotations": said}

    def now(self) -> datetime.datetime:
        self._clock += datetime.timedelta(seconds=1)
        return self._clock

    def advance(self, *, seconds: float) -> None:
        """Let time pass in which nothing happens."""
        self._clock += datetime.timedelta(seconds=seconds)

    def ask(self) -> None:
        """Have a round of the collector soon: `turn` is one."""

    def holders(self, _cache_id: str) -> str:
        return self.holder

    def deliver_to(self, known: observed.Observed) -> None:
        """Show a controller what there is, as its watches would."""
        known.caches.clear()
        with contextlib.suppress(apis.RefusedError):
            known.put_cache(self.api.get(RESOURCE, self.name))
        for job in self.jobs:
            known.put_job(job)
        for name in known.job_names() - {job["metadata"]["name"] for job in self.jobs}:
            known.drop_job(name)

    def turn(self) -> None:
        """What else happens: Jobs that may run are done, what is deleted goes, also layers."""
        if self._pod and self.status().get("build", {}).get("verified"):
            self.api.delete_pod(self._pod)
            self._pod = ""
        if not self.holder:
            for path in self.deleted():
                path.unlink()
        self.jobs = [
            self._went_on(job)
            for job in self.api.list(rest_client.JOBS, namespace=self.api.namespace)
            if job["metadata"]["labels"][keys.JOB_CACHE_ID] == self.cache_id
        ]

    def _went_on(self, job: apis.Object) -> apis.Object:
        meta = job["metadata"]
        if meta.get("deletionTimestamp"):
            return self._change(meta["name"], {"metadata": {"finalizers": None}})
        if not job["spec"].get("suspend") and meta["name"] not in self.built:
            return self._build(job)
        return job

    def _change(self, job: str, body: apis.Object, *, subresource: str = "") -> apis.Object:
        return self.api.patch(
            rest_client.JOBS, job, body, namespace=self.api.namespace, subresource=subresource
        )

    def deleted(self) -> list[pathlib.Path]:
        """What the store has of deleted caches, while their layers are there."""
        return list(self.place.deleted_caches.glob("*.json"))

    def _build(self, job: apis.Object) -> apis.Object:
        name = job["metadata"]["name"]
        held = self.api.get(rest_client.SECRETS, name, namespace=self.api.namespace)
        assert held["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        assert self.place.build_report(name).exists(), "the report is to be there before the Job"
        self.built.append(name)
        if self.failing:
            # The process is killed: it says nothing itself.
            self.failing -= 1
            return self._end(name, "FailureTarget", "Failed", failed=1)
        arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
        (image,) = [each[8:] for each in arguments if each.startswith("--image=")]
        digest = f"sha256:{'1' * 64}"
        record = records.CacheRecord(
            id=self.cache_id,
            name=self.name,
            images=[records.CachedImage(ref=image, target=digest, size=1, layers=[])],
            size=1,
            capacity=20 << 30,
            created=self.now().isoformat(),
            namespaces=[self.api.namespace],
        )
        writer.publish_cache(self.place, record)
        report = reports.Report(percent=100, result=reports.Result(cache=record))
        self.place.build_report(name).write_bytes(reports.encode(report))
        more = {"succeeded": 1, "completionTime": _stamp()}
        return self._end(name, "SuccessCriteriaMet", "Complete", **more)

    def _end(self, name: str, *kinds: str, **more: Any) -> apis.Object:
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": _stamp()} for kind in kinds
        ]
        status = {"startTime": _stamp(), "conditions": conditions, **more}
        return self._change(name, {"status": status}, subresource="status")

    def status(self) -> apis.Object:
        return dict(self.api.get(RESOURCE, self.name).get("status", {}))

    def holds(self, image: str) -> bool:
        """Whether the cache is Ready, with this image, and its record says what nodes keep warm."""
        status = self.status()
        held = [each["image"] for each in status.get("images", ())]
        if status.get("phase") != "Ready" or held != [image]:
            return False
        record = direct_reader.Reader(self.place).cache(self.cache_id)
        return record is not None and record.keep_warm is not self.automatic

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
        # The next world looks through all of them.
        for name in self.built:
            self.api.delete(rest_client.JOBS, name, namespace=self.api.namespace)


def _stamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def reconciler(
    world: World, client: rest_client.Client, calls: Calls
) -> tuple[Any, observed.Observed]:
    known = observed.Observed(work_queue.Queue(), parallel=4)
    known.platforms = PLATFORMS
    world.deliver_to(known)
    api: Any = DyingApi(client, calls)
    tools = step.Tools(
        api=cluster.Cluster(api, namespace=world.api.namespace),
        store=cache_store.CacheStore(str(world.place.root), DyingPool(calls)),
        holders=world,
        events=NoEvents(),
    )
    template = job_manifest.Template(
        namespace=world.api.namespace,
        image="uimgacc:test",
        store="/store",
        volume={"name": "s", "emptyDir": {}},
    )
    wanted = step.Settings(template=template, rules=world.rules)
    made = step.Reconciler(known, tools, wanted, clock=world.now)
    return made, known


async def go_on(
    world: World, client: rest_client.Client, calls: Calls, until: Callable[[], bool]
) -> None:
    """Controllers, one after the other as each ends, until something holds."""
    made, known = reconciler(world, client, calls)
    for _ in range(40):
        world.deliver_to(known)
        try:
            await made.step(world.key)
        except KilledError:
            made, known = reconciler(world, client, calls)
        if until():
            return
        world.turn()
    raise AssertionError(f"it has not come to that: {world.status()}")
