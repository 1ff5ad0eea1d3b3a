"""A process of the product in which unexpected exceptions are raised: `python -m tests.support.raising_process PART`.

PART is core, sinks, gateway, prepare or simulators. The code that raises has a text, an address, tokens and a database URL with a password
in its local variables, in the exception's message, and in the message of the exception's cause. The rest is the product's own program. It
needs no server, because the checks of Kafka are left out.
"""

import asyncio
import sys
from typing import Any

from faust.transport.drivers.aiokafka import Producer

from connectors.telegram.connector import TelegramConnector
from pipelines import __main__ as pipelines
from pipelines import topics
from pipelines.engine.worker import Engine
from simulators import __main__ as simulators
from simulators.telegram import TelegramSimulator as Simulated
from sinks import migrate

ADDRESS = "+55 11 95550 1234"
TEXT = "secret-words for nobody else"
BOT_TOKEN = "7310256241:AAbot-token-of-nobody"
HOOK_SECRET = "hook-secret-of-nobody"
DATABASE = "postgresql://chat4all:database-password-of-nobody@127.0.0.1:1/chat4all"
SECRETS = (TEXT, ADDRESS, "95550", "AAbot-token-of-nobody", HOOK_SECRET, "database-password-of-nobody")


def raises(*arguments: Any, **named: Any) -> Any:
    text, address, token, database = TEXT, ADDRESS, BOT_TOKEN, DATABASE
    held = {"text": text, "address": address, "token": token, "url": database, "arguments": (arguments, named)}
    try:
        int(text)
    except ValueError as error:
        error.add_note(f"while sending {text!r} to {address}")
        raise LookupError(f"{held}") from error


async def raises_in_a_task(*arguments: Any, **named: Any) -> Any:
    """Raises in a callback, in a task without a waiter, and in the call itself."""
    asyncio.get_running_loop().call_soon(raises, TEXT, ADDRESS)
    forgotten = asyncio.create_task(asyncio.to_thread(raises))
    await asyncio.wait([forgotten])
    del forgotten
    return raises(*arguments, **named)


def replace(owner: Any, name: str, what: Any) -> None:
    setattr(owner, name, what)


def main() -> int:
    part = sys.argv[1]
    if part == "simulators":
        replace(Simulated, "answer", raises_in_a_task)
        return simulators.main(["telegram", "--port", sys.argv[2]])
    if part == "prepare":
        replace(topics, "create", raises)
    else:
        replace(topics, "check", lambda *_: None)
        replace(Engine, "check", lambda _: None)
        replace(migrate, "check", lambda *_: None)
        replace(Producer, "on_start", raises_in_a_task)
        replace(TelegramConnector, "parse_webhook", raises)
    sys.argv = ["pipelines", *(["worker", part] if part in ("core", "sinks") else [part])]
    return pipelines.main()


if __name__ == "__main__":
    sys.exit(main())
