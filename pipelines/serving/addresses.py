"""Names the sender of a request, for limits: by its IPv4 address or its IPv6 network.

In: the address of a connection, and X-Forwarded-For if the connection comes from one of our proxies. Out: a text; for IPv6 the first 64
bits, because the owner of one such address has all of them. Guaranteed: the header of any other sender is ignored.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

_SENDER_BITS = 64
UNKNOWN = "unknown"


def networks_in(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks in a text such as `10.0.0.0/8,192.0.2.7`. Raises ValueError for an entry that is no network."""
    return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())


class Addresses:
    """Finds the sender of a request. `proxies` are the addresses of our own proxies, in the form of `networks_in`."""

    def __init__(self, proxies: str = "") -> None:
        self._proxies = networks_in(proxies)

    def is_proxy(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._proxies)

    def of_request(self, request: web.Request) -> str:
        """The name of the sender: behind our proxies, the last address in X-Forwarded-For that is not one of theirs."""
        peer = _peer(request)
        if not self._proxies or not self.is_proxy(peer):
            return _named_peer(peer)
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        for each in reversed(forwarded):
            address = _without_port(each.strip())
            if _parsed(address) is None:
                break  # our proxies write addresses; the sender may have written everything before this entry
            if not self.is_proxy(address):
                return named(address)
        return named(peer)


def named(address: str) -> str:
    """The name of an address for limits; UNKNOWN if it cannot be parsed."""
    parsed = _parsed(address)
    if parsed is None:
        return UNKNOWN
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed) >> _SENDER_BITS << _SENDER_BITS, _SENDER_BITS)))
    return str(parsed)


@lru_cache(maxsize=4096)  # asked twice for each request. Of peers only: what a sender writes could be long.
def _named_peer(peer: str) -> str:
    return named(peer)


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
