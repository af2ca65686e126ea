"""Each scenario's tests, in a guest of its own; what they measured is printed (pytest -s)."""

import sys

import pytest

from tests.guest import conftest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


@pytest.mark.parametrize("scenario", conftest.SCENARIOS)
def test_all_is_well_in_the_guest(scenario, guests) -> None:
    status, output = guests[scenario].wait(540)

    if status:
        # The end says what failed in the guest: nothing of this process may stand below it.
        pytest.fail(output, pytrace=False)
    sys.stdout.write(output)
