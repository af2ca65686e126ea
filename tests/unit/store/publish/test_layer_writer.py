"""Layer files: published once, never replaced."""

import errno
import json
import pathlib
import subprocess
import sys

import msgspec
import pytest

from agent.model import digests, records
from agent.store import integrity, layer_file, layer_sources, layout
from agent.store.lookup import direct_reader, file_reads
from agent.store.publish import layer_writer, writer
from tests.unit.store import making

ROOT = pathlib.Path(__file__).parents[4]


def flip(path: pathlib.Path) -> None:
    """Change the last byte in place: the file stays the same one, of the same size."""
    with path.open("r+b") as file:
        file.seek(-1, 2)
        byte = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([byte[0] ^ 1]))


def test_a_published_layer_is_there_with_its_record_and_no_draft(tmp_path) -> None:
    place = making.store(tmp_path)

    record = making.layer(place, "a")

    assert direct_reader.Reader(place).layer(record.diff_id) == record
    assert list(place.tmp.iterdir()) == []


def test_the_second_builder_of_a_layer_leaves_the_first_ones_file(tmp_path) -> None:
    place = making.store(tmp_path)
    first = making.layer(place, "a")
    inode = place.layer(first.diff_id).stat().st_ino

    assert making.layer(place, "a") == first
    assert place.layer(first.diff_id).stat().st_ino == inode
    assert list(place.tmp.iterdir()) == []


def test_what_containerd_verifies_a_layer_by_is_beside_it(tmp_path) -> None:
    place = making.store(tmp_path)

    record = making.layer(place, "a", has_tree=True)

    assert record.verity is not None
    said = json.loads(place.layer_sidecar(record.diff_id).read_bytes())
    assert said == {"roothash": record.verity.root_hash, "hashoffset": record.verity.offset}


def test_a_file_of_an_earlier_version_gets_no_sidecar_that_is_not_its_own(tmp_path) -> None:
    """Its record is lost, and a build makes other bytes: those go to another place."""
    place = making.store(tmp_path)
    old = making.layer(place, "a")
    place.layer_record(old.diff_id).unlink()

    new = making.layer(place, "a", has_tree=True)

    assert new.diff_id != old.diff_id
    assert place.layer_sidecar(new.diff_id).exists()
    assert not place.layer_sidecar(old.diff_id).exists()


def test_what_belongs_to_a_layer_is_taken_back_with_it(tmp_path) -> None:
    place = making.store(tmp_path)
    record = making.layer(place, "a", has_tree=True)

    layer_writer.take_back(place, [record.diff_id], lambda: ())

    assert list(place.layer(record.diff_id).parent.iterdir()) == []


def test_a_second_blob_of_a_layer_is_noted(tmp_path) -> None:
    place = making.store(tmp_path)
    record = making.layer(place, "a")

    origin = layer_sources.Origin("registry.io/b", making.digest("other"), is_public=False)
    written = layer_writer.add_origin(place, record, origin)

    found = direct_reader.Reader(place).layer(record.diff_id)
    assert found is not None
    assert found == written
    assert set(found.blobs) == {making.digest("other"), making.digest("blob of a")}
    assert found.sources == [making.SOURCE, "registry.io/b"]


def test_an_origin_of_a_layer_that_is_gone_is_not_written(tmp_path) -> None:
    place = making.store(tmp_path)
    origin = layer_sources.Origin("registry.io/b", making.digest("other"), is_public=False)

    assert layer_writer.add_origin(place, making.layer_record("a"), origin) is None
    assert not place.layer_record(making.digest("a")).exists()


def test_a_layer_that_is_made_anew_keeps_its_sources(tmp_path) -> None:
    place = making.store(tmp_path)
    made = making.layer(place, "a")
    origin = layer_sources.Origin("registry.io/b", made.blobs[0], is_public=False)
    layer_writer.add_origin(place, made, origin)
    flip(place.layer(made.diff_id))
    layer_writer.mark_damaged(place, made.diff_id, "its bytes")

    new = making.layer(place, "a")

    assert new.diff_id != made.diff_id
    old = records.decode(place.layer_record(made.diff_id).read_bytes(), records.LayerRecord, "old")
    for record in new, old:
        assert set(record.sources or ()) == {making.SOURCE, "registry.io/b"}


def test_a_layer_file_without_a_record_is_taken_over(tmp_path) -> None:
    place = making.store(tmp_path)
    record = making.layer(place, "a")
    place.layer_record(record.diff_id).unlink()

    assert making.layer(place, "a") == record


def test_taking_layers_back_leaves_what_others_count_on(tmp_path) -> None:
    place = making.store(tmp_path)
    making.image(place, "needed")
    for name in ("claimed", "alone"):
        making.layer(place, name)
    asked = []

    def others() -> set[str]:
        asked.append(direct_reader.Reader(place).layer(making.digest("claimed")))
        return {making.digest("claimed")}

    names = [making.digest(name) for name in ("needed", "claimed", "alone")]
    layer_writer.take_back(place, names, others)

    assert asked == [None]
    reader = direct_reader.Reader(place)
    assert [reader.layer(name) is not None for name in names] == [True, True, False]
    assert not place.layer(making.digest("alone")).exists()


def damage_of_every_kind(place: layout.Layout, diff_id: str) -> dict:
    path, record_path = place.layer(diff_id), place.layer_record(diff_id)
    edited = json.loads(record_path.read_text()) | {"sha256": making.digest("other")}
    return {
        "a flipped byte": lambda: flip(path),
        "a cut file": lambda: path.write_bytes(path.read_bytes()[:-1]),
        "no superblock": lambda: path.write_bytes(bytes(path.stat().st_size)),
        "a cut record": lambda: record_path.write_bytes(record_path.read_bytes()[:-9]),
        "an edited record": lambda: record_path.write_text(json.dumps(edited)),
        "no record": record_path.unlink,
        "a missing file": path.unlink,
        "a missing chain": place.chain_record(diff_id).unlink,
        "a cut chain": lambda: place.chain_record(diff_id).write_text("{"),
    }


KINDS = (
    "a flipped byte",
    "a cut file",
    "no superblock",
    "a cut record",
    "an edited record",
    "no record",
    "a missing file",
    "a missing chain",
    "a cut chain",
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_check_advises_heals_and_replaces_no_file(tmp_path, kind: str) -> None:
    """Check, then create the cache again; the file stays as it is under its mounts."""
    place = making.store(tmp_path)
    diff_id = making.digest("a")
    making.cache(place, "imc-one", making.image(place, "a", "b"))
    inode = place.layer(diff_id).stat().st_ino
    damage_of_every_kind(place, diff_id)[kind]()

    bad = {integrity.Kind.DAMAGED, integrity.Kind.MISSING}
    assert [one for one in integrity.check(place, mark=True) if one.kind in bad]
    making.cache(place, "imc-one", making.image(place, "a", "b"))

    assert list(integrity.check(place)) == []
    if kind != "a missing file":
        assert place.layer(diff_id).stat().st_ino == inode
    chain = direct_reader.Reader(place).chain(diff_id)
    assert chain is not None
    made = direct_reader.Reader(place).layer(chain.diff_id)
    assert made is not None
    assert layer_file.sha256_of(place.layer(chain.diff_id)) == made.sha256


def test_a_layer_that_is_damaged_again_gets_another_name_again(tmp_path) -> None:
    place = making.store(tmp_path)
    names = []
    for _ in range(3):
        made = making.layer(place, "a")
        names.append(made.diff_id)
        flip(place.layer(made.diff_id))
        layer_writer.mark_damaged(place, made.diff_id, "its bytes")

    assert len(set(names)) == 3
    assert names[0] == making.digest("a")
    assert direct_reader.Reader(place).layer(names[0]) is None


def test_a_replacement_is_used_by_the_next_build_and_not_made_again(tmp_path) -> None:
    place = making.store(tmp_path)
    making.layer(place, "a")
    flip(place.layer(making.digest("a")))
    layer_writer.mark_damaged(place, making.digest("a"), "its bytes")
    made = making.layer(place, "a")

    assert direct_reader.Reader(place).layer(making.digest("a")) == made
    assert making.layer(place, "a") == made


def test_a_layer_with_many_folders_that_its_tar_does_not_name_has_a_small_record(tmp_path) -> None:
    """The snapshotter reads no record over 1 MiB, for each pull waits for it."""
    place = making.store(tmp_path)
    deep = [f"{number}/" + "/".join("abcdefgh" for _ in range(40)) for number in range(5000)]
    record = msgspec.structs.replace(making.layer(place, "a"), implied=deep)
    writer.write_record(place, place.layer_record(record.diff_id), record)

    assert sum(map(len, deep)) > file_reads.LOOKUP_LIMIT
    assert place.layer_record(record.diff_id).stat().st_size < file_reads.LOOKUP_LIMIT // 8
    assert direct_reader.Reader(place).layer(record.diff_id) == record


def test_a_record_that_would_not_be_read_is_refused_before_its_layer_is_published(tmp_path) -> None:
    place = making.store(tmp_path)
    digest = making.digest("a")
    draft = layer_writer.draft_of(place, digest)
    draft.write_bytes(making.erofs(b"a"))
    random = [making.digest(str(number)) for number in range(40_000)]
    record = records.LayerRecord(
        diff_id=digest,
        size=draft.stat().st_size,
        tar_size=1,
        sha256=layer_file.sha256_of(draft),
        blobs=[],
        mkfs=making.MKFS,
        implied=random,
    )

    with pytest.raises(writer.RecordTooLarge, match="too many folders"):
        layer_writer.publish_layer(place, draft, record)
    assert not place.layer(digest).exists()
    assert not draft.exists()


def test_a_record_over_the_limit_is_damage_for_all_and_is_written_anew(tmp_path) -> None:
    """As a version before wrote it."""
    place = making.store(tmp_path)
    record = making.cache(place, "imc-one", making.image(place, "a")) and making.layer(place, "a")
    path = place.layer_record(record.diff_id)
    large = json.loads(path.read_text()) | {"implied": ["a" * 100] * 20_000}
    path.write_text(json.dumps(large))
    inode = place.layer(record.diff_id).stat().st_ino

    assert [finding.path for finding in integrity.check(place)] == [path]
    assert making.layer(place, "a") == record
    assert place.layer(record.diff_id).stat().st_ino == inode


BUILDER = """
import pathlib, sys
from agent.store import layout
from tests.unit.store import making
place = layout.Layout(pathlib.Path(sys.argv[1]))
for number in range(300):
    making.layer(place, f"layer {number}")
"""


def test_builders_that_race_for_the_same_layers_leave_each_file_as_it_was_first(tmp_path) -> None:
    """Real processes: the file that a node may have mounted is never another one afterwards."""
    place = making.store(tmp_path)
    building = [
        subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path)], cwd=ROOT) for _ in range(3)
    ]
    inodes: dict[pathlib.Path, set[int]] = {}
    while any(process.poll() is None for process in building):
        for path in place.layer_files.glob("*/*.erofs"):
            inodes.setdefault(path, set()).add(path.stat().st_ino)

    assert [process.returncode for process in building] == [0, 0, 0]
    assert len(list(place.layer_files.glob("*/*.erofs"))) == 300
    assert all(len(seen) == 1 for seen in inodes.values())
    assert [one for one in integrity.check(place) if one.kind.value != "orphaned"] == []


def test_a_link_that_fails_replaces_nothing(tmp_path, monkeypatch) -> None:
    """An I/O error over NFS, after which the server may have made the link or not."""
    place = making.store(tmp_path)

    def fail(_path: pathlib.Path, _target: object) -> None:
        raise OSError(errno.EIO, "the server has gone")

    monkeypatch.setattr(pathlib.Path, "hardlink_to", fail)
    with pytest.raises(OSError, match="the server has gone"):
        making.layer(place, "a")

    assert not place.layer(making.digest("a")).exists()
    assert list(place.tmp.iterdir()) == []


def test_a_layer_that_is_made_anew_while_it_is_taken_back_stays(tmp_path) -> None:
    """By a build that claimed it too late to be seen, and found no record: its file was removed."""
    place = making.store(tmp_path)
    making.layer(place, "a")

    def others() -> set[str]:
        making.layer(place, "a")
        return set()

    layer_writer.take_back(place, [making.digest("a")], others)

    assert direct_reader.Reader(place).layer(making.digest("a")) is not None
    assert list(integrity.check(place)) == []
    assert list(place.tmp.iterdir()) == []


def test_a_layer_that_another_build_counts_on_is_put_back_as_the_same_file(tmp_path) -> None:
    place = making.store(tmp_path)
    record = making.layer(place, "a")
    inode = place.layer(record.diff_id).stat().st_ino

    layer_writer.take_back(place, [record.diff_id], lambda: {record.diff_id})

    assert direct_reader.Reader(place).layer(record.diff_id) == record
    assert place.layer(record.diff_id).stat().st_ino == inode
    assert list(place.tmp.iterdir()) == []


def test_the_sidecar_is_that_of_the_file_which_has_the_place(tmp_path) -> None:
    """Another builder, whose mkfs.erofs makes other bytes, wrote its own and was then slower."""
    place = making.store(tmp_path)
    record = making.layer(place, "a", has_tree=True)
    sidecar = place.layer_sidecar(record.diff_id)
    data = sidecar.read_bytes()
    place.layer(record.diff_id).unlink()
    place.layer_record(record.diff_id).unlink()
    sidecar.write_bytes(b"{}")

    making.layer(place, "a", has_tree=True)

    assert sidecar.read_bytes() == data


def rebuilt(
    place: layout.Layout, name: str, believes: layer_writer.Believes
) -> records.LayerRecord:
    """What a build has that makes a layer again because it believes no record of the store."""
    draft = layer_writer.draft_of(place, making.digest(name))
    draft.write_bytes(making.erofs(name.encode()))
    record = records.LayerRecord(
        diff_id=making.digest(name),
        size=draft.stat().st_size,
        tar_size=10,
        sha256=layer_file.sha256_of(draft),
        blobs=[making.digest("its blob")],
        mkfs=making.MKFS,
    )
    return layer_writer.publish_layer(place, draft, record, believes)


def test_a_record_that_is_not_believed_is_written_anew_where_the_bytes_are_right(tmp_path) -> None:
    place = making.store(tmp_path)
    first = making.layer(place, "a")
    inode = place.layer(first.diff_id).stat().st_ino
    forged = msgspec.structs.replace(first, implied=["etc"], sha256=making.digest("x"))
    writer.write_record(place, place.layer_record(first.diff_id), forged)

    made = rebuilt(place, "a", lambda _: False)

    found = direct_reader.Reader(place).layer(first.diff_id)
    assert found == made
    assert (made.diff_id, made.implied, made.sha256) == (first.diff_id, [], first.sha256)
    assert place.layer(first.diff_id).stat().st_ino == inode


def test_a_file_of_a_writer_of_the_store_is_not_taken_over(tmp_path) -> None:
    """Its record is as good as any, but it is not signed."""
    place = making.store(tmp_path)
    first = making.layer(place, "a")
    evil = making.erofs(b"evil")
    place.layer(first.diff_id).write_bytes(evil)
    forged = msgspec.structs.replace(first, size=len(evil), sha256=digests.sha256(evil))
    writer.write_record(place, place.layer_record(first.diff_id), forged)

    made = rebuilt(place, "a", lambda _: False)

    assert made.diff_id == digests.replacement_id(first.diff_id, 1)
    assert place.layer(made.diff_id).read_bytes() == making.erofs(b"a")
    assert place.layer(first.diff_id).read_bytes() == evil


def test_a_record_that_is_believed_is_used(tmp_path) -> None:
    place = making.store(tmp_path)
    first = making.layer(place, "a")

    made = rebuilt(place, "a", lambda record: record.diff_id == first.diff_id)

    assert made.sha256 == first.sha256
    assert len(made.blobs) == 2


def test_no_other_layer_can_be_called_the_replacement_of_one(tmp_path) -> None:
    """A writer of the store would have the next build take a signed layer for another one."""
    place = making.store(tmp_path)
    first, other = making.layer(place, "a"), making.layer(place, "b")
    forged = msgspec.structs.replace(first, damaged="x", replaced_by=other.diff_id)
    writer.write_record(place, place.layer_record(first.diff_id), forged)

    assert direct_reader.Reader(place).layer(first.diff_id) is None
