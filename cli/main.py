"""`chat4all`: all commands of the product, and the exit code and message of each expected error.

Enters: the command line. Leaves: exit code 0 when the command did its work; 1 when the answer is no (a failed verdict, a dead
service); 2 for a wrong command line, a missing setting or a refusal, with one line on standard error and no traceback. A command's
module is imported only when the command is called: `chat4all up` does not import the clients of the databases.
"""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

# Where each command is defined: a function, or the Typer of a group of commands.
COMMANDS = {
    "demo": "cli.load:demo",
    "up": "cli.stack:up",
    "down": "cli.stack:down",
    "status": "cli.stack:status",
    "logs": "cli.stack:logs",
    "load": "cli.load:load",
    "bench": "cli.bench:bench",
    "simulate": "cli.simulate:simulate",
    "channels": "cli.channels:app",
    "message": "cli.message:app",
    "history": "cli.history_commands:app",
    "report": "cli.report:report",
    "check": "cli.check:check",
    "replay": "cli.replay:replay",
    "receipts": "cli.sweep:app",
    "erase": "cli.erase:erase",
    "audit": "cli.erase:audit",
    "retention": "cli.retention_command:retention",
    "tables": "cli.table_commands:app",
}
# The options of `simulate` are those of the simulators. They are passed on unchanged.
CONTEXT: dict[str, dict[str, Any]] = {
    "simulate": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
}


class Commands(TyperGroup):
    """The commands of COMMANDS. Each is imported when it is called, or when the help lists it."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # typer's signature; its Context is a private one
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  # the same
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            command: Any = typer.main.get_group(found)
        else:
            single = typer.Typer(add_completion=False)
            single.command(context_settings=CONTEXT.get(cmd_name))(found)
            command = typer.main.get_command(single)
        command.name = cmd_name
        return command


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def chat4all() -> None:
    """Chat4All delivers messages from Kafka to WhatsApp, Telegram, Instagram and your own clients: once, in order, with every receipt.

    `chat4all demo` shows everything in one run. `chat4all up` starts a development stack and leaves it running.

    The other commands use that stack, or the servers that the CHAT4ALL_... settings name.
    """


def expected(error: Exception) -> str | None:
    """One line for an error that is no fault of the program; None for any other error."""
    from pydantic import ValidationError  # noqa: PLC0415  # if it was raised, it is imported already

    from schemas.settings import MissingSetting, wrong  # noqa: PLC0415  # the same
    from sinks.sink_errors import Unavailable  # noqa: PLC0415  # the same
    from stack.control import StackRefused  # noqa: PLC0415  # the same
    from stack.launch import ServiceFailed  # noqa: PLC0415  # the same

    if isinstance(error, ValidationError):
        return wrong(error)
    return str(error) if isinstance(error, MissingSetting | StackRefused | ServiceFailed | Unavailable) else None


def main() -> None:
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sentence = expected(error)
        if sentence is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
