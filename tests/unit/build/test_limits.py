"""What a layer may take: by its blob, by what is left of its cache, by the builder's memory."""

import pathlib
import re

import pytest

from agent.build import limits
from agent.clients.registry import distribution
from agent.model import oci
from agent.model.artifacts import artifact_files
from agent.store.lookup import file_reads

GIB = 1 << 30
PAGE = pathlib.Path(__file__).parents[3] / "docs" / "security" / "limits.md"


def test_an_ordinary_large_layer_is_within_its_limits() -> None:
    """30 GiB of files that compress to a half, in the smallest cache; 300,000 files."""
    account = limits.Account(
        limits.Limits(blob=15 * GIB, room=20 * GIB, memory=limits.Machine().of_layer)
    )

    account.unpack(30 * GIB)
    account.keep(300_000 * limits.ENTRY)


def test_a_blob_of_zeros_is_held_to_its_size() -> None:
    account = limits.Account(limits.Limits(blob=1 << 20, room=20 * GIB))
    account.unpack(4 * GIB)

    with pytest.raises(limits.TooMuch, match=r"more than 4\.1 GiB, for a blob of 1\.0 MiB"):
        account.unpack(GIB)


def test_a_layer_is_held_to_what_is_left_of_its_cache() -> None:
    account = limits.Account(limits.Limits(blob=GIB, room=GIB))
    account.unpack(4 * GIB)

    with pytest.raises(limits.NoRoom, match=r"more than 4\.0 GiB, 4 times what is left"):
        account.unpack(1)


def test_what_a_manifest_says_of_a_blob_is_not_believed() -> None:
    """A terabyte, of which a MiB has arrived."""
    account = limits.Account(limits.Limits(blob=1 << 40, room=1 << 40))
    account.unpack(8 * GIB)
    account.write(4 * GIB, arrived=1 << 20)

    with pytest.raises(limits.TooMuch, match=r"for a blob of 1\.0 MiB"):
        account.write(GIB, arrived=1 << 20)


@pytest.mark.parametrize(
    ("memory", "parallel", "of_layer"),
    [(2 * GIB, 3, 384 << 20), (2 * GIB, 1, 1152 << 20), (GIB, 3, 128 << 20), (8 * GIB, 3, 2432)],
)
def test_more_memory_is_for_more_entries(memory: int, parallel: int, of_layer: int) -> None:
    of_layer = of_layer << 20 if of_layer < 1 << 20 else of_layer

    assert limits.Machine(memory=memory, parallel=parallel).of_layer == of_layer


def test_the_page_has_every_limit() -> None:
    page = PAGE.read_text()
    values = {
        "layer: times what is left of its cache": f"{limits.EXPANSION} times",
        "layer: by its blob": f"{limits.RATIO_FREE >> 30} GiB and {limits.RATIO} times",
        "path": f"{limits.PATH_DEPTH} names",
        "header": f"{limits.HEADER >> 20} MiB",
        "unnamed directories": f"{limits.IMPLIED >> 20} MiB",
        "large directories": f"{limits.COMPARED // 1_000_000_000} billion",
        "steps": f"{limits.STEPS // 1_000_000} million",
        "layers": f"{oci.MAX_LAYERS}",
        "files of an artifact": f"{artifact_files.MAX_FILES:,}",
        "nested indexes": f"{oci.MAX_INDEXES}",
        "values": f"{oci.MAX_VALUES:,}",
        "manifest": f"{distribution.MANIFEST_LIMIT >> 20} MiB",
        "config": f"{distribution.CONFIG_LIMIT >> 20} MiB",
        "record": f"{file_reads.RECORD_LIMIT >> 20} MiB",
        "looked-up record": f"{file_reads.LOOKUP_LIMIT >> 20} MiB",
    }
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE))

    assert {name: rows.get(name) for name in values} == values
