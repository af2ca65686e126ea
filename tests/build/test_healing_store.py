"""What `store check` advises, done: the cache is built again, and is sound and served then."""

import json
import pathlib

import pytest

from agent.build import erofs, layer_build
from agent.store import integrity
from agent.store.lookup import chain_index, direct_reader, file_reads
from agent.store.publish import writer
from lab.samples import tars
from tests.fakes import registry as fakes

LAYER = fakes.tar(file=b"content" * 1000)
OTHER = fakes.tar(other=b"other" * 1000)


def flip_byte(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        file.seek(-9, 2)
        byte = file.read(1)
        file.seek(-9, 2)
        file.write(bytes([byte[0] ^ 1]))


async def test_a_flipped_byte_is_healed_for_each_image_that_has_the_layer(bench) -> None:
    bench.fake.add_image([LAYER, OTHER], "1")
    bench.fake.add_image([LAYER], "2")
    for tag in ("1", "2"):
        await bench.build(f"team/app:{tag}", cache_id=f"imc-app{tag}")
    path = bench.place.layer(fakes.digest(LAYER))
    inode = path.stat().st_ino
    flip_byte(path)

    (finding,) = integrity.check(bench.place, mark=True)
    assert finding.path == path
    bench.fake.requests.clear()
    for tag in ("1", "2"):
        await bench.build(f"team/app:{tag}", cache_id=f"imc-app{tag}")

    assert list(integrity.check(bench.place)) == []
    assert path.stat().st_ino == inode
    assert len(bench.blob_requests()) == 3  # two configs, and the layer once
    for tag in ("1", "2"):
        image = direct_reader.Reader(bench.place).image(bench.reference(f"team/app:{tag}"))
        assert image is not None
        bottom = image.platforms[0].layers[0]
        assert bottom.diff_id == fakes.digest(LAYER)
        found = chain_index.find_chain(str(bench.place.root), bottom.chain_id[7:])
        assert found is not None
        assert not chain_index.is_damaged(found[1])


async def test_a_layer_with_thousands_of_folders_that_its_tar_does_not_name_is_served(
    bench,
) -> None:
    deep = "/".join(f"{level:02}-folder" for level in range(40))
    above = tars.archive([tars.file(f"{number:04}/{deep}/file") for number in range(1000)])
    bench.fake.add_image([above], "1")

    await bench.build()

    chain = fakes.digest(above)
    found = chain_index.find_chain(str(bench.place.root), chain[7:])
    assert found is not None
    record = direct_reader.Reader(bench.place).layer(chain)
    assert record is not None
    assert len(json.dumps(record.implied)) > file_reads.LOOKUP_LIMIT
    assert list(integrity.check(bench.place)) == []
    with erofs.Layer(bench.place.layer(chain)) as layer:
        assert layer.find(f"0999/{deep}/file".encode()) is True


async def test_a_build_that_is_too_large_takes_back_the_new_file_only(bench) -> None:
    """The damaged one may be mounted on nodes."""
    bench.fake.add_image([LAYER, fakes.tar(large=bytes(range(256)) * 4096)], "1")
    await bench.build(cache_id="imc-one")
    writer.delete_cache(bench.place, "imc-one")
    for path in bench.place.image_records.rglob("*.json"):
        path.unlink()
    path = bench.place.layer(fakes.digest(LAYER))
    flip_byte(path)
    list(integrity.check(bench.place, mark=True))

    with pytest.raises(layer_build.CacheTooLarge):
        await bench.build(cache_id="imc-two", capacity=8192)

    assert path.exists()
