"""The SLA report as a compact table, for the end of a run.

Enters: a URL, a range and a tenant. Leaves: a rich table, or None. Blocks.
"""

from datetime import datetime

from rich.table import Table

from cli.report_tables import table
from sinks.clickhouse import answered, connect
from sinks.report_queries import OBJECTIVE, Question, ask

_COLUMNS = (
    "tenant_id",
    "channel",
    "accepted",
    "measured",
    "late",
    "attained_share",
    "is_met",
    "scheduled_or_throttled",
    "never_sent",
)


def sla_summary(clickhouse_url: str, since: datetime, until: datetime, tenant: str = "") -> Table | None:
    """How the deliveries accepted in [since, until) (whole minutes: since is rounded down, until up) met the objective, by tenant and
    channel. None when nothing was accepted. Blocks. Raises sinks.sink_errors.Unavailable or NotMigrated."""
    client = connect(clickhouse_url)
    try:
        result = answered(lambda: ask(client, "sla", Question(since, until, tenant=tenant)))
    finally:
        client.close()
    if not result.rows:
        return None
    drawn = table(result, _COLUMNS)
    drawn.title = (
        f"SLA: {OBJECTIVE.share:.0%} of the deliveries sent within {OBJECTIVE.seconds:g} s of their acceptance"
    )
    return drawn
