"""Runs one simulated provider: python -m simulators whatsapp --port P --webhook-url URL --log FILE [--double 0.02 ...].

Secrets come from the settings (CHAT4ALL_WHATSAPP_TOKEN and so on). Every knob of misbehaviour.py and provider_limits.py is a flag;
--no-limits switches off all windows and rate limits. Several simulators can share one process: give their command lines one after the
other, separated by `+`. The process ends on SIGTERM with code 0.
"""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
from pydantic import ValidationError

from schemas.client_tokens import tokens_in
from schemas.redaction import redactor
from schemas.settings import MissingSetting, Settings, wrong
from schemas.tracebacks import log_plainly
from simulators import AND
from simulators.http_server import serve
from simulators.instagram import InstagramSimulator
from simulators.internal import InternalSimulator
from simulators.misbehaviour import Misbehaviour
from simulators.provider import Provider
from simulators.provider_limits import NONE, ProviderLimits
from simulators.provider_log import Log
from simulators.telegram import TelegramSimulator
from simulators.whatsapp import WhatsAppSimulator

_NEEDS = {
    "whatsapp": ("whatsapp_account", "whatsapp_token", "whatsapp_app_secrets"),
    "telegram": ("telegram_token", "telegram_webhook_secret"),
    "instagram": ("instagram_account", "instagram_token", "instagram_app_secrets"),
    "internal": ("kafka_url", "internal_account", "internal_tokens"),
}


def parser() -> argparse.ArgumentParser:
    """All flags. A knob of misbehaviour.py or provider_limits.py is a flag of the same name."""
    flags = argparse.ArgumentParser(prog="chat4all simulate", description="A simulated messaging provider.")
    flags.add_argument("provider", choices=sorted(_NEEDS))
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on")
    flags.add_argument("--port", type=int, default=0, help="port to listen on; 0 picks a free one")
    flags.add_argument("--webhook-url", default="", help="where receipts and inbound messages are posted")
    flags.add_argument("--log", type=Path, default=None, help="file for every call and receipt, as JSON lines")
    flags.add_argument("--closed-log", action="store_true", help="do not serve /_log: addresses are in the file only")
    flags.add_argument("--seed", type=int, default=1, help="seed of all random outcomes")
    flags.add_argument("--schedule", default="[]", help="phases of misbehaviour, JSON (see POST /_control/schedule)")
    flags.add_argument(
        "--no-limits", action="store_true", help="no windows and no rate limits, except those set by a flag"
    )
    flags.add_argument(
        "--local", action="store_true", help="act as a self-hosted Bot API server: any webhook URL (Telegram)"
    )
    for knob in dataclasses.fields(Misbehaviour):
        _flag(flags, knob, knob.default)
    for knob in dataclasses.fields(ProviderLimits):
        _flag(flags, knob, None)
    return flags


def _flag(flags: argparse.ArgumentParser, knob: "dataclasses.Field[float]", default: object) -> None:
    about = f"{knob.metadata['about']} (default {knob.default:g})"
    flags.add_argument("--" + knob.name.replace("_", "-"), type=float, default=default, help=about)


def provider(chosen: argparse.Namespace, settings: Settings) -> Provider:
    """Builds the provider that the flags describe. Call it inside a running event loop.

    Raises MissingSetting, or ValueError for a knob that is outside its range and for a wrong schedule.
    """
    settings.require(*_NEEDS[chosen.provider])
    given = vars(chosen)
    misbehaviour = Misbehaviour().changed({knob.name: given[knob.name] for knob in dataclasses.fields(Misbehaviour)})
    wanted = {
        knob.name: given[knob.name] for knob in dataclasses.fields(ProviderLimits) if given[knob.name] is not None
    }
    limits = (NONE if chosen.no_limits else ProviderLimits()).changed(wanted)
    made = _made(chosen, settings, misbehaviour, limits)
    made.schedule.plan(orjson.loads(chosen.schedule))
    made.shows_log = not chosen.closed_log
    return made


def _made(
    chosen: argparse.Namespace, settings: Settings, misbehaviour: Misbehaviour, limits: ProviderLimits
) -> Provider:
    log = Log(chosen.log)
    if chosen.provider == "internal":
        return InternalSimulator(
            account=settings.internal_account,
            token=tokens_in(settings.internal_tokens.get_secret_value())[0].token,
            kafka=settings.kafka,
            webhook_url=chosen.webhook_url,
            misbehaviour=misbehaviour,
            seed=chosen.seed,
            log=log,
        )
    if chosen.provider == "telegram":
        return TelegramSimulator(
            token=settings.telegram_token.get_secret_value(),
            webhook_secret=settings.telegram_webhook_secret.get_secret_value(),
            webhook_url=chosen.webhook_url,
            misbehaviour=misbehaviour,
            limits=limits,
            seed=chosen.seed,
            log=log,
            is_local=chosen.local,
        )
    is_whatsapp = chosen.provider == "whatsapp"
    token = settings.whatsapp_token if is_whatsapp else settings.instagram_token
    app_secrets = settings.whatsapp_app_secrets if is_whatsapp else settings.instagram_app_secrets
    kind: type[WhatsAppSimulator | InstagramSimulator] = WhatsAppSimulator if is_whatsapp else InstagramSimulator
    return kind(
        account=settings.whatsapp_account if is_whatsapp else settings.instagram_account,
        token=token.get_secret_value(),
        app_secret=app_secrets.get_secret_value().split(",")[0].strip(),
        webhook_url=chosen.webhook_url,
        misbehaviour=misbehaviour,
        limits=limits,
        seed=chosen.seed,
        log=log,
    )


def together(arguments: Sequence[str]) -> Iterator[Sequence[str]]:
    """Splits the arguments into one command line for each simulator."""
    begin = 0
    for end, argument in enumerate([*arguments, AND]):
        if argument == AND:
            yield arguments[begin:end]
            begin = end + 1


async def _run(chosen: Sequence[argparse.Namespace]) -> None:
    settings = Settings()
    log_plainly(redactor(settings))
    await serve([(provider(each, settings), each.host, each.port) for each in chosen])


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        flags = parser()
        asyncio.run(
            _run([flags.parse_args(each) for each in together(sys.argv[1:] if arguments is None else arguments)])
        )
    except (MissingSetting, ValueError, OSError) as why:
        sys.stderr.write(f"{wrong(why) if isinstance(why, ValidationError) else why}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
