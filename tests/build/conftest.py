"""Builds with a real mkfs.erofs from a registry that can be told to lie."""

import pathlib
import shutil

import pytest

from agent.build import cache_build, layer_build
from agent.clients.registry import connections
from agent.model import images
from agent.roles import builder
from agent.store import layout
from agent.store.publish import writer
from tests.fakes import registry as fakes


class Bench:
    """A store, a lying registry, and how to build from one into the other."""

    def __init__(self, root: pathlib.Path, fake: fakes.FakeRegistry) -> None:
        self.place = layout.Layout(root)
        self.fake = fake
        self.progress: list[layer_build.Progress] = []
        self.scratch = root.parent

    def reference(self, rest: str = "team/app:1") -> images.Reference:
        return images.parse_reference(f"{self.fake.host}/{rest}")

    async def build(self, *rests: str, cache_id: str = "imc-test", **changes):
        options = connections.Options(
            plain_http=frozenset({self.fake.host}),
            delays=(0.01,),
            deadline=10.0,
            read_timeout=changes.pop("read_timeout", 10.0),
        )
        request = {
            "cache_id": cache_id,
            "name": "test",
            "references": tuple(self.reference(rest) for rest in rests or ("team/app:1",)),
            "platforms": (images.Platform("linux", "amd64"),),
            "capacity": 1 << 30,
        }
        mkfs = changes.pop("mkfs", "")
        settings = builder.Settings(
            store=self.place.root,
            mkfs=mkfs,
            registries=options,
            scratch=self.scratch,
            docker_configs=changes.pop("docker_configs", ()),
        )
        return await builder.build(
            settings,
            cache_build.Request(**{**request, **changes}),
            on_progress=self.progress.append,
        )

    def files(self) -> list[pathlib.Path]:
        """The files of the store without those of a new one, locks, and what builds counted on."""
        return sorted(
            path
            for path in self.place.root.rglob("*")
            if path.is_file()
            and path not in (self.place.store_record, self.place.index_mark)
            and path.parent not in (self.place.claims, self.place.record_locks)
        )

    def blob_requests(self) -> list[str]:
        return [what for kind, what, _ in self.fake.requests if kind == "blobs"]


@pytest.fixture
async def bench(tmp_path):
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("needs mkfs.erofs: run the lab's setup")
    writer.create(tmp_path / "store")
    async with fakes.FakeRegistry() as fake:
        yield Bench(tmp_path / "store", fake)
