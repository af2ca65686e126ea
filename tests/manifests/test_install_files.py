"""install-OVERLAY.yaml: one file of an overlay, for an export that its reader puts in."""

import functools
import re
import shlex
import subprocess
from collections.abc import Mapping

import pytest

from lab import install_files
from lab.chart import renderings
from tests.manifests import charts, rendering

IMAGE = f"registry.example.com/uimgacc@sha256:{'0' * 64}"


@functools.cache
def texts() -> Mapping[str, str]:
    """All files, rendered once."""
    return install_files.texts(IMAGE)


def commands(text: str) -> list[list[str]]:
    """The programs and arguments of sed, as the head of a file shows them."""
    found = re.findall(r"^#\s+(sed -e '[^']*')", text, re.MULTILINE)
    return [shlex.split(each) for each in found]


@pytest.mark.parametrize("file", install_files.FILES, ids=lambda file: file.name)
@pytest.mark.parametrize(("number", "export"), [(0, "10.0.0.5:/uimgacc"), (1, "SERVER:/export")])
def test_a_file_is_its_overlay_for_the_export_that_was_put_in(
    file: install_files.InstallFile, number: int, export: str
) -> None:
    text = texts()[file.name]

    done = subprocess.run(
        commands(text)[number], input=text, capture_output=True, text=True, check=True, timeout=60
    )

    name, _, digest = IMAGE.partition("@")
    expected = renderings.kustomized(
        file.overlay,
        file.components,
        export=export,
        image={"newName": name, "digest": digest},
    )
    documents = rendering.parsed(done.stdout)
    assert charts.comparable(documents) == charts.comparable(rendering.parsed(expected))
    assert [each["kind"] for each in documents][:1] == ["Namespace"]


def test_the_uninstaller_has_the_same_image() -> None:
    documents = rendering.parsed(texts()[install_files.UNINSTALL])

    ((_, spec),) = rendering.pod_specs(documents)
    assert {container["image"] for container in rendering.containers(spec)} == {IMAGE}


def test_the_default_file_is_what_the_chart_makes() -> None:
    """But for the namespace, all that one of them installs the other one does, too."""
    text = texts()["install-runtimeclass.yaml"]
    name, _, digest = IMAGE.partition("@")

    made = charts.template(
        charts.values(
            "runtimeclass", ("controller", "api"), image={"repository": name, "digest": digest}
        )
    )

    documents = rendering.parsed(text)
    assert charts.comparable(documents) == charts.comparable(made)
