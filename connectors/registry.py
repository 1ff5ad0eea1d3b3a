"""Every channel by name: what it can, what it needs, and how to build its connector.

What enters: a channel's name and the settings. What leaves: its Connector. Looking a channel up opens nothing and needs no token, so
stage route checks limits with it. Adding a channel is one entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from connectors import telegram, whatsapp
from connectors.base import Capabilities, Connector
from schemas.outcomes import Rejected
from schemas.records import Delivery
from schemas.settings import Settings


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel. Give `send_settings` or `webhook_settings` to Settings.require before building a connector for it."""

    capabilities: Capabilities
    check: Callable[[Delivery], Rejected | None]
    account: Callable[[Settings], str]  # our default account, empty when not configured
    build: Callable[[Settings], Connector]
    send_settings: tuple[str, ...]
    webhook_settings: tuple[str, ...]


CHANNELS: Mapping[str, Channel] = MappingProxyType(
    {
        whatsapp.CHANNEL: Channel(
            capabilities=whatsapp.CAPABILITIES,
            check=whatsapp.check,
            account=lambda settings: settings.whatsapp_account,
            build=whatsapp.WhatsApp.from_settings,
            send_settings=("whatsapp_account", "whatsapp_token"),
            webhook_settings=("whatsapp_app_secrets", "whatsapp_verify_token"),
        ),
        telegram.CHANNEL: Channel(
            capabilities=telegram.CAPABILITIES,
            check=telegram.check,
            account=lambda settings: telegram.bot_id(settings.telegram_token.get_secret_value()),
            build=telegram.Telegram.from_settings,
            send_settings=("telegram_token",),
            webhook_settings=("telegram_token", "telegram_webhook_secret"),
        ),
    }
)


def connector(channel: str, settings: Settings) -> Connector:
    """The connector of a channel; raises KeyError for a channel that CHANNELS does not know."""
    return CHANNELS[channel].build(settings)
