import pytest

from agent.kits import addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:9465", ("0.0.0.0", 9465)),
        (":9465", ("127.0.0.1", 9465)),
        ("9465", ("127.0.0.1", 9465)),
        ("[::1]:0", ("::1", 0)),
        ("node.example:80", ("node.example", 80)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert addresses.split(text) == expected


@pytest.mark.parametrize("text", ["", "localhost", "a:", "a:b", "a:-1", "a:65536", "::1:80", "a:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        addresses.split(text)


def test_an_address_without_a_host_may_be_that_of_all_interfaces() -> None:
    assert addresses.split(":80", without_host="") == ("", 80)
    assert addresses.split("[::1]:80", without_host="") == ("::1", 80)


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    assert addresses.split(addresses.join("::1", 80)) == ("::1", 80)
