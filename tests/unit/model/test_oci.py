"""Manifests, indexes and configs: what containerd takes and refuses, which platform it picks."""

import json

import pytest

from agent.model import images, oci

DIGEST = "sha256:" + "1" * 64
OTHER = "sha256:" + "2" * 64
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
AMD64 = images.Platform("linux", "amd64")


def index(*platforms: dict | None) -> oci.Index:
    """An index with one manifest for each platform; the digests end in its number."""
    manifests = [
        {"digest": f"{DIGEST[:-1]}{at}", "size": 1, "mediaType": MANIFEST, "platform": platform}
        for at, platform in enumerate(platforms)
    ]
    parsed = oci.parse(json.dumps({"manifests": manifests}).encode(), INDEX)
    assert isinstance(parsed, oci.Index)
    return parsed


def chosen(wanted: str, *platforms: dict | None) -> int:
    platform = images.parse_platform(wanted)
    return int(oci.choose(index(*platforms), platform, reference="r.io/app:1").digest[-1])


def on(architecture: str, variant: str = "", os: str = "linux") -> dict:
    return {"os": os, "architecture": architecture, "variant": variant}


@pytest.mark.parametrize(
    ("wanted", "platforms", "number"),
    [
        ("linux/amd64", [on("arm64"), on("amd64")], 1),
        ("linux/amd64", [on("amd64"), on("amd64")], 0),
        ("linux/amd64", [on("386"), on("x86_64")], 1),
        ("linux/amd64", [on("amd64", "v3"), on("amd64", "v1")], 1),
        ("linux/amd64", [on("arm64"), on("i386")], 1),
        ("linux/amd64", [None, on("386")], 1),
        ("linux/amd64", [on("arm64"), None, None], 1),
        ("linux/amd64/v3", [on("amd64"), on("amd64", "v2"), on("amd64", "v4")], 1),
        ("linux/arm64", [on("arm", "v7"), on("aarch64", "v8")], 1),
        ("linux/arm64", [on("arm", "v6"), on("arm")], 1),
        ("linux/arm", [on("arm", "v6"), on("arm", "7")], 1),
        ("linux/arm64/v9", [on("arm64"), on("arm64", "v8.5")], 1),
        ("linux/amd64", [on("AMD64", os="Linux")], 0),
        ("linux/amd64", [{**on("amd64"), "os.version": "6.1"}, on("amd64")], 1),
        ("linux/amd64", [{**on("amd64"), "os.features": ["sse"]}, on("amd64")], 1),
        ("linux/amd64", [{**on("amd64"), "os.version": "", "os.features": []}], 0),
    ],
)
def test_the_platform_is_chosen_as_containerd_does(wanted, platforms, number) -> None:
    assert chosen(wanted, *platforms) == number


@pytest.mark.parametrize(
    "platforms",
    [
        [],
        [on("amd64", "v3")],
        [on("arm64")],
        [on("unknown", os="unknown")],
        [{**on("amd64"), "os.version": "6.1"}],
    ],
)
def test_no_platform_fits(platforms) -> None:
    with pytest.raises(oci.WrongPlatform, match="no image for linux/amd64"):
        chosen("linux/amd64", *platforms)


def test_names_of_members_count_in_any_case_and_null_is_absent() -> None:
    data = {
        "SchemaVersion": 2,
        "CONFIG": {"Digest": DIGEST, "SIZE": 7, "mediatype": None},
        "layers": None,
        "annotations": None,
    }
    config = {"OS": None, "Architecture": "x86_64", "RootFS": {"Diff_IDs": [OTHER]}}

    manifest = oci.parse(json.dumps(data).encode(), MANIFEST)

    assert manifest == oci.Manifest(oci.Descriptor(DIGEST, 7), (), MANIFEST)
    assert oci.parse_config(json.dumps(config).encode()) == oci.Config(AMD64, (OTHER,))


def test_a_config_without_platform_runs_anywhere() -> None:
    for text in (b"{}", b'{"os": null, "architecture": null}', b"null"):
        assert oci.fits(oci.parse_config(text), AMD64)
    assert not oci.fits(oci.parse_config(b'{"architecture": "arm64"}'), AMD64)
    assert not oci.fits(oci.parse_config(b'{"os": "windows", "architecture": "amd64"}'), AMD64)


@pytest.mark.parametrize(
    ("document", "kind", "words"),
    [
        ({"schemaVersion": 1}, "", "schema 1"),
        ({"manifests": [], "layers": []}, INDEX, "layers of its own"),
        ({"manifests": [], "layers": []}, MANIFEST, "names manifests"),
        ({"config": {"digest": DIGEST, "size": 0}}, MANIFEST, "size of 0 bytes"),
        ({"config": {"digest": "sha256:x", "size": 1}}, MANIFEST, "names 'sha256:x'"),
        ({"config": {"digest": DIGEST, "size": "1"}}, MANIFEST, "damaged"),
        ({}, "text/html", "text/html"),
    ],
)
def test_what_is_no_manifest_is_refused(document, kind, words) -> None:
    with pytest.raises(oci.UnsupportedImage, match=words):
        oci.parse(json.dumps(document).encode(), kind)


@pytest.mark.parametrize(
    ("media_type", "compressed"),
    [
        (LAYER, True),
        ("application/vnd.oci.image.layer.v1.tar", False),
        ("application/vnd.oci.image.layer.v1.tar+zstd", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", True),
        ("application/vnd.oci.image.layer.v1.tar+lz4", False),
        ("application/vnd.docker.image.rootfs.diff.tar", True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", True),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip+x", False),
    ],
)
def test_the_media_type_says_whether_a_layer_is_compressed(media_type, compressed) -> None:
    assert oci.is_compressed(media_type) is compressed


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "application/helm",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v2.squashfs",
        "application/vnd.oci.image.layer.v1.erofs",
        "application/vnd.docker.image.rootfs.diff.tar.xz",
    ],
)
def test_what_is_no_layer_is_refused(media_type) -> None:
    with pytest.raises(oci.UnsupportedImage, match="a layer of type"):
        oci.is_compressed(media_type)


def test_an_image_of_more_layers_than_can_be_mounted_is_refused() -> None:
    def layers(count: int) -> list[oci.Layer]:
        described = {"digest": DIGEST, "size": 1, "mediaType": LAYER}
        document = {"config": described, "layers": [described] * count}
        manifest = oci.parse(json.dumps(document).encode(), MANIFEST)
        config = oci.parse_config(json.dumps({"rootfs": {"diff_ids": [OTHER] * count}}).encode())
        assert isinstance(manifest, oci.Manifest)
        return oci.layers(manifest, config)

    assert len(layers(oci.MAX_LAYERS)) == oci.MAX_LAYERS
    with pytest.raises(oci.UnsupportedImage, match="501 layers, and no more than 500"):
        layers(oci.MAX_LAYERS + 1)


@pytest.mark.parametrize("body", [b'{"a":1,', b"[1,"])
def test_a_document_of_very_many_values_is_not_decoded(body: bytes) -> None:
    """Of 64 MiB it would take gigabytes of memory."""
    data = body * (oci.MAX_VALUES + 1)

    for parse in (oci.parse_config, lambda data: oci.parse(data, MANIFEST)):
        with pytest.raises(oci.UnsupportedImage, match="more than 500,000 values"):
            parse(data)


def test_what_a_registry_says_is_cut_in_messages() -> None:
    """It goes into the status of an object, which the API server would refuse."""
    many = [{"os": f"{at}" + "x" * 10_000, "architecture": "y"} for at in range(9)]
    descriptor = {"digest": DIGEST, "size": 1, "mediaType": "m" * 100_000}

    with pytest.raises(oci.WrongPlatform) as platform:
        chosen("linux/amd64", *many)
    with pytest.raises(oci.UnsupportedImage) as layer:
        oci.is_compressed(descriptor["mediaType"])
    assert len(str(platform.value)) < 1000
    assert len(str(layer.value)) < 200
