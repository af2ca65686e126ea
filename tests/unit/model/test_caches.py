"""Caches: IDs, the view of a record, and ImageCache manifests of three dialects."""

import contextlib
import pathlib
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from agent.model import cache_manifest, caches, images, manifests, records

MANIFESTS = pathlib.Path(__file__).parent / "manifests"

DIGEST = "sha256:" + "ab" * 32
OTHER_DIGEST = "sha256:" + "cd" * 32


def read(name: str) -> caches.CacheRequest:
    return cache_manifest.read(yaml.safe_load((MANIFESTS / name).read_text()))


def native(**spec: Any) -> caches.CacheRequest:
    return cache_manifest.read(
        {
            "apiVersion": "uimgacc.io/v1",
            "kind": "ImageCache",
            "metadata": {"name": "web"},
            "spec": {"images": ["nginx"], **spec},
        }
    )


# Manifests as the clouds publish them.


def test_alibabas_sample_with_values_on_lines_of_their_own() -> None:
    request = read("eci-imagecache.yaml")

    assert request == caches.CacheRequest(
        name="imagecache-helloworld",
        dialect=caches.Dialect.ALIBABA,
        images=(images.parse_reference("docker/whalesay"),),
        pull_secrets=(caches.SecretName("default", "secret1"),),
        size_gib=20,
        retention_days=7,
        reuse=True,
    )
    assert request.namespaces == ["default"]


def test_alibabas_knative_sample() -> None:
    request = read("eci-imagecache-knative.yaml")

    assert [str(image) for image in request.images] == [
        "registry.cn-shanghai.aliyuncs.com/eci_open/nginx:1.14.2",
        "registry.cn-shanghai.aliyuncs.com/eci_open/busybox:1.30",
    ]
    assert (request.size_gib, request.retention_days, request.reuse) == (25, 7, True)
    assert request.namespaces is None


def test_tencents_samples() -> None:
    assert read("tke-imagecache.yaml") == caches.CacheRequest(
        name="imagecache-sample",
        dialect=caches.Dialect.TENCENT,
        images=(images.parse_reference("nginx"),),
    )
    assert read("tke-imagecache-more.yaml") == caches.CacheRequest(
        name="imagecache-sample-more-para",
        dialect=caches.Dialect.TENCENT,
        images=(images.parse_reference("nginx"), images.parse_reference("mysql")),
        pull_secrets=(caches.SecretName("imc-operator-system", "qcloudregistrykey"),),
        size_gib=30,
        retention_days=7,
    )


def test_annotations_of_the_object_say_how_to_build() -> None:
    request = cache_manifest.read(
        {
            "apiVersion": "eci.alibabacloud.com/v1",
            "kind": "ImageCache",
            "metadata": {
                "name": "web",
                "annotations": {
                    "k8s.aliyun.com/plain-http-registry": "10.0.0.1:5000, r.example.com",
                    "k8s.aliyun.com/insecure-registry": "self.example.com",
                    "k8s.aliyun.com/acr-instance-ids": "cn-beijing:cri-a,cri-b",
                    "k8s.aliyun.com/imc-cpu-arch": "arm64",
                },
            },
            "spec": {"images": ["nginx"]},
        }
    )

    assert request.plain_http_registries == ("10.0.0.1:5000", "r.example.com")
    assert request.insecure_registries == ("self.example.com",)
    assert request.acr_instances == ("cn-beijing:cri-a", "cri-b")
    assert request.architecture == "arm64"


@pytest.mark.parametrize(
    ("spec", "served"),
    [
        ({}, None),
        ({"namespaces": ["team"]}, ["team"]),
        ({"imagePullSecrets": ["system/s"]}, ["system"]),
        # Whoever names both means what is named: the Secret only opens the registry.
        ({"imagePullSecrets": ["system/s"], "namespaces": ["b", "a", "b"]}, ["a", "b"]),
        ({"imagePullSecrets": ["system/s"], "namespaces": ["*"]}, None),
    ],
)
def test_a_cache_serves_the_namespaces_that_are_named(spec: dict[str, Any], served) -> None:
    request = native(**spec)

    assert (request.namespaces, request.remarks) == (served, ())


def test_the_clouds_manifests_have_no_such_field() -> None:
    """What one of them might mean by it some day must not widen who is served."""
    request = cache_manifest.read(
        {
            "apiVersion": "eci.alibabacloud.com/v1",
            "kind": "ImageCache",
            "metadata": {"name": "web"},
            "spec": {"images": ["a"], "imagePullSecrets": ["a:s"], "namespaces": ["*"]},
        }
    )

    assert request.namespaces == ["a"]
    assert request.remarks == ("spec.namespaces: not known, ignored",)


# What is refused, and in which words.


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"images": []}, "spec.images: expected at least one image"),
        ({"images": None}, "spec.images: expected at least one image"),
        ({"images": "nginx"}, "spec.images: expected a list"),
        ({"images": [7]}, "spec.images[0]: expected a string"),
        ({"images": ["nginx", "NGINX"]}, "spec.images[1]: not an image reference"),
        (
            {"images": [f"app{number}" for number in range(21)]},
            "spec.images: expected at most 20 images, not 21",
        ),
        ({"imageCacheSize": 19}, "spec.imageCacheSize: expected 20 to 32768, not 19 (GiB)"),
        ({"imageCacheSize": 32769}, "spec.imageCacheSize: expected 20 to 32768, not 32769 (GiB)"),
        ({"imageCacheSize": "20Gi"}, "spec.imageCacheSize: expected a whole number (GiB)"),
        ({"imageCacheSize": True}, "spec.imageCacheSize: expected a whole number (GiB)"),
        ({"imageCacheSize": 20.5}, "spec.imageCacheSize: expected a whole number (GiB)"),
        ({"retentionDays": 0}, "spec.retentionDays: expected 1 to 65536, not 0 (days)"),
        ({"retentionDays": 65537}, "spec.retentionDays: expected 1 to 65536, not 65537 (days)"),
        ({"imagePullSecrets": ["name"]}, "spec.imagePullSecrets[0]: expected namespace:name"),
        ({"imagePullSecrets": ["a:b:c"]}, "spec.imagePullSecrets[0]: expected namespace:name"),
        ({"imagePullSecrets": ["../x"]}, "spec.imagePullSecrets[0]: expected namespace:name"),
        ({"imagePullSecrets": [":b"]}, "spec.imagePullSecrets[0]: expected namespace:name"),
        ({"imagePullSecrets": [{"name": "x"}]}, "spec.imagePullSecrets[0]: expected a string"),
        ({"namespaces": []}, "spec.namespaces: expected at least one namespace"),
        ({"namespaces": "team"}, "spec.namespaces: expected a list"),
        ({"namespaces": ["team", "Team"]}, "spec.namespaces[1]: expected the name of a namespace"),
        ({"namespaces": ["team*"]}, "spec.namespaces[0]: expected the name of a namespace"),
        (
            {"namespaces": [f"n{number}" for number in range(101)]},
            "spec.namespaces: expected at most 100 namespaces, not 101",
        ),
    ],
)
def test_an_error_names_the_field(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(manifests.ManifestError) as caught:
        native(**spec)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "Pod"}, "kind"),
        ({"apiVersion": "uimgacc.io/v2"}, "apiVersion"),
        ({"apiVersion": "v1"}, "apiVersion"),
        ({"metadata": {}}, "metadata.name"),
        ({"metadata": {"name": "Web"}}, "metadata.name"),
        ({"metadata": {"name": "../web"}}, "metadata.name"),
        ({"spec": None}, "spec"),
        ({"spec": []}, "spec"),
    ],
)
def test_what_is_no_image_cache_is_refused(change: dict[str, Any], field: str) -> None:
    manifest = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": "web"},
        "spec": {"images": ["nginx"]},
    }
    with pytest.raises(manifests.ManifestError) as caught:
        cache_manifest.read(manifest | change)

    assert caught.value.field == field


@pytest.mark.parametrize("manifest", [None, [], "text", 3])
def test_a_document_that_is_no_mapping_is_refused(manifest: Any) -> None:
    with pytest.raises(manifests.ManifestError, match="expected a mapping"):
        cache_manifest.read(manifest)


@pytest.mark.parametrize(("days", "kept"), [(0, None), (3650, 3650)])
def test_tencents_retention_has_bounds_of_its_own(days: int, kept: int | None) -> None:
    manifest = {
        "apiVersion": "eks.cloud.tencent.com/v1",
        "kind": "ImageCache",
        "metadata": {"name": "web"},
    }
    request = cache_manifest.read(
        {**manifest, "spec": {"images": ["nginx"], "retentionDays": days}}
    )

    assert request.retention_days == kept
    with pytest.raises(manifests.ManifestError, match="0 to 3650"):
        cache_manifest.read({**manifest, "spec": {"images": ["nginx"], "retentionDays": 3651}})


def test_either_separator_of_a_secret_is_taken_in_every_dialect() -> None:
    secrets = native(imagePullSecrets=["a:one", "a/two", "a:one"]).pull_secrets

    assert secrets == (caches.SecretName("a", "one"), caches.SecretName("a", "two"))


def test_digits_in_quotes_are_a_number_and_repeated_images_one() -> None:
    request = native(imageCacheSize="40", images=["nginx", "docker.io/library/nginx:latest"])

    assert request.capacity == 40 << 30
    assert len(request.images) == 1


def test_an_unknown_field_is_remarked_on() -> None:
    assert native(imagecachesize=40).remarks == ("spec.imagecachesize: not known, ignored",)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["images", "metadata", "spec", "name", "annotations", "imagePullSecrets"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@hypothesis.given(st.dictionaries(st.sampled_from(["metadata", "spec", "x"]), json))
def test_any_manifest_is_read_or_refused(rest: dict[str, Any]) -> None:
    with contextlib.suppress(manifests.ManifestError):
        cache_manifest.read({"apiVersion": "uimgacc.io/v1", "kind": "ImageCache", **rest})


# IDs.


def test_ids_have_the_form_that_the_store_takes() -> None:
    made = [caches.id_of_name("web"), caches.id_of_images([images.parse_reference("nginx")])]

    for cache_id in made:
        assert records.is_cache_id(cache_id)
        assert len(cache_id) == len("imc-") + 20


def test_the_same_name_in_two_dialects_is_two_caches() -> None:
    assert len({caches.id_of_name("web", dialect=dialect) for dialect in caches.Dialect}) == 4


def test_the_object_of_a_cache_is_known_by_its_id() -> None:
    for group, dialect in caches.GROUPS.items():
        assert caches.group_of(caches.id_of_name("web", dialect=dialect), "web") == group
    assert caches.group_of("imc-other", "web") == "uimgacc.io"


def test_ids_stay_what_they_are_from_version_to_version() -> None:
    """Nodes of two versions must create one cache, and IDs stand in people's manifests."""
    assert caches.id_of_name("web") == "imc-fthbi6pixdvfknztkidc"
    assert caches.id_of_images([images.parse_reference("nginx")]) == "imc-hesgbh3il5wimuleztvb"


# The view of a record.


def view(*held: records.CachedImage, **more: Any) -> caches.Cache:
    return caches.cache_of(
        records.CacheRecord(
            id="imc-a12",
            name="web",
            images=list(held),
            size=5,
            capacity=20 << 30,
            created=more.pop("created", "2026-01-01T00:00:00Z"),
            **more,
        )
    )


def held(ref: str, target: str = DIGEST) -> records.CachedImage:
    return records.CachedImage(ref=ref, target=target, size=5, layers=[DIGEST])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("nginx:1", True),
        ("docker.io/library/nginx:1", True),
        ("nginx:2", False),
        ("other/nginx:1", False),
        (f"nginx@{DIGEST}", True),
        (f"nginx:2@{DIGEST}", True),
        (f"nginx:1@{OTHER_DIGEST}", False),
    ],
)
def test_a_cache_has_the_tag_or_the_digest_asked_for(wanted: str, found: bool) -> None:
    cache = view(held("docker.io/library/nginx:1"))

    assert (cache.image(images.parse_reference(wanted)) is not None) is found


def test_what_is_cached_by_digest_says_nothing_of_a_tag() -> None:
    cache = view(held(f"docker.io/library/nginx:1@{DIGEST}"))

    assert cache.image(images.parse_reference("nginx:1")) is None
    assert cache.of_repository(images.parse_reference("nginx:1"))


@pytest.mark.parametrize(
    ("namespaces", "serves"), [(None, True), ([], False), (["a"], True), (["b"], False)]
)
def test_whom_a_cache_serves(namespaces: list[str] | None, serves: bool) -> None:
    assert view(namespaces=namespaces).serves("a") is serves


def test_a_record_with_an_odd_reference_or_time_is_still_read() -> None:
    cache = view(held("NOT AN IMAGE"), held("docker.io/library/nginx:1"), created="yesterday")

    assert list(cache.by_name) == ["docker.io/library/nginx"]
    assert cache.image_bytes == 5
    assert cache.created.year == 1970


@pytest.mark.parametrize(
    ("text", "said", "seconds", "rebuilt"),
    [
        ("always", "always", None, False),
        (" Until-Rebuilt ", "until-rebuilt", None, True),
        ("never", "never", 0.0, True),
        ("for 0s", "never", 0.0, True),
        ("for 10m", "for 10m", 600.0, True),
        ("for  2 h", "for 120m", 7200.0, True),
        ("for 90s", "for 90s", 90.0, True),
    ],
)
def test_policies_for_tags_that_have_moved(
    text: str, said: str, seconds: float | None, rebuilt: bool
) -> None:
    policy = caches.serve_stale(text)

    assert policy == caches.ServeStale(seconds, rebuilt)
    assert str(policy) == said
    assert caches.serve_stale(said) == policy


@pytest.mark.parametrize("text", ["", "for", "for ten minutes", "10m", "for -1m", "for 1d"])
def test_another_policy_means_nothing_and_is_said(text: str) -> None:
    assert caches.serve_stale(text) is None
    assert "until-rebuilt" in caches.serve_stale_problem(text)
