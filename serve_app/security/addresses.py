"""Which IP addresses are on the public internet, and therefore not part of the operator's own networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        # IANA's registry of special IPv4 addresses.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; clouds keep metadata here, too
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "168.63.129.16/32",  # looks public, but is the host of every virtual machine of Azure
        # Of IPv6, what lies in 2000::/3 and is special all the same.
        "2001::/23",  # Teredo, ORCHID and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4, which holds any IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_IPV6_UNICAST = ip_network("2000::/3")  # neither loopback, ULA, link-local, mapped IPv4 nor NAT64


def is_public(address: str) -> bool:
    """Whether a numeric address is a plain one of the public internet.

    IPv6 addresses that carry an IPv4 address are not, whichever it is, nor are those with a zone.

    Raises:
        ValueError: It is no IP address.
    """
    parsed: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(parsed, IPv6Address) and (parsed.scope_id or parsed not in _IPV6_UNICAST):
        return False
    return not any(parsed in network for network in _NOT_PUBLIC)
