"""The settings of the gateway (a part of schemas/settings.py): where it listens, and the limits of its clients (docs/gateway.md)."""

from ipaddress import ip_network

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings


class GatewaySettings(BaseSettings):
    """CHAT4ALL_GATEWAY_..."""

    # gateway
    gateway_host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    gateway_linger_ms: int = Field(
        25,
        ge=0,
        le=1000,
        description="How long the gateway collects records for one request to Kafka, in ms; every webhook is answered this much later.",
    )
    gateway_port: int = Field(8080, ge=0, le=65535, description="Port of the gateway; 0: any free port.")

    # gateway: limits of its clients (docs/gateway.md)
    gateway_probe_host: str = Field(
        "127.0.0.1",
        description="Address of the gateway's health, metrics and schemas; these should not be reachable from outside.",
    )
    gateway_probe_port: int = Field(
        8081, ge=0, le=65535, description="Port of the gateway's health, metrics and schemas; 0: any free port."
    )
    gateway_bodies_bytes: int = Field(
        32 * 1024 * 1024,
        ge=4 * 1024 * 1024,
        description="Bytes of all request bodies in memory at most, without the first 16 KiB of each; above it the oldest is answered 503.",
    )
    gateway_head_seconds: float = Field(
        10.0, gt=0, description="Time within which the head of a request must arrive, in seconds."
    )
    gateway_body_seconds: float = Field(
        20.0, gt=0, description="Time within which the body of a request must arrive, in seconds."
    )
    gateway_idle_seconds: float = Field(
        60.0, gt=0, description="How long a connection to the gateway may be idle between two requests, in seconds."
    )
    gateway_connections: int = Field(
        1000,
        ge=1,
        description="Connections to the gateway at most; at the limit, the one that has waited longest is closed.",
    )
    gateway_address_connections: int = Field(
        200,
        ge=1,
        description="Connections of one client address at most, closed in the same way; your own proxies have no such limit.",
    )
    gateway_address_rate: float = Field(
        200.0,
        ge=0,
        description="Unauthenticated requests per second from one address, twice as many in a burst; more are answered 429. 0: no limit.",
    )
    gateway_account_rate: float = Field(
        2000.0,
        ge=0,
        description="Authenticated requests per second for one account of a channel, twice as many in a burst; more are answered 429. "
        "0: no limit.",
    )
    gateway_proxies: str = Field(
        "",
        description="Addresses or networks of your own proxies before the gateway, comma-separated; only their X-Forwarded-For is used.",
    )

    @field_validator("gateway_proxies")
    @classmethod
    def _proxies_are_networks(cls, text: str) -> str:
        for entry in filter(None, (each.strip() for each in text.split(","))):
            ip_network(entry)
        return text
