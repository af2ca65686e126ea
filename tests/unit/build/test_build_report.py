"""How far a build is: what people see must grow, and end at 99 until the cache is Ready."""

from hypothesis import given
from hypothesis import strategies as st

from agent.build import build_report, layer_build

Stage = layer_build.Stage


def progress(image: str, digest: str, stage: Stage, done: int, total: int) -> layer_build.Progress:
    return layer_build.Progress(image, digest, stage, done, total)


def test_bytes_count_within_an_image_and_images_count_the_same() -> None:
    meter = build_report.Meter(["a", "b"])

    meter(progress("a", "1", Stage.WAITING, 0, 900))
    meter(progress("a", "2", Stage.REUSED, 100, 100))
    assert (meter.percent, meter.done) == (5, [])
    meter(progress("a", "1", Stage.FETCHING, 450, 900))
    assert meter.percent == 25
    meter(progress("a", "1", Stage.DONE, 900, 900))
    assert (meter.percent, meter.step) == (50, "a: 2 of 2 layers are there")
    meter(progress("b", "3", Stage.WAITING, 0, 10))
    assert (meter.percent, meter.done) == (50, ["a"])
    meter(progress("b", "3", Stage.DONE, 10, 10))
    assert meter.percent == 99


def test_the_step_says_why_a_registry_is_asked_again() -> None:
    meter = build_report.Meter(["a"])

    meter.retry("https://r.io/v2/: status 503")
    assert meter.step == (
        "asking the registry; no usable answer yet from https://r.io/v2/: status 503"
    )
    meter(progress("a", "1", Stage.DONE, 1, 1))
    assert meter.step == "a: 1 of 1 layers are there"


def test_an_image_named_twice_is_one() -> None:
    meter = build_report.Meter(["a", "a"])

    meter(progress("a", "1", Stage.FETCHING, 10, 10))

    assert meter.percent == 90


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from("1234"),
            st.sampled_from(list(Stage)),
            st.integers(0, 50),
            st.integers(0, 50),
        )
    )
)
def test_it_never_goes_back_whatever_comes(steps) -> None:
    meter = build_report.Meter(["a", "b"])
    before = 0

    for step in steps:
        meter(progress(*step))
        assert before <= meter.percent <= 99
        before = meter.percent
