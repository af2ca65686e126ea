"""What a pod asks for, by each key alone and by keys that contradict each other."""

import inspect
import re

import pytest

from agent.matching import annotations
from agent.model import caches, keys, pods
from tests.unit.matching import making

Mode = annotations.Mode
Dialect = caches.Dialect

ECI = "k8s.aliyun.com/"
TKE = "eks.tke.cloud.tencent.com/use-image-cache"
NATIVE = "uimgacc.io/image-cache"


def asked(**annotated: str) -> annotations.Request:
    return annotations.request_of(making.pod("nginx", annotated=annotated))


@pytest.mark.parametrize(
    ("annotated", "mode", "dialect", "cache"),
    [
        ({}, Mode.NONE, Dialect.NATIVE, ""),
        ({NATIVE: "auto"}, Mode.AUTOMATIC, Dialect.NATIVE, ""),
        ({NATIVE: " Auto "}, Mode.AUTOMATIC, Dialect.NATIVE, ""),
        ({NATIVE: "true"}, Mode.AUTOMATIC, Dialect.NATIVE, ""),
        ({NATIVE: "false"}, Mode.NONE, Dialect.NATIVE, ""),
        ({NATIVE: ""}, Mode.NONE, Dialect.NATIVE, ""),
        ({NATIVE: "imc-a12"}, Mode.EXPLICIT, Dialect.NATIVE, "imc-a12"),
        ({ECI + "eci-image-cache": "true"}, Mode.AUTOMATIC, Dialect.ALIBABA, ""),
        ({ECI + "eci-image-cache": "false"}, Mode.NONE, Dialect.NATIVE, ""),
        ({ECI + "eci-image-cache": "yes"}, Mode.NONE, Dialect.NATIVE, ""),
        ({ECI + "eci-auto-imc": "true"}, Mode.AUTOMATIC, Dialect.ALIBABA, ""),
        ({ECI + "eci-auto-imc": "false"}, Mode.NONE, Dialect.NATIVE, ""),
        ({ECI + "imc-perfect-match": "true"}, Mode.AUTOMATIC, Dialect.ALIBABA, ""),
        ({ECI + "imc-match-count-request": "2"}, Mode.AUTOMATIC, Dialect.ALIBABA, ""),
        ({ECI + "imc-match-count-request": "0"}, Mode.NONE, Dialect.NATIVE, ""),
        (
            {ECI + "eci-image-snapshot-id": "imc-f8zf****"},
            Mode.EXPLICIT,
            Dialect.ALIBABA,
            "imc-f8zf****",
        ),
        ({ECI + "eci-imc-id": "imc-a12"}, Mode.EXPLICIT, Dialect.ALIBABA, "imc-a12"),
        ({TKE: "auto"}, Mode.AUTOMATIC, Dialect.TENCENT, ""),
        ({TKE: "imc-xxx"}, Mode.EXPLICIT, Dialect.TENCENT, "imc-xxx"),
    ],
)
def test_each_key_alone(
    annotated: dict[str, str], mode: Mode, dialect: Dialect, cache: str
) -> None:
    request = asked(**annotated)

    assert (request.mode, request.dialect, request.cache) == (mode, dialect, cache)


@pytest.mark.parametrize(
    ("annotated", "key"),
    [
        # A pin beats automatic matching, within a dialect and across them.
        (
            {ECI + "eci-image-snapshot-id": "imc-a", ECI + "eci-image-cache": "true"},
            ECI + "eci-image-snapshot-id",
        ),
        ({ECI + "eci-imc-id": "imc-a", ECI + "eci-auto-imc": "false"}, ECI + "eci-imc-id"),
        ({NATIVE: "auto", TKE: "imc-a"}, TKE),
        ({TKE: "auto", ECI + "eci-imc-id": "imc-a"}, ECI + "eci-imc-id"),
        # The newer key beats the older.
        (
            {ECI + "eci-imc-id": "imc-a", ECI + "eci-image-snapshot-id": "imc-b"},
            ECI + "eci-imc-id",
        ),
        ({ECI + "eci-auto-imc": "true", ECI + "eci-image-cache": "false"}, ECI + "eci-auto-imc"),
        ({ECI + "eci-auto-imc": "false", ECI + "eci-image-cache": "true"}, ECI + "eci-auto-imc"),
        # A native key takes precedence over a cloud's.
        ({NATIVE: "auto", ECI + "eci-image-cache": "true", TKE: "auto"}, NATIVE),
        ({NATIVE: "imc-a", TKE: "imc-b"}, NATIVE),
        ({NATIVE: "false", TKE: "imc-b"}, NATIVE),
        # A refusal in one cloud's words does not silence another's.
        ({ECI + "eci-auto-imc": "false", TKE: "auto"}, TKE),
    ],
)
def test_which_key_decides(annotated: dict[str, str], key: str) -> None:
    assert asked(**annotated).key == key


@pytest.mark.parametrize(
    "annotated",
    [
        {ECI + "eci-imc-id": "imc-a", ECI + "eci-image-snapshot-id": "imc-b"},
        {ECI + "eci-imc-id": "imc-a", ECI + "eci-image-cache": "true"},
        {ECI + "eci-auto-imc": "false", ECI + "eci-image-cache": "true"},
        {ECI + "eci-image-cache": "true", TKE: "auto"},
        {ECI + "imc-perfect-match": "true", ECI + "imc-match-count-request": "2"},
        {ECI + "eci-image-cache": "maybe"},
        {ECI + "eci-image-cache": "true", ECI + "imc-match-count-request": "two"},
        {NATIVE: ""},
        {NATIVE: "false", TKE: "auto"},
    ],
)
def test_what_contradicts_itself_is_remarked_on(annotated: dict[str, str]) -> None:
    assert len(asked(**annotated).remarks) == 1


def test_the_same_pin_under_both_keys_is_no_contradiction() -> None:
    request = asked(
        **{ECI + "eci-imc-id": "imc-a", ECI + "eci-image-snapshot-id": "imc-a"},
    )

    assert request.remarks == ()


def test_perfect_match_wins_over_a_count() -> None:
    request = asked(
        **{
            ECI + "eci-auto-imc": "true",
            ECI + "imc-perfect-match": "true",
            ECI + "imc-match-count-request": "2",
        }
    )

    assert (request.perfect, request.at_least) == (True, 0)


@pytest.mark.parametrize(
    ("label", "dialect"),
    [("uimgacc", Dialect.NATIVE), ("node.uk8s.ucloud.cn/uimgacc", Dialect.UCLOUD)],
)
@pytest.mark.parametrize("required", [True, False])
def test_a_node_label_asks_by_the_images_name(label: str, dialect: Dialect, required: bool) -> None:
    pod = pods.Pod(
        namespace="default",
        name="pod",
        requirements=(
            pods.LabelRequirement(key=label, operator="In", values=("true",), required=required),
        ),
    )

    request = annotations.request_of(pod)

    assert (request.mode, request.dialect) == (Mode.LABEL, dialect)
    assert not request.auto_create


@pytest.mark.parametrize(
    ("operator", "values"),
    [("In", ("false",)), ("NotIn", ("true",)), ("DoesNotExist", ())],  # codespell:ignore
)
def test_a_label_that_is_shunned_asks_for_nothing(operator: str, values: tuple[str, ...]) -> None:
    pod = pods.Pod(
        namespace="default",
        name="pod",
        requirements=(pods.LabelRequirement(key="uimgacc", operator=operator, values=values),),
    )

    assert not annotations.request_of(pod).asks


def test_a_uimgacc_runtime_class_asks_and_its_misses_are_silent() -> None:
    pod = making.pod("nginx", runtime_class="uimgacc-nvidia")

    assert annotations.request_of(pod).mode is Mode.RUNTIME
    assert making.decide(pod, [], []).events == ()


@pytest.mark.parametrize("key", [NATIVE, ECI + "eci-auto-imc"])
def test_false_holds_against_the_runtime_class(key: str) -> None:
    pod = making.pod("nginx", runtime_class="uimgacc", annotated={key: "false"})

    assert not annotations.request_of(pod).asks


def test_every_annotation_that_is_read_is_among_the_keys_to_keep() -> None:
    """A pod source drops all others: one that is missing here would never be seen."""
    source = inspect.getsource(annotations)
    labels = {"CAPABLE", "CAPABLE_UCLOUD"}
    names = set(re.findall(r"\bkeys\.([A-Z_]+)\b", source)) - labels - {"ACR_INSTANCE_NAMES"}

    read = {getattr(keys, name) for name in names} | set(keys.ACR_INSTANCE_NAMES)
    assert read == annotations.KEYS


@pytest.mark.parametrize(
    ("text", "local", "said"),
    [
        ("off", "off", False),
        (" After-Start ", "after-start", False),
        ("before-start", "before-start", False),
        ("", None, True),
        ("always", None, True),
    ],
)
def test_a_pod_says_when_its_layers_are_copied(text: str, local: str | None, said: bool) -> None:
    request = asked(**{"uimgacc.io/local": text})

    assert (request.local, bool(request.misspelt)) == (local, said)
    assert not request.asks


def test_local_copies_are_named_beside_any_way_of_asking() -> None:
    request = asked(**{"uimgacc.io/local": "off", TKE: "auto"})

    assert (request.local, request.dialect, request.mode) == (
        "off",
        Dialect.TENCENT,
        Mode.AUTOMATIC,
    )
