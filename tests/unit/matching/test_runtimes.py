"""Which runtime handlers are twins with our snapshotter."""

import pytest

from agent.matching import runtimes
from agent.model import keys
from tests.unit.matching import making


@pytest.mark.parametrize(
    ("handler", "twin"),
    [
        ("", "uimgacc"),
        ("runc", "uimgacc"),
        ("nvidia", "uimgacc-nvidia"),
        ("uimgacc", "uimgacc"),
        ("uimgacc-nvidia", "uimgacc-nvidia"),
    ],
)
def test_every_handler_has_a_twin(handler: str, twin: str) -> None:
    assert runtimes.twin_of(handler, default="runc") == twin
    assert runtimes.is_twin(runtimes.twin_of(handler, default="runc"))


@pytest.mark.parametrize("handler", ["", "runc", "nvidia", "uimgacc-", "my-uimgacc", "uimgaccx"])
def test_others_are_no_twins(handler: str) -> None:
    assert not runtimes.is_twin(handler)


@pytest.mark.parametrize(
    ("classes", "runtime_class", "expected"),
    [
        (None, "uimgacc", True),
        (None, "fast", False),
        ({"fast": "uimgacc-nvidia"}, "fast", True),
        ({"uimgacc": "runc"}, "uimgacc", False),
        ({}, "uimgacc", True),
        ({"fast": "uimgacc"}, "", False),
    ],
)
def test_a_class_is_read_through_the_clusters_handlers(
    classes: dict[str, str] | None, runtime_class: str, expected: bool
) -> None:
    pod = making.pod("nginx", runtime_class=runtime_class)

    assert runtimes.uses_snapshotter(pod, classes) is expected


@pytest.mark.parametrize(
    ("annotated", "runtime_class", "expected"),
    [("uimgacc", "fast", True), ("runc", "uimgacc", False), ("", "uimgacc", True)],
)
def test_where_classes_are_not_known_the_admission_policys_annotation_decides(
    annotated: str, runtime_class: str, expected: bool
) -> None:
    annotations = {keys.RUNTIME_HANDLER: annotated}
    pod = making.pod("nginx", runtime_class=runtime_class, annotated=annotations)

    assert runtimes.uses_snapshotter(pod) is expected
