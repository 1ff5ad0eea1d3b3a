"""`chat4all simulate`: one simulated provider in the foreground.

Enters: a provider's name and the options of its simulator. Leaves: a server that runs until it is interrupted; its first line says
where it listens. Secrets come from the settings.
"""

from typing import Annotated

import typer


def simulate(
    context: typer.Context,
    provider: Annotated[str, typer.Argument(help="whatsapp, telegram, instagram or internal (your own clients).")],
) -> None:
    """Run a simulated provider until Ctrl-C. `chat4all simulate whatsapp --help` lists the options of WhatsApp's simulator."""
    from simulators.__main__ import main  # noqa: PLC0415  # not needed by `chat4all --help`

    raise typer.Exit(main([provider, *context.args]))
