"""Whose request it is, as far as limits go: an address, or the network of one household.

In: the address of a connection, and X-Forwarded-For where the connection is a proxy's of ours. Out: a text; of IPv6 the first 64 bits, for
who has one address of these has them all. A header of anybody else is not believed.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

_OF_ONE = 64  # bits
NOBODY = "unknown"


def networks_in(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of `10.0.0.0/8,192.0.2.7`; raises ValueError for the first entry that is none."""
    return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())


class Addresses:
    """`proxies` are the addresses of our own proxies, as `networks_in` reads them."""

    def __init__(self, proxies: str = "") -> None:
        self._proxies = networks_in(proxies)

    def is_proxy(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._proxies)

    def of_request(self, request: web.Request) -> str:
        """Behind proxies of ours, the last address in X-Forwarded-For that is none of theirs."""
        peer = _peer(request)
        if not self._proxies or not self.is_proxy(peer):
            return named(peer)
        told = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        for each in reversed(told):
            address = _without_port(each.strip())
            if _parsed(address) is None:
                break  # a proxy writes addresses; before this one anybody may have written
            if not self.is_proxy(address):
                return named(address)
        return named(peer)


def named(address: str) -> str:
    parsed = _parsed(address)
    if parsed is None:
        return NOBODY
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed) >> _OF_ONE << _OF_ONE, _OF_ONE)))
    return str(parsed)


def _without_port(text: str) -> str:
    """Some proxies write the port as well: 192.0.2.7:4711, [2001:db8::7]:4711."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _peer(request: web.Request) -> str:
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed
