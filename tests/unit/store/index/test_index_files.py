"""The index of a store: complete after a crash at any step, rebuilt where it is not."""

import itertools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import msgspec
import pytest

from agent.kits import files
from agent.model import images
from agent.store import integrity, layout
from agent.store.index import cache_entries, index_files
from agent.store.lookup import catalog, direct_reader, file_reads, local_pool
from agent.store.publish import writer
from tests.unit.store import making

OTHER = "registry.io/team/other:1"


@pytest.fixture
def place() -> Iterator[layout.Layout]:
    with tempfile.TemporaryDirectory(dir=making.MEMORY) as folder:
        yield making.store(pathlib.Path(folder) / "store")


def shelf(place: layout.Layout) -> catalog.Catalog:
    return catalog.Catalog(place, local_pool.LocalPool(file_reads.OPERATIONS))


async def found(place: layout.Layout, ref: str = making.REF) -> list[str]:
    """The IDs of the caches that a look-up finds for an image."""
    wanted = cache_entries.Wanted(references=(images.parse_reference(ref),))
    answer = await shelf(place).caches_for(wanted)
    return [record.id for record in answer.caches]


def entries(place: layout.Layout) -> list[pathlib.Path]:
    return sorted(path for path in place.index.rglob("*") if path.is_file())


async def test_a_published_cache_is_found_and_a_deleted_one_leaves_nothing(place) -> None:
    making.cache(place, "imc-one", making.image(place, "a"))
    making.cache(place, "imc-two", making.image(place, "b", ref=OTHER))

    assert (await found(place), await found(place, OTHER)) == (["imc-one"], ["imc-two"])
    writer.delete_cache(place, "imc-one")
    assert await found(place) == []
    assert all("imc-two" in path.name for path in entries(place))


async def test_a_look_up_reads_the_caches_of_its_images_only(place, monkeypatch) -> None:
    making.cache(place, "imc-one", making.image(place, "a"))
    for number in range(30):
        image = making.image(place, "b", ref=f"registry.io/team/other{number}:1")
        making.cache(place, f"imc-other-{number}", image)
    read: list[str] = []
    kept = file_reads.read
    monkeypatch.setattr(
        file_reads, "read", lambda path, limit: (read.append(path), kept(path, limit))[1]
    )

    assert await found(place) == ["imc-one"]
    assert read == [str(place.cache_record("imc-one"))]


async def test_a_cache_that_is_built_with_other_images_is_found_by_these_only(place) -> None:
    first, second = making.image(place, "a"), making.image(place, "b", ref=OTHER)
    making.cache(place, "imc-one", first)
    making.cache(place, "imc-one", second)

    assert (await found(place), await found(place, OTHER)) == ([], ["imc-one"])
    assert index_files.lacking(place) == []


async def test_a_store_of_an_earlier_version_is_read_as_before_until_it_has_an_index(place) -> None:
    making.cache(place, "imc-one", making.image(place, "a"))
    making.cache(place, "imc-two", making.image(place, "b", ref=OTHER))
    shutil.rmtree(place.index)
    place.index_mark.unlink()
    wanted = cache_entries.Wanted(references=(images.parse_reference(making.REF),))

    before = await shelf(place).caches_for(wanted)
    index_files.begin(place)
    assert not index_files.is_complete(place), "it has caches without entries"
    index_files.complete(place)
    after = await shelf(place).caches_for(wanted)

    assert ([each.id for each in before.caches], before.are_all) == (["imc-one", "imc-two"], True)
    assert ([each.id for each in after.caches], after.are_all) == (["imc-one"], False)


async def test_entries_that_lead_nowhere_are_passed_over_and_go_after_a_day(place) -> None:
    making.cache(place, "imc-one", making.image(place, "a"))
    record = making.cache(place, "imc-gone", making.image(place, "a"))
    place.cache_record("imc-gone").unlink()
    place.cache_record("imc-one").with_name("imc-bad.json").write_text("{")

    assert await found(place) == ["imc-one"]
    index_files.complete(place)
    assert any("imc-gone" in path.name for path in entries(place)), "it may be published just now"
    for path in entries(place):
        os.utime(path, (1, 1))
    index_files.complete(place)
    assert not any("imc-gone" in path.name for path in entries(place))
    assert await found(place) == ["imc-one"]
    assert record.id == "imc-gone"


async def test_an_entry_that_says_the_wrong_thing_serves_no_wrong_cache(place) -> None:
    """What an entry leads to is matched by its own record."""
    making.cache(place, "imc-other", making.image(place, "b", ref=OTHER))
    reference = images.parse_reference(making.REF)
    folder = place.index_folder(cache_entries.repository(reference))
    folder.mkdir(parents=True)
    (folder / "1~all~imc-other").touch()

    answer = await shelf(place).caches_for(cache_entries.Wanted(references=(reference,)))

    assert [[image.ref for image in record.images] for record in answer.caches] == [[OTHER]]


async def test_a_missing_entry_is_found_by_the_check_and_put_right(place) -> None:
    making.cache(place, "imc-one", making.image(place, "a"))
    entry = next(path for path in entries(place) if "1~" in path.name)
    entry.unlink()

    (fault,) = integrity.index_faults(place)
    assert (fault.kind, fault.path) == (integrity.Kind.MISSING, place.cache_record("imc-one"))
    assert index_files.complete(place) == 1
    assert list(integrity.index_faults(place)) == []
    assert await found(place) == ["imc-one"]


class Killed(BaseException):
    """The process ends here."""


STEPS = [
    (files, "sync_folder"),
    (files, "make_folder"),
    (files, "write"),
    (index_files, "_create"),
    (index_files, "_add"),
    (index_files, "_remove"),
    (pathlib.Path, "rename"),
    (pathlib.Path, "unlink"),
]


def killing(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """End at the `number`-th step of those that change something; how many there were."""
    count = [0]

    def deadly(kept):
        def call(*arguments, **options):
            count[0] += 1
            if count[0] == number:
                raise Killed
            return kept(*arguments, **options)

        return call

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
    return count


class History:
    """One verb, again and again, ended one step later each time."""

    def __init__(self, place: layout.Layout, verb: str) -> None:
        self.place, self.verb = place, verb
        self.one, self.other = making.image(place, "a"), making.image(place, "b", ref=OTHER)

    def prepare(self) -> None:
        self.place.cache_record("imc-one").unlink(missing_ok=True)
        shutil.rmtree(self.place.index, ignore_errors=True)
        if self.verb != "publish":
            making.cache(self.place, "imc-one", self.one)
        if self.verb == "complete":
            shutil.rmtree(self.place.index)
            self.place.index_mark.unlink(missing_ok=True)

    def act(self) -> None:
        if self.verb == "complete":
            index_files.complete(self.place)
        elif self.verb != "delete":
            making.cache(self.place, "imc-one", self.other)
        elif self.place.cache_record("imc-one").exists():
            writer.delete_cache(self.place, "imc-one")

    def ends_at(self, number: int) -> bool:
        """Whether there were so many steps."""
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, number)
            try:
                self.act()
            except Killed:
                return True
        return False

    async def require_found(self) -> None:
        if index_files.is_complete(self.place):
            assert index_files.lacking(self.place) == []
        there = direct_reader.Reader(self.place).cache("imc-one")
        for image in there.images if there is not None else ():
            assert await found(self.place, image.ref) == ["imc-one"]


@pytest.mark.parametrize("verb", ["publish", "replace", "delete", "complete"])
async def test_whatever_step_a_crash_follows_no_cache_lacks_entries(place, verb: str) -> None:
    """A cache whose record is there is found; what is left over leads nowhere."""
    history = History(place, verb)
    for number in itertools.count(1):
        history.prepare()
        was_killed = history.ends_at(number)
        await history.require_found()
        history.act()
        assert index_files.lacking(place) == []
        if not was_killed:
            break

    assert number > 5


async def test_a_build_that_publishes_while_its_cache_is_deleted_keeps_its_entries(
    place, monkeypatch
) -> None:
    image = making.image(place, "a")
    record = making.cache(place, "imc-one", image)
    kept = index_files._remove

    def slow(*arguments, **options) -> None:
        monkeypatch.setattr(index_files, "_remove", kept)
        writer.publish_cache(place, record)  # by another process, at this moment
        kept(*arguments, **options)

    monkeypatch.setattr(index_files, "_remove", slow)
    writer.delete_cache(place, "imc-one")

    assert await found(place) == ["imc-one"]
    assert index_files.lacking(place) == []


async def test_a_deletion_while_a_build_publishes_leaves_the_entries_of_what_is_there(
    place, monkeypatch
) -> None:
    image = making.image(place, "a")
    record = making.cache(place, "imc-one", image)
    kept = writer.write_record

    def slow(*arguments, **options) -> None:
        monkeypatch.setattr(writer, "write_record", kept)
        writer.delete_cache(place, "imc-one")  # by another process, at this moment
        kept(*arguments, **options)

    monkeypatch.setattr(writer, "write_record", slow)
    writer.publish_cache(place, record)

    assert await found(place) == ["imc-one"]
    assert index_files.lacking(place) == []


async def test_a_folder_that_is_removed_meanwhile_is_made_again(place, monkeypatch) -> None:
    image = making.image(place, "a")
    kept = files.make_folder

    def removed(folder: pathlib.Path) -> None:
        kept(folder)
        if folder.parent.parent == place.index:
            monkeypatch.setattr(files, "make_folder", kept)
            folder.rmdir()

    monkeypatch.setattr(files, "make_folder", removed)
    making.cache(place, "imc-one", image)

    assert await found(place) == ["imc-one"]
    assert index_files.lacking(place) == []


async def test_warm_caches_are_read_by_themselves(place) -> None:
    making.cache(place, "imc-cold", making.image(place, "a"))
    record = making.cache(place, "imc-warm", making.image(place, "a"))
    writer.publish_cache(place, msgspec.structs.replace(record, keep_warm=True))

    warm = [each.id for each in await shelf(place).warm_caches()]
    writer.publish_cache(place, record)

    assert warm == ["imc-warm"]
    assert await shelf(place).warm_caches() == []


async def test_many_caches_are_read_in_calls_of_a_few(place) -> None:
    """Each call has a deadline: one for all would take a large store for one that is away."""
    image = making.image(place, "a")
    for number in range(70):
        making.cache(place, f"imc-{number:03}", image)
    calls: list[int] = []

    class Pool(local_pool.LocalPool):
        async def call(self, operation, *arguments, deadline):
            answer = await super().call(operation, *arguments, deadline=deadline)
            if operation == "read_some":
                calls.append(len(answer))
            return answer

    read = await catalog.Catalog(place, Pool(file_reads.OPERATIONS)).caches()

    assert len(read) == 70
    assert max(calls) <= 32
