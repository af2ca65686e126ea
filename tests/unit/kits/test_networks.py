"""Which addresses are in a list of networks, in whichever form they are written."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kits import networks

OWN = networks.parse(networks.OWN_HOST)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "169.254.169.254",
        "100.100.100.200",
        "100.80.80.80",
        "168.63.129.16",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "2002:7f00:1::",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_own_host_s_addresses_are_found_in_every_form(address: str) -> None:
    assert networks.holding(address, OWN) is not None


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "8.8.8.8", "2001:db8::1", "100.64.0.1", "fd00::1"]
)
def test_others_are_not(address: str) -> None:
    assert networks.holding(address, OWN) is None


def test_the_network_is_named() -> None:
    assert str(networks.holding("10.1.2.3", networks.parse("10.1.0.0/16, 10.0.0.0/8"))) == (
        "10.1.0.0/16"
    )


def test_a_single_address_is_a_network() -> None:
    assert networks.holding("10.96.0.1", networks.parse("10.96.0.1"))
    assert networks.parse(" , ") == ()


@pytest.mark.parametrize("text", ["10.0.0.0/33", "localhost", "10.0.0.0/8;::1"])
def test_what_is_no_list_of_networks_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        networks.parse(text)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "127.0.0.1"),
        ("LocalHost.", "127.0.0.1"),
        ("a.localhost", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0251.0376.0251.0376", "169.254.169.254"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("fe80::1%1", "fe80::1"),
        ("registry.example.com", ""),
        ("localhost.example.com", ""),
        ("10.example", ""),
        ("", ""),
        ("\u2460.example", ""),
    ],
)
def test_a_host_that_is_an_address_is_one_in_every_form(host: str, address: str) -> None:
    assert networks.literal(host) == address


HOSTS = st.text(max_size=30) | st.text("0123456789.xXa-f:[]%", max_size=30)


@given(HOSTS)
def test_any_host_is_an_address_or_a_name(host: str) -> None:
    address = networks.literal(host)

    assert address == "" or ipaddress.ip_address(address)


@given(st.ip_addresses(v=4))
def test_an_inner_address_is_in_what_the_outer_one_is_in(inner) -> None:
    among = networks.parse(str(inner))
    number = int(inner)
    outer = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x0064FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ]

    assert [networks.holding(str(each), among) for each in outer] == [among[0]] * 3
