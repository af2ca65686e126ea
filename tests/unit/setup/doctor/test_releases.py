import pytest

from agent.setup.doctor import checks


@pytest.mark.parametrize(
    ("version", "lacking"),
    [
        ("1.7.24~ds1", "no image volumes"),
        ("v2.0.8", "no image volumes"),
        ("v2.1.9", "subPath"),
        ("v2.2.0", ""),
        ("v2.4.0-beta.0", ""),
        ("something else", ""),
    ],
)
def test_it_says_what_pods_cannot_have_of_an_older_containerd(version, lacking) -> None:
    said = checks.lacking(version)

    assert lacking in said
    assert bool(said) is bool(lacking)
