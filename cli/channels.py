"""`chat4all channels`: test the credentials of a channel.

Enters: the settings. Leaves: one sentence; exit code 0 when the provider accepts the credentials, 1 when it does not, 2 when settings are
missing. Guaranteed: the test makes one call, which sends no message and changes nothing.
"""

import asyncio
from typing import Annotated

import typer

from cli.command_errors import NO, fail, settings_with
from connectors.base import Connector, Probed, Probing
from connectors.registry import CHANNELS
from schemas.settings import Settings

app = typer.Typer(help="Test the credentials of a channel.", no_args_is_help=True)


@app.callback()
def channels() -> None:
    """Test the credentials of a channel."""


@app.command()
def test(
    channel: Annotated[str, typer.Argument(help=f"One of {', '.join(CHANNELS)}.", metavar="CHANNEL")],
) -> None:
    """Make one call that changes nothing with the configured credentials (Telegram: getMe; WhatsApp: the number's data); print the answer.

    Example: `chat4all channels test telegram`, with CHAT4ALL_TELEGRAM_TOKEN set.
    """
    if channel not in CHANNELS:
        fail(f"there is no channel {channel!r}: choose one of {', '.join(CHANNELS)}")
    declared = CHANNELS[channel]
    settings = settings_with(*declared.send_settings)
    probed = asyncio.run(_probed(declared.build(settings), channel))
    if not probed.good:
        fail(f"{channel}: {probed.sentence}", NO)
    print(f"{channel}: {probed.sentence}")
    missing = _missing(settings, declared.webhook_settings)
    if declared.polls(settings):
        print(f"{channel}: the gateway asks for its updates; no webhook is needed, and none may be set")
    elif missing:
        print(f"{channel}: the gateway refuses its webhooks until you set {missing}")


async def _probed(connector: Connector, channel: str) -> Probed:
    try:
        if isinstance(connector, Probing):
            return await connector.probe()
        return Probed(True, f"channel {channel} has no call that can test its credentials")
    finally:
        await connector.close()


def _missing(settings: Settings, names: tuple[str, ...]) -> str:
    return ", ".join(f"CHAT4ALL_{name.upper()}" for name in settings.missing(*names))
