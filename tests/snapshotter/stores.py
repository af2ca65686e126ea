"""A small store made by hand, so that these tests do not stand on the builder."""

import hashlib
import io
import pathlib
import subprocess
import tarfile
from typing import Any

from agent.kits import files
from agent.model import digests, images, records
from agent.store import layout

MKFS = "mkfs.erofs"


def make_tar(contents: dict[str, str]) -> bytes:
    """An uncompressed layer with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def diff_id_of(contents: dict[str, str]) -> str:
    """The diff ID of a layer with these files."""
    return "sha256:" + hashlib.sha256(make_tar(contents)).hexdigest()


class Store:
    """A store at `root` with layers of text files."""

    def __init__(self, root: pathlib.Path) -> None:
        self.layout = layout.Layout(root)
        record = records.StoreRecord(format=records.FORMAT, id="test")
        files.write(self.layout.store_record, records.encode(record))

    def add_chain(self, *layers: dict[str, str]) -> list[str]:
        """Publish layers, bottom first; their chain IDs."""
        return self.publish_chain([self.add_layer(contents) for contents in layers])

    def publish_chain(self, diff_ids: list[str]) -> list[str]:
        """Publish the chain of layers that are there, bottom first; the chain IDs."""
        chain_ids = digests.chain_ids(diff_ids)
        parents = [None, *chain_ids]
        for diff_id, chain_id, parent in zip(diff_ids, chain_ids, parents, strict=False):
            record = records.ChainRecord(diff_id=diff_id, parent=parent)
            files.write(self.layout.chain_record(chain_id), records.encode(record))
        return list(chain_ids)

    def add_layer(self, contents: dict[str, str], **record: Any) -> str:
        """Publish one layer, a public one unless its `record` says something else; its diff ID."""
        tar = make_tar(contents)
        diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
        path = self.layout.layer(diff_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [MKFS, "--quiet", "--tar=f", "--aufs", "-Enoinline_data", str(path)],
            input=tar,
            check=True,
        )
        data = path.read_bytes()
        made = records.LayerRecord(
            diff_id=diff_id,
            size=len(data),
            tar_size=len(tar),
            sha256=digests.sha256(data),
            blobs=[],
            mkfs=records.Toolchain(version="test", options=[]),
            **({"public": True} | record),
        )
        files.write(self.layout.layer_record(diff_id), records.encode(made))
        return diff_id

    def add_image(self, name: str, diff_ids: list[str]) -> None:
        """Publish an image's record, as an earlier version would have."""
        layers = [
            records.ImageLayer(
                diff_id=diff_id,
                chain_id=chain_id,
                digest=diff_id,
                media_type="",
                size=1,
                tar_size=1,
                erofs_size=1,
            )
            for diff_id, chain_id in zip(diff_ids, digests.chain_ids(diff_ids), strict=True)
        ]
        made = records.PlatformImage(
            platform="linux/amd64",
            manifest=diff_ids[0],
            manifest_media_type="",
            manifest_size=1,
            config=diff_ids[0],
            layers=layers,
        )
        reference = images.parse_reference(name)
        record = records.ImageRecord(
            ref=str(reference),
            target=diff_ids[0],
            target_media_type="",
            target_size=1,
            platforms=[made],
            created="2026-01-01T00:00:00Z",
        )
        files.write(self.layout.image_record(reference), records.encode(record))
