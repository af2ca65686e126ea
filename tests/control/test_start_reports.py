"""A node's report of a start: taken over as far as the store bears it out, and cleared."""

import pytest

from agent.control.caches import cache_object
from agent.control.reconcile import cluster
from agent.model import images, keys
from agent.model.starts import profile_codec, start_profiles
from agent.store import profile_files
from agent.store.publish import start_reports
from tests.control import conftest
from tests.kube import apis

pytestmark = pytest.mark.timeout(300)


def report(plane: conftest.Plane, key: cache_object.Key, text: str) -> None:
    """Write it as an agent does."""
    body = {"metadata": {"annotations": {keys.START_PROFILE: text}}}
    plane.api.patch(cluster.resource_of(key), key.name, body)


def is_clear(plane: conftest.Plane, key: cache_object.Key) -> bool:
    metadata = plane.api.get(cluster.resource_of(key), key.name)["metadata"]
    return keys.START_PROFILE not in (metadata.get("annotations") or {})


def test_what_a_node_has_observed_comes_into_the_store(plane) -> None:
    plane.controller()
    key = plane.apply("tools", "lab/gzip:1")
    status = plane.wait(key, "Ready")
    record = plane.reader.cache(status["imageCacheId"])
    image = plane.reader.image(images.parse_reference(record.images[0].ref))
    made = image.platforms[0]
    layers = tuple(start_reports.sizes_of(plane.reader, made))
    profile = start_profiles.Profile(layers, (start_profiles.Piece(0, 0, 1),))
    of_image = profile_codec.Report(
        node="node-1",
        image=image.ref,
        manifest=made.manifest,
        text=profile_codec.encode(profile),
    )

    report(plane, key, "1 node-1 nonsense")
    apis.wait_until(lambda: is_clear(plane, key), seconds=60)
    folder, reference = plane.store.profile_records, images.parse_reference(image.ref)
    assert profile_files.read_all(folder, reference) == []

    report(plane, key, str(of_image))
    apis.wait_until(lambda: is_clear(plane, key), seconds=60)
    stored = profile_files.read_all(folder, reference)
    reasons = [
        line["reason"]
        for line in plane.controllers[0].lines()
        if line["message"] == "a start profile is refused"
    ]
    assert reasons == ["not of the form of a report"]
    assert profile_files.profile_of(stored, made.manifest) == profile
