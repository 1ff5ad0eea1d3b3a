"""Channels by name: limits without a connection, connectors from settings, and no secret in their representation."""

import pytest

from connectors.base import Asking
from connectors.registry import CHANNELS, connector
from schemas.catalog import TOPICS
from schemas.keys import provider_message_key
from schemas.records import CHANNELS as DECLARED
from schemas.settings import MissingSetting, Settings

NEEDED = {name for channel in CHANNELS.values() for name in (*channel.send_settings, *channel.webhook_settings)}
SETTINGS = Settings.model_validate(
    dict.fromkeys(NEEDED, "4711:made-up-secret")
    | {
        "whatsapp_account": "106540352242922",
        "whatsapp_token": "EAA-secret",
        "whatsapp_app_secrets": " new-secret , old-secret,",
        "whatsapp_verify_token": "verify-secret",
        "instagram_account": "17841405822304914",
        "instagram_token": "IGAA-secret",
        "instagram_app_secrets": "app-secret",
        "instagram_verify_token": "verify-secret",
        "telegram_token": "4242:bot-secret",
        "telegram_webhook_secret": "hook-secret",
        "internal_account": "our-app",
        "internal_tokens": "new-secret=default:*,old-secret=default:ana|bob",
    }
)


def test_every_channel_is_declared_and_has_its_topic() -> None:
    assert set(CHANNELS) == set(DECLARED)
    assert {f"deliveries.{channel}" for channel in DECLARED} == {
        name for name in TOPICS if name.startswith("deliveries.")
    }
    assert {channel.capabilities.unknown_policy for channel in CHANNELS.values()} <= {"hold", "resend", "fail"}


@pytest.mark.parametrize("channel", sorted(CHANNELS))
def test_a_channel_says_why_its_provider_cannot_be_asked_unless_it_can(channel: str) -> None:
    reason = CHANNELS[channel].no_answers
    assert isinstance(connector(channel, SETTINGS), Asking) is not bool(reason)
    assert not reason.endswith(".")


@pytest.mark.parametrize("channel", sorted(CHANNELS))
async def test_a_connector_is_built_from_settings_and_shows_no_secret(channel: str) -> None:
    built = connector(channel, SETTINGS)
    assert (built.channel, built.capabilities) == (channel, CHANNELS[channel].capabilities)
    assert "secret" not in repr(built)
    await built.close()


def test_our_default_account_comes_from_the_settings() -> None:
    accounts = {name: channel.account(SETTINGS) for name, channel in CHANNELS.items()}
    assert (
        accounts.items()
        >= {
            "whatsapp": "106540352242922",
            "telegram": "4242",
            "instagram": "17841405822304914",
            "internal": "our-app",
        }.items()
    )


@pytest.mark.parametrize("channel", sorted(CHANNELS))
def test_each_channel_says_which_settings_it_needs(channel: str) -> None:
    for names in (CHANNELS[channel].send_settings, CHANNELS[channel].webhook_settings):
        SETTINGS.require(*names)
        with pytest.raises(MissingSetting, match=names[0].upper()):
            Settings().require(*names)


def test_the_key_of_a_provider_message() -> None:
    assert provider_message_key("telegram", "4242", "5005:42") == "telegram:4242:5005:42"
