"""Runs one simulated provider: python -m loadgen.providers whatsapp|telegram --port P --webhook-url URL --log FILE [--double 0.02 ...].

Secrets come from the settings (CHAT4ALL_WHATSAPP_TOKEN and so on), every knob of faults.py is a flag. Ends on SIGTERM with code 0.
"""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from loadgen.providers.faults import Faults
from loadgen.providers.log import Log
from loadgen.providers.server import Provider, serve
from loadgen.providers.telegram import Telegram
from loadgen.providers.whatsapp import WhatsApp
from schemas.settings import MissingSetting, Settings

_NEEDS = {
    "whatsapp": ("whatsapp_account", "whatsapp_token", "whatsapp_app_secrets"),
    "telegram": ("telegram_token", "telegram_webhook_secret"),
}


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m loadgen.providers", description="A simulated messaging provider.")
    flags.add_argument("provider", choices=sorted(_NEEDS))
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on")
    flags.add_argument("--port", type=int, default=0, help="port to listen on; 0 picks a free one")
    flags.add_argument("--webhook-url", default="", help="where receipts and inbound messages are posted")
    flags.add_argument("--log", type=Path, default=None, help="file that keeps every call and receipt, JSON lines")
    flags.add_argument("--seed", type=int, default=1, help="seed of all fates")
    for knob in dataclasses.fields(Faults):
        flag = "--" + knob.name.replace("_", "-")
        flags.add_argument(
            flag, type=float, default=knob.default, help=f"{knob.metadata['about']} (default {knob.default:g})"
        )
    return flags


def provider(chosen: argparse.Namespace, settings: Settings) -> Provider:
    """The provider of parsed flags, inside a running loop; raises MissingSetting, or ValueError for a knob outside its range."""
    settings.require(*_NEEDS[chosen.provider])
    faults = Faults().changed({knob.name: getattr(chosen, knob.name) for knob in dataclasses.fields(Faults)})
    log = Log(chosen.log)
    if chosen.provider == "telegram":
        return Telegram(
            token=settings.telegram_token.get_secret_value(),
            webhook_secret=settings.telegram_webhook_secret.get_secret_value(),
            webhook_url=chosen.webhook_url,
            faults=faults,
            seed=chosen.seed,
            log=log,
        )
    return WhatsApp(
        account=settings.whatsapp_account,
        token=settings.whatsapp_token.get_secret_value(),
        app_secret=settings.whatsapp_app_secrets.get_secret_value().split(",")[0].strip(),
        webhook_url=chosen.webhook_url,
        faults=faults,
        seed=chosen.seed,
        log=log,
    )


async def _run(chosen: argparse.Namespace) -> None:
    await serve(provider(chosen, Settings()), chosen.host, chosen.port)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        asyncio.run(_run(parser().parse_args(arguments)))
    except (MissingSetting, ValueError, OSError) as why:
        sys.stderr.write(f"{why}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
