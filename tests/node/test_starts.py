"""The first start of an image is observed, and the next one is read ahead."""

import os
import pathlib

import pytest

from agent.model import images, records
from agent.store import layout, profile_files
from agent.store.lookup import direct_reader
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

IMAGE = "lab/layers2:1"


def cool(store: pathlib.Path) -> None:
    """Have no layer file in memory."""
    for path in store.glob("sha256/*/*.erofs"):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def profiles(node: conftest.Node) -> list[records.ProfileRecord]:
    reference = images.parse_reference(node.reference(IMAGE))
    return profile_files.read_all(node.root / "local" / "profiles", reference)


def test_a_first_start_is_observed_and_the_next_one_read_ahead(node2, pristine) -> None:
    cool(pristine)
    manifest = node2.manifest("first", IMAGE)
    node2.schedule(manifest)
    conftest.wait_until(lambda: node2.has(IMAGE))
    with node2.client.pod(manifest) as pod:
        node2.client.execute(pod.containers[0], ("ls", "/"))
        conftest.wait_until(lambda: profiles(node2))
    made = made_of(node2, pristine)
    profile = profile_files.profile_of(profiles(node2), made.manifest)

    assert profile is not None
    assert profile.size > 0
    assert set(profile.layers) <= {layer.diff_id for layer in made.layers}
    assert node2.metric("uimgacc_profiles_recorded_total") == 1
    assert node2.metric("uimgacc_read_ahead_bytes_total") == 0


def made_of(node: conftest.Node, store: pathlib.Path) -> records.PlatformImage:
    reader = direct_reader.Reader(layout.Layout(store))
    record = reader.image(images.parse_reference(node.reference(IMAGE)))
    assert record is not None
    return record.platforms[0]
