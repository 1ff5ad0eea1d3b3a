"""`chat4all`: every command of the product, and how its expected errors end.

Enters: the command line. Leaves: exit code 0 when it was done, 1 when the answer is no (a verdict, a dead service), 2 for a wrong
command line, a missing setting or a refusal, with one line on standard error and no traceback.
"""

import sys

import typer
from pydantic import ValidationError

from cli import bench, channels, load, message, report, simulate, stack
from schemas.settings import MissingSetting, wrong
from stack.control import StackRefused
from stack.service import ServiceFailed

EXPECTED = (MissingSetting, StackRefused, ServiceFailed)

app = typer.Typer(
    help="Chat4All: messages from Kafka to WhatsApp, Telegram and others; once, in order, with every receipt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (load.demo, stack.up, stack.down, stack.status, stack.logs, load.load, bench.bench):
    app.command()(command)
# Its flags are those of the simulators themselves, passed on as they are.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(
    simulate.simulate
)
app.add_typer(channels.app, name="channels")
app.add_typer(message.app, name="message")
app.add_typer(report.app, name="report")


def main() -> None:
    try:
        app()
    except EXPECTED as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except ValidationError as error:
        sys.stderr.write(f"{wrong(error)}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
