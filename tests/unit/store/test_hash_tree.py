"""Hash trees are what veritysetup makes, byte for byte, and vouch for every byte of a layer."""

import pathlib
import random
import re
import shutil
import subprocess

import pytest

from agent.store import hash_leaves, hash_tree
from tests.unit.store import making

BLOCK = hash_tree.BLOCK
CHOSEN = hash_tree.Parameters.of(making.digest("layer"))

SIZES = [1, BLOCK, BLOCK + 1, 2 * BLOCK, 128 * BLOCK, 129 * BLOCK, 5 * 2**20 + 17]
"""Of one block, which needs no tree; of one level, and of two."""
needs_veritysetup = pytest.mark.skipif(
    shutil.which("veritysetup") is None, reason="lab/setup brings veritysetup"
)


def a_file(folder: pathlib.Path, size: int) -> pathlib.Path:
    path = folder / "image.erofs"
    path.write_bytes(random.Random(size).randbytes(size))
    return path


def veritysetup(*arguments: str | pathlib.Path) -> str:
    done = subprocess.run(
        ["veritysetup", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def format_options(data_blocks: int) -> list[str]:
    return [
        f"--salt={CHOSEN.salt.hex()}",
        f"--uuid={CHOSEN.uuid}",
        f"--data-blocks={data_blocks}",
    ]


@needs_veritysetup
@pytest.mark.parametrize("size", SIZES)
def test_a_layer_with_its_tree_has_the_bytes_of_veritysetup(tmp_path, size) -> None:
    source = a_file(tmp_path, size)
    blocks = -(-size // BLOCK)
    theirs = tmp_path / "theirs"
    theirs.write_bytes(source.read_bytes().ljust(blocks * BLOCK, b"\0"))
    place = f"--hash-offset={blocks * BLOCK}"
    said = veritysetup("format", *format_options(blocks), place, theirs, theirs)
    root_hash = re.search(r"Root hash:\s+([0-9a-f]{64})", said)
    assert root_hash is not None

    sealed = hash_tree.seal(source, tmp_path / "draft", CHOSEN, scratch=tmp_path)

    assert (tmp_path / "draft").read_bytes() == theirs.read_bytes().ljust(
        blocks * BLOCK + sealed.verity.tree_size, b"\0"
    )
    assert sealed.verity.root_hash == root_hash[1]
    assert sealed.verity.offset == blocks * BLOCK
    assert veritysetup("verify", place, theirs, tmp_path / "draft", root_hash[1]) == ""


@needs_veritysetup
@pytest.mark.parametrize("size", SIZES)
def test_a_tree_beside_a_layer_has_the_bytes_of_veritysetup(tmp_path, size) -> None:
    layer = a_file(tmp_path, size)
    padded = tmp_path / "padded"
    padded.write_bytes(layer.read_bytes().ljust(-(-size // BLOCK) * BLOCK, b"\0"))
    theirs = tmp_path / "theirs"
    said = veritysetup("format", *format_options(-(-size // BLOCK)), padded, theirs)

    sealed = hash_tree.beside(layer, tmp_path / "draft", CHOSEN)

    tree = (tmp_path / "draft").read_bytes()
    assert tree == theirs.read_bytes().ljust(len(tree), b"\0")
    assert sealed.verity.root_hash in said
    assert sealed.verity.offset == 0


def test_an_image_that_is_in_its_place_already_is_only_appended_to(tmp_path) -> None:
    content = a_file(tmp_path, 3 * BLOCK).read_bytes()
    draft = tmp_path / "image.erofs"
    elsewhere = hash_tree.seal(draft, tmp_path / "copy", CHOSEN, scratch=tmp_path)

    sealed = hash_tree.seal(draft, draft, CHOSEN, scratch=tmp_path)

    assert sealed == elsewhere
    assert draft.read_bytes() == (tmp_path / "copy").read_bytes()
    assert draft.read_bytes()[: 3 * BLOCK] == content


def test_the_same_layer_gets_the_same_tree_and_another_one_another() -> None:
    assert hash_tree.Parameters.of(making.digest("layer")) == CHOSEN
    assert hash_tree.Parameters.of(making.digest("other")) != CHOSEN


@pytest.mark.parametrize("at", [0, BLOCK, -1])
def test_each_changed_byte_of_a_tree_is_a_fault(tmp_path, at) -> None:
    draft = tmp_path / "draft"
    verity = hash_tree.seal(a_file(tmp_path, 200 * BLOCK), draft, CHOSEN, scratch=tmp_path).verity
    assert hash_tree.fault(draft, verity) is None

    data = bytearray(draft.read_bytes())
    data[at if at < 0 else verity.offset + at] ^= 1
    draft.write_bytes(data)

    assert hash_tree.fault(draft, verity) == "its hash tree does not have the sha256 of its record"


def test_a_tree_that_another_root_hash_vouches_for_is_a_fault(tmp_path) -> None:
    draft = tmp_path / "draft"
    sealed = hash_tree.seal(a_file(tmp_path, 200 * BLOCK), draft, CHOSEN, scratch=tmp_path)
    wrong = making.verity(sealed.verity, root_hash="0" * 64)

    assert (
        hash_tree.fault(draft, wrong) == "its hash tree does not have the root hash of its record"
    )


def test_a_tree_that_is_cut_off_is_a_fault(tmp_path) -> None:
    draft = tmp_path / "draft"
    sealed = hash_tree.seal(a_file(tmp_path, 200 * BLOCK), draft, CHOSEN, scratch=tmp_path)
    draft.write_bytes(draft.read_bytes()[:-1])

    assert hash_tree.fault(draft, sealed.verity) == "its hash tree is cut off"


def test_the_sidecar_says_what_containerd_reads(tmp_path) -> None:
    """Its internal/dmverity, DmverityMetadata."""
    layer = a_file(tmp_path, 2 * BLOCK)
    verity = hash_tree.seal(layer, layer, CHOSEN, scratch=tmp_path).verity

    assert hash_tree.sidecar(verity) == (
        b'{\n  "roothash": "%s",\n  "hashoffset": 8192\n}' % verity.root_hash.encode()
    )


def test_a_large_tree_is_not_kept_in_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hash_tree, "_IN_MEMORY", BLOCK)
    layer = a_file(tmp_path, 1000 * BLOCK)

    spilled = hash_tree.seal(layer, tmp_path / "spilled", CHOSEN, scratch=tmp_path)
    monkeypatch.undo()

    assert spilled == hash_tree.seal(layer, tmp_path / "other", CHOSEN, scratch=tmp_path)


def test_another_process_hashes_the_blocks_of_a_large_file(tmp_path, monkeypatch) -> None:
    data = bytes(range(256)) * 40_000 + b"end"
    sealed = []
    for large in (1 << 60, 1):
        monkeypatch.setattr(hash_leaves, "LARGE", large)
        path = tmp_path / str(large)
        path.write_bytes(data)
        sealed.append(hash_tree.seal(path, path, CHOSEN, scratch=tmp_path))

    assert sealed[0] == sealed[1]


def test_what_that_process_does_not_say_is_hashed_here(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hash_leaves, "LARGE", 1)
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * hash_leaves.BLOCK))
    block = memoryview(bytes(hash_leaves.BLOCK))

    with hash_leaves.Hasher(str(path), b"salt", hash_leaves.BLOCK) as hasher:
        found = [hasher.hashes(block) for _ in range(3)]

    assert found == [hash_leaves.of(block, hash_leaves.salted(b"salt"))] * 3
