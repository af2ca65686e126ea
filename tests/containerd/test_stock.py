"""A stock containerd 2.4 on a store: its EROFS snapshotter takes layers from there by itself.

What docs/internals/store.md says of it. Without dm-verity, which machines of tests need not have.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator

import grpc
import pytest

from agent.store.publish import writer
from lab import services
from lab.runtime import containerds, cri
from tests import named_containerd
from tests.containerd import conftest

IMAGE, LAYERS = "lab/layers40:1", 40


pytestmark = [
    pytest.mark.root,
    pytest.mark.containerd,
    named_containerd.needs_layer_caches,
]


def configuration(store: pathlib.Path, unpacks: int) -> str:
    """As the documentation has it, with the store's place."""
    platform = f"linux/{containerds.architecture()}"
    both = (("overlayfs", "walking"), ("erofs", "erofs"))
    return f"""
[plugins.'io.containerd.snapshotter.v1.erofs']
  layer_content_caches = ["{store}"]
  dmverity_mode = "off"
[plugins.'io.containerd.transfer.v1.local']
  max_concurrent_unpacks = {unpacks}
{
        "".join(
            f'''[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "{platform}"
  snapshotter = "{snapshotter}"
  differ = "{differ}"
'''
            for snapshotter, differ in both
        )
    }
[plugins.'io.containerd.cri.v1.images'.runtime_platforms.stock]
  snapshotter = "erofs"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.stock]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "erofs"
"""


@contextlib.contextmanager
def pulled(
    folder: pathlib.Path, registry, *, compression: str, unpacks: int = 4, annotations: bool = False
) -> Iterator[tuple[cri.Client, str, int]]:
    """A CRI that has pulled an image of the store, the image, and how many layers were fetched."""
    store = folder / "store"
    store.mkdir()
    writer.create(store, compression=compression)
    conftest.build(store, registry, [IMAGE])
    reference = f"{registry.address}/{IMAGE}"
    with (
        services.Containerd(
            "named",
            registries=[registry.address],
            folder=folder / "c",
            names_images=annotations,
            extra=configuration(store, unpacks),
        ) as containerd,
        containerd.cri() as client,
    ):
        mark = registry.mark()
        client.pull_image(reference, handler="stock")
        yield client, reference, len(registry.layer_gets(mark))


def run(client: cri.Client, reference: str) -> str:
    command = ["sh", "-c", "ls /layers | wc -l"]
    manifest = cri.manifest("pod", reference, command=command, handler="stock")
    with client.pod(manifest) as pod:
        assert client.wait_for_exit(pod) == [0]
        return str(pod.output)


def test_uncompressed_layers_are_found_where_layers_are_unpacked_in_parallel(
    folder, registry
) -> None:
    with pulled(folder, registry, compression="none") as (client, reference, fetched):
        assert fetched == 0
        assert int(run(client, reference)) > 0


@pytest.mark.parametrize(("unpacks", "annotations"), [(1, False), (4, True)])
def test_otherwise_only_the_lowest_is(folder, registry, unpacks, annotations) -> None:
    """With snapshot annotations, which the uimgacc snapshotter needs, the CRI unpacks one layer
    after the other, whatever the transfer service is told."""
    with pulled(folder, registry, compression="none", unpacks=unpacks, annotations=annotations) as (
        client,
        reference,
        fetched,
    ):
        assert fetched == LAYERS - 1
        assert int(run(client, reference)) > 0


def test_compressed_layers_are_found_and_read_only_by_newer_releases(folder, registry) -> None:
    """Older ones cannot, in their own reader of user names (containerd pull request 14077)."""
    with pulled(folder, registry, compression="lz4") as (client, reference, fetched):
        assert fetched == 0
        try:
            said = run(client, reference)
        except grpc.RpcError as error:
            said = error.details()
        assert re.search(r"^[1-9]\d*$|unsupported incompatible feature", said)
