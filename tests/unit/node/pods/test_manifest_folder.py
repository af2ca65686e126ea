import asyncio
import json
import pathlib
import time
from collections.abc import AsyncIterator

import pytest

from agent.node.pods import manifest_folder


def pod(name: str, image: str = "app:1", **metadata: object) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **metadata},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }


class Watched:
    """A folder and the changes that it has given so far."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.source = manifest_folder.Folder(folder, rescan=30)
        self.pods: dict[str, str] = {}
        self.changes = 0
        self.change = asyncio.Event()

    async def follow(self) -> None:
        async for change in self.source.changes():
            self.changes += 1
            if change.pod is None:
                del self.pods[change.key]
            else:
                self.pods[change.key] = change.pod.images[0]
            self.change.set()

    async def until(self, **expected: str) -> None:
        """Wait until exactly these pods (name -> image) are known."""
        wanted = {f"default/{name}": image for name, image in expected.items()}
        async with asyncio.timeout(60):
            while self.pods != wanted or not self.source.synced:
                self.change.clear()
                await asyncio.wait_for(self.change.wait(), 60) if self.pods != wanted else None
                await asyncio.sleep(0)

    def write(self, name: str, *documents: object) -> None:
        draft = self.folder.parent / "draft"
        draft.write_text("\n---\n".join(map(json.dumps, documents)))
        draft.rename(self.folder / name)


@pytest.fixture
async def watched(tmp_path: pathlib.Path) -> AsyncIterator[Watched]:
    folder = tmp_path / "pods"
    folder.mkdir()
    watched = Watched(folder)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watched.follow())
        yield watched
        task.cancel()


async def test_a_pod_appears_at_once(watched) -> None:
    await watched.until()
    started = time.perf_counter()
    watched.write("a.json", pod("a"))
    await watched.until(a="app:1")

    assert time.perf_counter() - started < 1


async def test_pods_that_exist_at_the_start_are_given(tmp_path) -> None:
    watched = Watched(tmp_path)
    watched.folder.joinpath("a.yaml").write_text(json.dumps(pod("a")))
    changes = watched.source.changes()
    change = await anext(changes)
    await changes.aclose()

    assert change.key == "default/a"


async def test_a_file_may_hold_several_pods(watched) -> None:
    watched.write("a.yaml", pod("a"), None, {"kind": "List", "items": [pod("b"), pod("c")]})
    await watched.until(a="app:1", b="app:1", c="app:1")


async def test_a_file_that_is_written_in_place_is_read_when_it_is_closed(watched) -> None:
    with (watched.folder / "a.json").open("w") as file:
        file.write(json.dumps(pod("a")))
    await watched.until(a="app:1")


async def test_a_replaced_file_replaces_its_pods(watched) -> None:
    watched.write("a.json", pod("a"), pod("b"))
    await watched.until(a="app:1", b="app:1")
    watched.write("a.json", pod("a", "app:2"))
    await watched.until(a="app:2")


async def test_pods_go_with_their_file(watched) -> None:
    watched.write("a.json", pod("a"))
    watched.write("b.json", pod("b"))
    await watched.until(a="app:1", b="app:1")
    (watched.folder / "a.json").unlink()
    (watched.folder / "b.json").rename(watched.folder / "b.json.off")
    await watched.until()


async def test_a_rewrite_without_a_change_gives_no_change(watched) -> None:
    watched.write("a.json", pod("a"))
    await watched.until(a="app:1")
    watched.write("a.json", pod("a"))
    watched.write("b.json", pod("b"))
    await watched.until(a="app:1", b="app:1")

    assert watched.changes == 2


async def test_a_mistake_names_its_field_and_takes_nothing_away(watched, caplog) -> None:
    watched.write("a.yaml", pod("a"))
    watched.write("b.yaml", pod("b"))
    await watched.until(a="app:1", b="app:1")
    watched.write("a.yaml", {"kind": "Pod", "metadata": {"name": "a"}, "spec": {}}, pod("c"))
    watched.write("b.yaml", pod("b", "app:2"))
    await watched.until(a="app:1", b="app:2", c="app:1")

    assert watched.source.problems == {"a.yaml": "spec.containers: expected at least one container"}
    assert [record.field for record in caplog.records] == ["spec.containers"]


@pytest.mark.parametrize(
    "text", ["{", "[1, 2", "- a", "just text", "\x00", "a: &a [*a]", "!!python/object:os.system {}"]
)
async def test_a_file_that_is_no_manifest_is_a_problem_and_no_crash(watched, text) -> None:
    (watched.folder / "bad.yaml").write_text(text)
    watched.write("good.yaml", pod("good"))
    await watched.until(good="app:1")

    assert list(watched.source.problems) == ["bad.yaml"]


async def test_a_huge_file_is_a_problem(watched) -> None:
    (watched.folder / "big.yaml").write_bytes(b"#" * (5 << 20))
    watched.write("good.yaml", pod("good"))
    await watched.until(good="app:1")

    assert "larger" in watched.source.problems["big.yaml"]


async def test_other_files_are_not_read(watched) -> None:
    for name in (".hidden.yaml", "README", "pod.yaml.swp"):
        (watched.folder / name).write_text("{")
    watched.write("good.yaml", pod("good"))
    await watched.until(good="app:1")

    assert watched.source.problems == {}


async def test_of_two_files_with_one_pod_the_first_has_it(watched) -> None:
    watched.write("b.yaml", pod("a", "app:2"))
    await watched.until(a="app:2")
    watched.write("a.yaml", pod("a", "app:1"))
    await watched.until(a="app:1")
    (watched.folder / "a.yaml").unlink()
    await watched.until(a="app:2")


async def test_a_volume_of_kubernetes_is_swapped_as_a_whole(watched) -> None:
    versions = [watched.folder / f"..v{n}" for n in (1, 2)]
    for number, version in enumerate(versions, 1):
        version.mkdir()
        (version / "a.yaml").write_text(json.dumps(pod("a", f"app:{number}")))
    (watched.folder / "..data").symlink_to("..v1")
    (watched.folder / "a.yaml").symlink_to("..data/a.yaml")
    watched.write("b.yaml", pod("b"))
    await watched.until(a="app:1", b="app:1")
    (watched.folder / "..new").symlink_to("..v2")
    (watched.folder / "..new").rename(watched.folder / "..data")
    await watched.until(a="app:2", b="app:1")


async def test_a_folder_that_comes_late_or_is_replaced_is_found(watched) -> None:
    watched.write("a.yaml", pod("a"))
    await watched.until(a="app:1")
    watched.folder.rename(watched.folder.with_name("old"))
    await watched.until()
    watched.folder.mkdir()
    watched.write("b.yaml", pod("b"))
    await watched.until(b="app:1")


async def test_the_event_loop_reads_no_file_itself(watched, monkeypatch) -> None:
    """A disk that hangs must not stop the agent: aiofiles reads in threads."""

    def refuse(*_arguments: object, **_options: object) -> bytes:
        raise AssertionError("read in the event loop")

    for name in ("read_bytes", "read_text", "open", "stat", "lstat", "iterdir"):
        monkeypatch.setattr(manifest_folder.pathlib.Path, name, refuse)
    with open(watched.folder / "a.json", "w") as file:
        json.dump(pod("a"), file)
    await watched.until(a="app:1")
