"""Lists of IP networks, and which of them an address is in.

An IPv6 address that carries an IPv4 address (mapped, 6to4, NAT64) is looked up as both: the
kernel, or a gateway, connects to the inner one.
"""

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

OWN_HOST = (
    # The machine itself, and its link: the clouds' metadata services are there ...
    "0.0.0.0/8,127.0.0.0/8,169.254.0.0/16,::/128,::1/128,fe80::/10"
    # ... or at addresses of their own: Alibaba, UCloud, Azure, Oracle; AWS, Google.
    ",100.100.100.200/32,100.80.80.80/32,168.63.129.16/32,192.0.0.192/32"
    ",fd00:ec2::/32,fd20:ce::254/128"
)
"""Where a machine's own services are, and those that a cloud gives to it, as `parse` reads them."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def parse(text: str) -> tuple[Network, ...]:
    """The networks of a list with commas; a single address is one. Raises ValueError."""
    return tuple(
        ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()
    )


def holding(address: str, among: Sequence[Network]) -> Network | None:
    """The first network that an address is in; raises ValueError for what is no address."""
    for each in _meanings(ipaddress.ip_address(address.partition("%")[0])):
        for network in among:
            if each.version == network.version and each in network:
                return network
    return None


def literal(host: str) -> str:
    """The address that a host of a URL is without any look-up; "" for a name.

    `localhost` is one, and so are the short and numeric forms that inet_aton(3) reads (`127.1`).
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return "127.0.0.1"
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name.strip("[]").partition("%")[0]))
    with contextlib.suppress(OSError, ValueError):
        return socket.inet_ntoa(socket.inet_aton(name))
    return ""


def _meanings(address: Address) -> Iterator[Address]:
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            yield address.ipv4_mapped
        if address.sixtofour is not None:
            yield address.sixtofour
        if address in _NAT64:
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
