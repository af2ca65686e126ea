import hypothesis
from hypothesis import strategies

from agent.kits.aio import token_bucket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    clock = Clock()
    bucket = token_bucket.Bucket(rate=0.5, burst=3, clock=clock)
    burst = [bucket.take() for _ in range(4)]
    clock.now += 2
    after = [bucket.take() for _ in range(2)]

    assert (burst, after) == ([True, True, True, False], [True, False])


@hypothesis.given(
    strategies.lists(strategies.floats(0, 100), max_size=60),
    strategies.integers(1, 5),
    strategies.floats(0.01, 10),
)
def test_never_more_than_burst_and_rate_allow(pauses, burst, rate) -> None:
    clock = Clock()
    bucket = token_bucket.Bucket(rate=rate, burst=burst, clock=clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        taken += bucket.take()

        assert taken <= burst + (clock.now - 100) * rate + 1e-6
