"""`chat4all channels`: which channels there are, and whether their credentials work.

Enters: the settings. Leaves: one sentence a channel; exit code 0 when the provider knows us, 1 when it does not, 2 when there was nothing
to ask with. Guaranteed: the one call that is made sends nothing to anybody and changes nothing.
"""

import asyncio
from typing import Annotated

import typer

from cli.command_errors import NO, fail, settings_with
from connectors.base import Connector, Probed, Probing
from connectors.registry import CHANNELS
from schemas.settings import Settings

app = typer.Typer(help="The channels and their credentials.", no_args_is_help=True)


@app.callback()
def channels() -> None:
    """The channels and their credentials."""


@app.command()
def test(
    channel: Annotated[str, typer.Argument(help=f"One of {', '.join(CHANNELS)}.", metavar="CHANNEL")],
) -> None:
    """Make one harmless call with the configured credentials (Telegram: getMe; WhatsApp: who the number is) and say what came back."""
    if channel not in CHANNELS:
        fail(f"there is no channel {channel!r}: choose one of {', '.join(CHANNELS)}")
    declared = CHANNELS[channel]
    settings = settings_with(*declared.send_settings)
    probed = asyncio.run(_probed(declared.build(settings), channel))
    if not probed.good:
        fail(f"{channel}: {probed.sentence}", NO)
    print(f"{channel}: {probed.sentence}")
    missing = _missing(settings, declared.webhook_settings)
    if missing:
        print(f"{channel}: its webhooks would be refused by the gateway until you set {missing}")


async def _probed(connector: Connector, channel: str) -> Probed:
    try:
        if isinstance(connector, Probing):
            return await connector.probe()
        return Probed(True, f"channel {channel} has no call that would show whether its credentials work")
    finally:
        await connector.close()


def _missing(settings: Settings, names: tuple[str, ...]) -> str:
    return ", ".join(f"CHAT4ALL_{name.upper()}" for name in settings.missing(*names))
