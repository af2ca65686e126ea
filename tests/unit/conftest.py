"""Property tests have no deadline an example: machines that test are often busy."""

import hypothesis
import pytest

from agent.kits.aio import backoff

hypothesis.settings.register_profile("uimgacc", deadline=None)
hypothesis.settings.load_profile("uimgacc")


@pytest.fixture(autouse=True)
def without_jitter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests on a clock of their own count the pauses; jitter has tests in test_backoff."""
    if request.node.get_closest_marker("looptime") and "test_backoff" not in request.node.nodeid:
        monkeypatch.setattr(backoff, "spread", lambda seconds, jitter: seconds)
