"""A verdict as tables for a person: counts, statuses, latencies, findings with examples, and OK or NOT OK at the end.

Enters: a Verdict. Leaves: an object that rich can print. Guaranteed: every number shown is in the verdict, and none is rounded.
"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadgen.verdict import Kind, Verdict

_STATUSES = ("PENDING", "SENT", "DELIVERED", "READ", "FAILED", "EXPIRED", "CANCELLED", "SUPPRESSED")


def render(verdict: Verdict) -> RenderableType:
    """The verdict as tables and a last line."""
    parts: list[RenderableType] = []
    for title, table in (
        ("What happened", _counts(verdict)),
        ("Deliveries in PostgreSQL", _statuses(verdict)),
        ("Times in PostgreSQL", _latencies(verdict)),
        ("Verdict, from the loader's log, the providers' logs and PostgreSQL", _findings(verdict)),
    ):
        parts += [Text(f"\n{title}", style="bold"), table]
    for kind in Kind:
        parts += [Text(f"  {kind}: {sentence}", style="red") for sentence in verdict.findings[kind]]
        unseen = verdict.totals[kind] - len(verdict.findings[kind])
        if unseen:
            parts.append(Text(f"  {kind}: and {unseen:,} more", style="red"))
    return Group(*parts, _last_line(verdict))


def _counts(verdict: Verdict) -> Table:
    table = Table("counted")
    table.add_column("", justify="right")
    for name, count in verdict.counts.items():
        table.add_row(name, f"{count:,}")
    return table


def _statuses(verdict: Verdict) -> Table:
    shown = [status for status in _STATUSES if any(status in by_status for by_status in verdict.statuses.values())]
    table = Table("channel")
    for status in shown:
        table.add_column(status, justify="right")
    for channel, by_status in sorted(verdict.statuses.items()):
        table.add_row(channel, *(f"{by_status.get(status, 0):,}" for status in shown))
    return table


def _latencies(verdict: Verdict) -> Table:
    table = Table("milliseconds")
    for heading in ("p50", "p95", "p99", "measured"):
        table.add_column(heading, justify="right")
    for name, times in verdict.latencies.items():
        values = (times.p50, times.p95, times.p99) if times.count else ("-", "-", "-")
        table.add_row(name, *(str(value) for value in values), f"{times.count:,}")
    return table


def _findings(verdict: Verdict) -> Table:
    table = Table("found")
    table.add_column("", justify="right")
    for kind, total in verdict.totals.items():
        table.add_row(str(kind), Text(f"{total:,}", style="red" if total else "green"))
    return table


def _last_line(verdict: Verdict) -> Text:
    if verdict.ok:
        return Text(
            "OK: nothing lost, doubled, astray, out of order, missing a number or in disagreement; cursors right",
            style="bold green",
        )
    if not verdict.counts["acknowledged messages"]:
        return Text("NOT OK: no message was acknowledged, so nothing is proven", style="bold red")
    wrong = ", ".join(f"{kind} {total:,}" for kind, total in verdict.totals.items() if total)
    return Text(f"NOT OK: {wrong}", style="bold red")
