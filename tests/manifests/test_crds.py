"""The kinds of image caches: what the schemas take and refuse, and that the product agrees."""

import datetime
import pathlib
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.control.caches import cache_state, status_format
from agent.model import cache_manifest, caches, manifests
from tests.manifests import crds

GROUPS = list(crds.FILES)


def refused(wanted: crds.Object) -> str:
    """The field that both the schema and the product refuse; "" where both take it."""
    said = crds.faults(wanted)
    field = ""
    try:
        cache_manifest.read(wanted)
    except manifests.ManifestError as error:
        field = error.field
    assert bool(said) == bool(field), f"the product: {field!r}, the schema: {said}"
    assert all(each.startswith(field.partition("[")[0]) for each in said)
    return field


@pytest.mark.parametrize("path", crds.EXAMPLES, ids=lambda path: path.stem)
def test_the_clouds_own_examples_apply_unchanged(path: pathlib.Path) -> None:
    found = [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "ImageCache"]

    assert found
    assert [(crds.unknown(each), refused(each)) for each in found] == [([], "")] * len(found)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("spec", "field"), crds.BOUNDS, ids=str)
def test_bounds_name_the_field(group: str, spec: crds.Object, field: str) -> None:
    assert refused(crds.manifest(group, **spec)) == field


@pytest.mark.parametrize(
    ("named", "field"),
    [
        (["team", "lab-1"], ""),
        (["*"], ""),
        ([], "spec.namespaces"),
        (["Team"], "spec.namespaces[0]"),
        (["team*"], "spec.namespaces[0]"),
        (["a" * 64], "spec.namespaces[0]"),
        ([f"n{at}" for at in range(101)], "spec.namespaces"),
    ],
    ids=str,
)
def test_namespaces_have_bounds(named: list[str], field: str) -> None:
    assert refused(crds.manifest("uimgacc.io", namespaces=named)) == field


@pytest.mark.parametrize(
    ("selector", "field"),
    [
        ({"karpenter.sh/nodepool": "gpu", "uimgacc": ""}, ""),
        ({"pool": "has space"}, "spec.nodeSelector"),
        ({"pool": "a" * 64}, "spec.nodeSelector"),
        ({"pool": True}, "spec.nodeSelector.pool"),
        ({f"label-{at}": "a" for at in range(21)}, "spec.nodeSelector"),
    ],
    ids=str,
)
def test_node_selectors_have_bounds(selector: dict[str, object], field: str) -> None:
    assert refused(crds.manifest("uimgacc.io", keepWarm=True, nodeSelector=selector)) == field


def test_warmth_is_yes_or_no() -> None:
    assert refused(crds.manifest("uimgacc.io", keepWarm=False)) == ""
    assert refused(crds.manifest("uimgacc.io", keepWarm="yes")) == "spec.keepWarm"


@pytest.mark.parametrize(
    ("group", "days", "fits"),
    [
        *((group, days, fits) for group in GROUPS[:2]
          for days, fits in ((0, False), (1, True), (65536, True), (65537, False))),
        *((GROUPS[2], days, fits)
          for days, fits in ((-1, False), (0, True), (3650, True), (3651, False))),
    ],
)  # fmt: skip
def test_retention_has_the_bounds_of_its_cloud(group: str, days: int, fits: bool) -> None:
    expected = "" if fits else "spec.retentionDays"

    assert refused(crds.manifest(group, retentionDays=days)) == expected


def test_fields_of_the_cloud_that_mean_nothing_here_apply() -> None:
    for group in GROUPS[1:]:
        assert crds.unknown(crds.manifest(group, securityGroupIds=["sg-1"], subnetId="s")) == []
    assert crds.unknown(crds.manifest("uimgacc.io", subnetId="s")) == ["spec.subnetId"]


NOW = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
FULLEST = cache_state.State(
    phase=cache_state.Phase.UPDATE_FAILED,
    cache_id="imc-a",
    progress=42,
    message="m",
    generation=2,
    started=NOW,
    changed=NOW,
    expires=NOW,
    matched=NOW,
    verified=True,
    size=1,
    images=(cache_state.BuiltImage(image="a", digest="sha256:0", size=1),),
    build=cache_state.Build(
        spec="s", platforms=("linux/amd64",), time=NOW, failures=1, failed="f", retry=NOW
    ),
    tags=cache_state.Tags(
        confirmed=NOW,
        moved=(
            cache_state.MovedTag(
                image="a", cached="sha256:0", digest="sha256:1", noticed=NOW, withheld=True
            ),
        ),
        problem="p",
    ),
    events=(cache_state.Happening(name="n", message="m", at=NOW),),
)

PIECES = st.sampled_from(
    ["a", "B", "1", ".", "..", ":", "/", "_", "__", "-", "@", "app", "localhost", "host.io",
     "[::1]", "5000", "latest", f"sha256:{'0' * 64}", "sha256:0", " x"]
)  # fmt: skip


@given(st.lists(PIECES, min_size=1, max_size=9).map("".join))
def test_schema_and_product_agree_on_what_an_image_is(text: str) -> None:
    if text == text.strip():
        refused(crds.manifest("uimgacc.io", images=[text]))


@given(st.text(alphabet=string.ascii_lowercase[:3] + "A0-.:/_ ", max_size=12))
def test_schema_and_product_agree_on_what_a_secret_is(text: str) -> None:
    if text == text.strip():
        refused(crds.manifest("eci.alibabacloud.com", imagePullSecrets=[text]))


@pytest.mark.parametrize(
    ("group", "short", "categories", "columns"),
    [
        ("uimgacc.io", "imc", None, ["Age", "CacheId", "Phase", "Progress"]),
        ("eci.alibabacloud.com", "ic", ["all"], ["Age", "CacheId", "Phase", "Progress"]),
        ("eks.cloud.tencent.com", "imc", None, ["CacheSize", "ImcId", "Phase", "Age"]),
    ],
)
def test_what_kubectl_shows_is_as_published(
    group: str, short: str, categories: list[str] | None, columns: list[str]
) -> None:
    spec = crds.definition(group)["spec"]
    (version,) = spec["versions"]

    assert (spec["scope"], spec["names"]["shortNames"]) == ("Cluster", [short])
    assert spec["names"].get("categories") == categories
    assert [column["name"] for column in version["additionalPrinterColumns"]] == columns
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize("group", GROUPS)
def test_the_schema_has_the_fields_that_the_product_reads(group: str) -> None:
    known = set(crds.schema(group)["properties"]["spec"]["properties"])

    assert known >= cache_manifest.FIELDS
    assert (known >= cache_manifest.NATIVE_FIELDS) is (group == "uimgacc.io")


@pytest.mark.parametrize("group", GROUPS)
def test_the_schema_has_the_fields_that_the_controller_writes(group: str) -> None:
    """A status field that the schema does not know would be dropped without a word."""
    written = {"apiVersion": f"{group}/v1", "spec": {"images": ["a"]}}
    written["status"] = status_format.patch_of(FULLEST, caches.GROUPS[group], {})

    assert crds.unknown(written) == []
    assert crds.faults(written) == []
    assert set(written["status"]) == set(crds.schema(group)["properties"]["status"]["properties"])
