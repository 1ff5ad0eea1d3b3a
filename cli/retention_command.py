"""`chat4all retention`: what is older than the retention of the settings, and with `--apply` its deletion.

Enters: options, and the configured databases. Leaves: a line for each thing; else exit code 2, and one sentence. Guaranteed: without
`--apply` nothing changes.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.command_errors import fail, settings_with
from cli.terminal import console
from schemas.retention_days import retention_in
from sinks.retention import operator_name, retain, said
from sinks.sink_errors import NotMigrated


def retention(
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Delete. Without it, only say what would be deleted.")] = False,
    operator: Annotated[str, typer.Option(help="Who does it, for the audit; else the user of the system.")] = "",
) -> None:
    """Delete what is older than CHAT4ALL_RETENTION_DAYS and CHAT4ALL_TENANT_RETENTION from both databases."""
    settings = settings_with("postgres_url", "clickhouse_url")
    kept = retention_in(settings.retention_days, settings.tenant_retention)
    found: list[str] = []
    if kept:
        try:
            found = retain(
                settings.postgres_url,
                settings.clickhouse_url,
                kept,
                datetime.now(UTC),
                operator=operator or operator_name(),
                apply=apply,
            )
        except NotMigrated as error:
            fail(str(error))
    for line in said(found, kept, apply=apply):
        console.print(line, highlight=False)
