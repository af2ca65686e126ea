"""What the manifest of an artifact says of its files."""

import json

import pytest

from agent.model import oci
from agent.model.artifacts import artifact_files
from tests import artifacts


def layer_of(*layers: artifacts.Layer, **more: object) -> artifact_files.Layer:
    data = json.dumps(artifacts.manifest(layers, **more)).encode()  # type: ignore[arg-type]
    manifest = oci.parse(data, artifacts.MANIFEST)
    assert isinstance(manifest, oci.Manifest)
    return artifact_files.layer_of(manifest)


def file_of(layer: artifacts.Layer, **more: object) -> artifact_files.File:
    (file,) = layer_of(layer, **more).files
    return file


def test_the_diff_id_is_as_documented() -> None:
    """It is part of the store's format: a store of another version has the same layers."""
    layer = layer_of(
        artifacts.weights("w/a b", b"1", mode=0o640, uid=7, gid=8, mtime="2025-01-02T03:04:05Z"),
        artifacts.Layer(b"2", f"{artifacts.MODEL}.doc.v1.tar+zstd", {artifacts.FILEPATH: "doc"}),
        artifacts.Layer(b"3", f"{artifacts.MODEL}.code.v1.tar", {artifacts.FILEPATH: "."}),
        artifacts.Layer(b"4", "x", {artifacts.TITLE: "d/", "io.deis.oras.content.unpack": "true"}),
    )
    text = "\n".join(
        [
            "uimgacc artifact 1",
            f"file w/a%20b {artifacts.digest(b'1')} 1 640 7:8 1735787045.000000000",
            f"tar doc {artifacts.digest(b'2')} 1 packed .",
            f"tar . {artifacts.digest(b'3')} 1 plain .",
            f"tar d {artifacts.digest(b'4')} 1 packed d",
        ]
    )

    assert layer.diff_id == layer.chain_id == layer.blob.digest == artifacts.digest(text.encode())
    assert layer.blob.size == 4


@pytest.mark.parametrize("length", range(150, 250))
def test_the_text_of_a_diff_id_has_the_length_of_no_tar(length: int) -> None:
    """Pushed as a layer, the text has the diff ID that it is hashed to: it must be no proof."""
    names = ["n" * length, *(f"{at}" for at in range(3))]
    layer = layer_of(*(artifacts.weights(name, b"") for name in names))
    text = "\n".join(["uimgacc artifact 1", *(file.line() for file in layer.files)])

    is_whole = len(text) % 512 == 0
    assert layer.diff_id == artifacts.digest((text + "\n" * is_whole).encode())


@pytest.mark.parametrize(
    ("mtime", "expected"),
    [
        ("2025-01-02T03:04:05Z", (1735787045, 0)),
        ("2025-01-02T03:04:05.000000007+01:00", (1735783445, 7)),
        ("2025-01-02T03:04:05.5-00:30", (1735788845, 500_000_000)),
        ("0001-01-01T00:00:00Z", (0, 0)),
        ("yesterday", (0, 0)),
    ],
)
def test_the_time_of_a_file(mtime: str, expected: tuple[int, int]) -> None:
    file = file_of(artifacts.weights("w", b"", mtime=mtime))

    assert (file.mtime, file.mtime_ns) == expected


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0, 0o644), (0o107755, 0o755)])
def test_the_mode_of_a_file(mode: int, expected: int) -> None:
    assert file_of(artifacts.weights("w", b"", mode=mode)).mode == expected


def test_models_of_before_the_cncf_and_of_docker() -> None:
    before = artifacts.Layer(
        b"x", "application/vnd.cnai.model.weight.v1.tar", {"org.cnai.model.filepath": "w"}
    )
    docker = artifacts.Layer(
        b"x", "application/vnd.docker.ai.gguf.v3", {artifacts.FILEPATH: "m.gguf"}
    )

    assert file_of(before, kind="application/vnd.cnai.model.manifest.v1+json").is_tar
    config = ("application/vnd.docker.ai.model.config.v0.2+json", b"{}")
    file = file_of(docker, kind="", config=config)
    assert (file.path, file.is_tar) == (b"m.gguf", False)


def test_a_path_has_one_spelling() -> None:
    assert file_of(artifacts.weights("./a//b/./c", b"")).path == b"a/b/c"


def test_an_image_is_no_artifact() -> None:
    for kind in (oci.IMAGE_CONFIG, "", "application/vnd.docker.container.image.v1+json"):
        data = json.dumps(artifacts.manifest([], kind="x", config=(kind, b"{}"))).encode()
        manifest = oci.parse(data, artifacts.MANIFEST)
        assert isinstance(manifest, oci.Manifest)
        assert manifest.artifact_type == ""
