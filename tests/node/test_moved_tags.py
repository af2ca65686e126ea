"""Tags that the registry has moved, and caches that are being built, as pods of a node see them."""

import itertools
import json
import pathlib
import shutil

import pytest

from agent.model import caches, images, reports
from agent.store import layout
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def test_a_tag_that_has_moved_is_left_to_the_pull_until_it_is_built_again(
    folder, registry, pristine, tmp_path
) -> None:
    """A kubelet with IfNotPresent would run what was registered for the pod before."""
    store = pathlib.Path(shutil.copytree(pristine, tmp_path / "store"))
    image = "lab/layers2:1"
    records_of = {
        path: json.loads(path.read_text()) for path in layout.Layout(store).cache_records.iterdir()
    }

    def say(node: conftest.Node, *, withheld: bool) -> None:
        """What the controller writes into the records of caches."""
        moved = {
            "ref": node.reference(image),
            "target": f"sha256:{'2' * 64}",
            "noticed": "2026-07-01T12:00:00Z",
            "policy": "never",
            "withheld": withheld,
        }
        for path, record in records_of.items():
            draft = path.with_name(f".{path.name}")
            draft.write_text(json.dumps(record | ({"moved": [moved]} if withheld else {})))
            draft.rename(path)

    with conftest.running(conftest.Node(folder / "n", registry, store), registry) as node:
        node.schedule(node.manifest("before", image))
        name = node.reference(image)
        # containerd shows its names one after the other, the tag first.
        conftest.wait_until(lambda: node.has(image) and node.client.image_status(name).repo_digests)
        by_digest = node.client.image_status(name).repo_digests[0]

        say(node, withheld=True)
        pods = itertools.count()

        def is_left() -> bool:
            """Whether another pod finds no such image; a decision may be by what was just read."""
            name = f"after{next(pods)}"
            node.schedule(node.manifest(name, image))
            conftest.wait_until(lambda: node.status(name).get("served"))
            reason = "as it was before the registry moved the tag"
            return reason in json.dumps(node.status(name)) and not node.has(image)

        conftest.wait_until(is_left)
        assert by_digest in node.names()
        reasons = [line["reason"] for line in node.events() if line["message"] == "event"]
        assert "ImageCacheStale" in reasons
        assert node.metric("uimgacc_images_withheld_total") >= 1
        mark = node.registry.mark()
        with node.client.pod(node.manifest("runs", image)) as pod:
            assert pod.pulled == [name]
        assert node.registry.layer_gets(mark) == []
        node.client.remove_image(node.reference(image))

        say(node, withheld=False)
        node.schedule(node.manifest("later", image))
        conftest.wait_until(lambda: node.has(image))


def test_a_pod_hears_how_far_the_cache_is_that_it_waits_for(
    folder, registry, pristine, tmp_path
) -> None:
    """The builder's report is in the store: nothing is asked of an API server."""
    store = pathlib.Path(shutil.copytree(pristine, tmp_path / "store"))
    place, image = layout.Layout(store), "lab/estargz:1"
    with conftest.running(conftest.Node(folder / "n", registry, store), registry) as node:
        name = images.parse_reference(node.reference(image))
        job = f"{caches.id_of_images([name])}-0a1b2c3d4e-0"
        place.tmp.mkdir(exist_ok=True)
        place.build_report(job).write_bytes(reports.encode(reports.Report(percent=42)))
        node.schedule(node.manifest("pod", image))

        def said() -> list[str]:
            return [
                line["text"]
                for line in node.events()
                if line["message"] == "event" and line["reason"] == "ImageCacheBuilding"
            ]

        conftest.wait_until(said)
        assert said() == [f"Image cache {caches.id_of_images([name])} is being built: 42 %."]
