"""The gateway's part of the settings (schemas/settings.py): where it listens, and what its senders may cost (docs/gateway.md)."""

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
        description="How long the gateway gathers records for one request to Kafka, ms; a webhook is answered so much later.",
    )
    gateway_port: int = Field(8080, ge=0, le=65535, description="Port of the gateway; 0 picks a free one.")

    # gateway: what its senders may cost (docs/gateway.md)
    gateway_probe_host: str = Field(
        "127.0.0.1", description="Address of the gateway's health, metrics and schemas; nobody outside needs them."
    )
    gateway_probe_port: int = Field(
        8081, ge=0, le=65535, description="Port of the gateway's health, metrics and schemas; 0 picks a free one."
    )
    gateway_bodies_bytes: int = Field(
        32 * 1024 * 1024,
        ge=4 * 1024 * 1024,
        description="Bytes of all bodies in flight together, without the first 16 KiB of each; above it the oldest is answered 503.",
    )
    gateway_head_seconds: float = Field(10.0, gt=0, description="Time for the head of a request, seconds.")
    gateway_body_seconds: float = Field(20.0, gt=0, description="Time for the body of a request, seconds.")
    gateway_idle_seconds: float = Field(
        60.0, gt=0, description="How long a connection of the gateway may be idle between two requests, seconds."
    )
    gateway_connections: int = Field(
        1000, ge=1, description="Connections of the gateway; at the bound, the one that waits for longest is closed."
    )
    gateway_address_connections: int = Field(
        200, ge=1, description="Connections of one address, treated alike; a proxy of ours has no such bound."
    )
    gateway_address_rate: float = Field(
        200.0,
        ge=0,
        description="Requests a second of one address that prove nothing, twice as many at once; more are answered 429. 0: no limit.",
    )
    gateway_account_rate: float = Field(
        2000.0,
        ge=0,
        description="Proven requests a second for one account of a channel, twice as many at once; more are answered 429. 0: no limit.",
    )
    gateway_proxies: str = Field(
        "",
        description="Addresses or networks of your own proxies before the gateway, comma-separated: their X-Forwarded-For is believed.",
    )

    @field_validator("gateway_proxies")
    @classmethod
    def _proxies_are_networks(cls, text: str) -> str:
        for entry in filter(None, (each.strip() for each in text.split(","))):
            ip_network(entry)
        return text
