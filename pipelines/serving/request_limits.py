"""The limits of the gateway: sizes, times, rates and numbers.

In: Settings. Out: RequestLimits, plain values. docs/gateway.md says what happens at each limit.
"""

from dataclasses import dataclass

from schemas.settings import Settings

BODY_BYTES = 3 * 1024 * 1024  # Meta's webhook bodies have up to 3 MB
HEAD_BYTES = 16 * 1024  # request line and headers; those of providers have 1 or 2 kB
RECEIVE_BYTES = 64 * 1024  # read from a connection at once
LINGER_SECONDS = 2.0  # a refused body is read and dropped for this long, so that its sender reads the answer
BURST_SECONDS = 2.0  # a burst may have as many requests as the rate allows in this time


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of all senders together, or of each address or account where the name says so. Sizes in bytes, rates in requests a second; a
    rate of 0 is no limit."""

    body_bytes: int = BODY_BYTES
    bodies_bytes: int = 32 * 1024 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    idle_seconds: float = 60.0
    connections: int = 1000
    connections_by_address: int = 200
    unproven_by_address: float = 200.0
    requests_by_account: float = 2000.0
    proxies: str = ""

    @classmethod
    def from_settings(cls, settings: Settings) -> "RequestLimits":
        return cls(
            bodies_bytes=settings.gateway_bodies_bytes,
            head_seconds=settings.gateway_head_seconds,
            body_seconds=settings.gateway_body_seconds,
            idle_seconds=settings.gateway_idle_seconds,
            connections=settings.gateway_connections,
            connections_by_address=settings.gateway_address_connections,
            unproven_by_address=settings.gateway_address_rate,
            requests_by_account=settings.gateway_account_rate,
            proxies=settings.gateway_proxies,
        )


DEFAULT = RequestLimits()
