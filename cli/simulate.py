"""`chat4all simulate`: one simulated provider in the foreground, with everything its flags can change.

Enters: a provider's name and the flags of simulators. Leaves: a server that runs until it is interrupted; its first line says where
it listens. Secrets come from the settings.
"""

from typing import Annotated

import typer


def simulate(
    context: typer.Context,
    provider: Annotated[str, typer.Argument(help="whatsapp, telegram, instagram or internal (our own clients).")],
) -> None:
    """Run a simulated provider: `chat4all simulate whatsapp --help` lists its flags."""
    from simulators.__main__ import main  # noqa: PLC0415  # `chat4all --help` shows this command without it

    raise typer.Exit(main([provider, *context.args]))
