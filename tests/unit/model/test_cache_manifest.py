"""agent.model.cache_manifest: what is written is read back as it was meant."""

import pathlib
import re

from hypothesis import given
from hypothesis import strategies as st

import agent
from agent.model import cache_manifest, caches

_HOSTS = st.lists(st.sampled_from(["a.example", "b.example:5000"]), unique=True)


@given(
    st.lists(st.sampled_from(["nginx", "a.example/b:1"]), min_size=1, unique=True),
    st.lists(st.sampled_from(["default/one", "ml:two"]), unique=True),
    st.lists(st.sampled_from(["default", "ml"]), unique=True),
    st.none() | st.integers(caches.SIZE_MIN, caches.SIZE_MAX),
    st.none() | st.integers(1, 3650),
    _HOSTS,
    _HOSTS,
)
def test_what_is_written_is_read(images, secrets, namespaces, size, days, plain, insecure) -> None:
    draft = cache_manifest.Draft(
        name="x",
        images=images,
        pull_secrets=secrets,
        namespaces=namespaces,
        size_gib=size,
        retention_days=days,
        plain_http=plain,
        insecure=insecure,
        acr_instances=["cri-1"],
    )

    request = cache_manifest.read(cache_manifest.write(draft))

    assert (request.name, len(request.images)) == ("x", len(images))
    assert [str(secret).replace("/", ":") for secret in request.pull_secrets] == [
        secret.replace("/", ":") for secret in secrets
    ]
    assert request.serves == tuple(namespaces)
    assert request.size_gib == (size or caches.SIZE_DEFAULT)
    assert request.retention_days == days
    assert request.plain_http_registries == tuple(plain)
    assert request.insecure_registries == tuple(insecure)
    assert request.acr_instances == ("cri-1",)
    assert request.remarks == ()


def test_what_is_empty_is_left_out() -> None:
    manifest = cache_manifest.write(cache_manifest.Draft(name="x", images=["nginx"]))

    assert manifest == {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": "x"},
        "spec": {"images": ["nginx"]},
    }


def test_no_other_module_writes_one() -> None:
    folder = pathlib.Path(agent.__file__).parent
    writers = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if re.search(r'"kind": (keys\.IMAGE_CACHE\b|"ImageCache")', path.read_text())
    ]

    # An Event names the kind of its object.
    assert sorted({*writers} - {"control/reconcile/cache_events.py"}) == ["model/cache_manifest.py"]


def test_warmth_is_written_and_read() -> None:
    draft = cache_manifest.Draft(
        name="x",
        images=["nginx"],
        keep_warm=True,
        node_selector={"pool": "gpu", "a.example/zone": ""},
        local="before-start",
    )

    request = cache_manifest.read(cache_manifest.write(draft))

    assert request.keep_warm
    assert request.node_selector == (("a.example/zone", ""), ("pool", "gpu"))
    assert (request.local, request.remarks) == ("before-start", ())


def test_what_changes_nothing_is_remarked() -> None:
    draft = cache_manifest.Draft(
        name="x", images=["nginx"], node_selector={"pool": "gpu"}, local="yes"
    )

    request = cache_manifest.read(cache_manifest.write(draft))

    assert request.local is None
    assert [remark.partition(":")[0] for remark in request.remarks] == [
        "uimgacc.io/local",
        "spec.nodeSelector",
    ]
