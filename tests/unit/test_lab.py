"""What the demo needs of the lab is set up first, and added to, never made twice."""

import json

import pytest

from lab import images, parts


@pytest.fixture
def stamp(tmp_path, monkeypatch):
    path = tmp_path / "parts.json"
    monkeypatch.setattr(parts, "STAMP", path)
    return path


def test_parts_that_are_there_are_known(stamp) -> None:
    stamp.write_text(json.dumps({"key": parts.key(), "folders": ["erofs"]}))

    assert parts.gathered() == {"erofs"}


@pytest.mark.parametrize("text", [None, "", json.dumps({"key": "of before", "folders": ["erofs"]})])
def test_parts_of_another_version_are_gathered_anew(stamp, text: str | None) -> None:
    if text is not None:
        stamp.write_text(text)

    assert parts.gathered() == set()


def test_the_demo_needs_no_browser_no_kernel_and_no_peer() -> None:
    needed = {part.folder for part in parts.PARTS if part.demo}

    assert needed == {"containerd-2", "cri-proto", "docker-registry", "erofs"}


def test_after_the_demo_the_small_images_are_still_to_be_made() -> None:
    small, large = images.stamp(images.SMALL), images.stamp(images.LARGE)
    demo = {
        "lab/pause:1": {"stamp": images.alone(small)},
        "lab/large:1": {"stamp": large},
    }

    assert images.missing({}, images.DEMO) == {"pause", "large"}
    assert images.missing(demo, images.DEMO) == set()
    assert "small" in images.missing(demo, images.ALL)
    assert "large" not in images.missing(demo, images.ALL)
    everything = {name: {"stamp": small} for name in ("lab/pause:1", "lab/odd:1")}
    assert images.missing(demo | everything, images.DEMO) == set()
    assert "small" not in images.missing(demo | everything, images.ALL)
