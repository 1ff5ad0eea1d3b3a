"""Every report again, slow and obvious: loops over the rows of a World, no SQL. REFERENCES: report -> function(World, Asked) -> rows."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.report_seed import BASE, DAY, HOUR, MINUTE, Row, World

SENT = ("SENT", "DELIVERED", "READ")
ARRIVED = ("DELIVERED", "READ")
UNSENT = ("FAILED", "EXPIRED", "CANCELLED", "SUPPRESSED")


@dataclass(frozen=True)
class Asked:
    """The parameters of a report."""

    since: int = BASE
    until: int = BASE + 5 * DAY
    tenant: str = ""
    channel: str = ""
    account: str = ""
    objective_ms: int = 1000
    objective_share: float = 0.99
    worst_n: int = 20
    label: str = ""

    def has(self, row: Row, at: int, *, no_account: bool = False) -> bool:
        """Whether the row is in the range, by `at`, and of the tenant, channel and account."""
        names = ("tenant", "channel") if no_account else ("tenant", "channel", "account")
        keys = {"tenant": "tenant_id", "channel": "channel", "account": "account"}
        return self.since <= at < self.until and all(getattr(self, n) in ("", row[keys[n]]) for n in names)


@dataclass(frozen=True)
class About:
    """Equal to a percentile that was estimated: anything between two ranks around the exact one."""

    low: float
    high: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and self.low - 0.5 <= other <= self.high + 0.5

    __hash__ = None  # type: ignore[assignment]  # compared, never a key


def exact(values: Iterable[int], level: float) -> int | None:
    """As quantileExact: the value with this share of the others before it."""
    ranked = sorted(values)
    return ranked[int(level * len(ranked))] if ranked else None


def about(values: Iterable[int], level: float) -> About | None:
    ranked = sorted(values)
    if not ranked:
        return None
    margin = 1 + 0.02 * len(ranked)
    low, high = level * (len(ranked) - 1) - margin, level * (len(ranked) - 1) + margin
    return About(ranked[max(0, int(low))], ranked[min(len(ranked) - 1, int(high) + 1)])


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    found = defaultdict[tuple[Any, ...], list[Row]](list)
    for row in rows:
        found[tuple(row[name] for name in names)].append(row)
    return dict(sorted(found.items()))


def within(rows: Sequence[Row], *statuses: str) -> int:
    return sum(row["status"] in statuses for row in rows)


def now(world: World, asked: Asked, grain: int = 1) -> list[Row]:
    """The newest version of each delivery, as it was accepted in the range."""
    newest: dict[tuple[str, str], Row] = {}
    for event in world.events:
        place = (event["tenant_id"], event["delivery_id"])
        if place not in newest or newest[place]["version"] < event["version"]:
            newest[place] = event
    return [row for row in newest.values() if asked.has(row, row["accepted_at"] // grain * grain)]


def exact_steps(row: Row) -> dict[str, int]:
    """What report delivery measures of one delivery."""
    steps = {}
    if row["sent_at"] is not None:
        steps["accept_to_sent"] = max(0, row["sent_at"] - row["accepted_at"])
    if row["delivered_at"] is not None and not row["delivered_implied"]:
        if row["sent_at"] is not None:
            steps["sent_to_delivered"] = max(0, row["delivered_at"] - row["sent_at"])
        if row["read_at"] is not None:
            steps["delivered_to_read"] = max(0, row["read_at"] - row["delivered_at"])
    return steps


def delivery(world: World, asked: Asked) -> list[Row]:
    found = []
    for (tenant, channel), rows in grouped(now(world, asked), "tenant_id", "channel").items():
        row = {
            "tenant_id": tenant,
            "channel": channel,
            "messages": len({(each["conversation_id"], each["message_id"]) for each in rows}),
            "accepted": len(rows),
            "sent": within(rows, *SENT),
            "delivered": within(rows, *ARRIVED),
            "read": within(rows, "READ"),
            **{name.lower(): within(rows, name) for name in ("PENDING", *UNSENT)},
            "sent_share": share(within(rows, *SENT), len(rows)),
            "delivered_share": share(within(rows, *ARRIVED), len(rows)),
            "failure_share": share(within(rows, "FAILED", "EXPIRED"), len(rows)),
            "resends": sum(each["resends"] for each in rows),
        }
        for step in ("accept_to_sent", "sent_to_delivered", "delivered_to_read"):
            times = [steps[step] for steps in map(exact_steps, rows) if step in steps]
            row |= {f"{step}_p{level * 100:.0f}_ms": exact(times, level) for level in (0.5, 0.95, 0.99)}
        found.append(row)
    return found


# --- what the roll-ups hold: the times of the transition that made the step -------------------------------------------------


def rolled(world: World, asked: Asked, grain: int) -> list[Row]:
    """The deliveries of the range by grain, each with `steps` (name -> ms), `counts_for_sla`, `attempts_made`, `throttled`, `resent`."""
    lives = grouped(world.events, "tenant_id", "delivery_id")
    found = []
    for row in now(world, asked, grain):
        life = sorted(lives[row["tenant_id"], row["delivery_id"]], key=lambda event: event["version"])
        made: Row = {"steps": {}, "counts_for_sla": False}
        for event in life:
            _steps_of(event, made)
        made["calls"] = sum(event["attempt"] > 0 and event["cause"] != "RESENT" for event in life)
        made["throttled_calls"] = sum(event["throttled"] for event in life)
        made["resent"] = sum(event["cause"] == "RESENT" for event in life)
        found.append({**row, **made, "hour": row["accepted_at"] // HOUR * HOUR})
    return found


def _steps_of(event: Row, made: Row) -> None:
    sent, delivered, read = event["sent_at"], event["delivered_at"], event["read_at"]
    before, after = event["previous_status"], event["status"]
    if sent is not None and before == "PENDING" and after in SENT:
        made["steps"]["accepted to sent"] = max(0, sent - event["accepted_at"])
        made["counts_for_sla"] = event["not_before"] is None and event["throttles"] == 0
    if delivered is not None and not event["delivered_implied"]:
        if before in {"PENDING", "SENT"} and after in ARRIVED:
            made["steps"]["accepted to delivered"] = max(0, delivered - event["accepted_at"])
            if sent is not None:
                made["steps"]["sent to delivered"] = max(0, delivered - sent)
        if read is not None and before != "READ" and after == "READ":
            made["steps"]["delivered to read"] = max(0, read - delivered)


def delivery_by_hour(world: World, asked: Asked) -> list[Row]:
    found = []
    for (tenant, channel, hour), rows in grouped(rolled(world, asked, HOUR), "tenant_id", "channel", "hour").items():
        row = {
            "tenant_id": tenant,
            "channel": channel,
            "hour": hour,
            "accepted": len(rows),
            "sent": within(rows, *SENT),
            "delivered": within(rows, *ARRIVED),
            "read": within(rows, "READ"),
            **{name.lower(): within(rows, name) for name in ("PENDING", *UNSENT)},
            "failure_share": share(within(rows, "FAILED", "EXPIRED"), len(rows)),
            "attempts": sum(each["calls"] for each in rows),
            "resends": sum(each["resent"] for each in rows),
            "throttles": sum(each["throttled_calls"] for each in rows),
        }
        for step, column in (("accepted to sent", "accept_to_sent"), ("sent to delivered", "sent_to_delivered")):
            times = [each["steps"][step] for each in rows if step in each["steps"]]
            row |= {f"{column}_p{level * 100:.0f}_ms": about(times, level) for level in (0.5, 0.95, 0.99)}
        found.append(row)
    return found


STEPS = ("accepted to sent", "sent to delivered", "accepted to delivered", "delivered to read")


def latency_of(*also: str, grain: int = MINUTE) -> Callable[[World, Asked], list[Row]]:
    def report(world: World, asked: Asked) -> list[Row]:
        names = ("tenant_id", "channel", *also)
        found = []
        for place, rows in grouped(rolled(world, asked, grain), *names).items():
            for step in STEPS:
                times = [each["steps"][step] for each in rows if step in each["steps"]]
                if times:
                    levels = {f"p{level * 100:.0f}_ms": about(times, level) for level in (0.5, 0.95, 0.99)}
                    label = dict(zip(names, place, strict=True))
                    found.append({**label, "step": step, "deliveries": len(times), **levels, "max_ms": max(times)})
        return found

    return report


def funnel(world: World, asked: Asked) -> list[Row]:
    found = []
    for (tenant, channel), rows in grouped(now(world, asked, MINUTE), "tenant_id", "channel").items():
        made = [len(rows), within(rows, *SENT), within(rows, *ARRIVED), within(rows, "READ")]
        for n, step in enumerate(("accepted", "sent", "delivered", "read")):
            found.append(
                {
                    "tenant_id": tenant,
                    "channel": channel,
                    "step": step,
                    "deliveries": made[n],
                    "of_accepted_share": share(made[n], made[0]),
                    "of_previous_share": share(made[n], made[n - 1]) if n else None,
                }
            )
    return found


def _counted(rows: list[Row], limit: int) -> tuple[int, int]:
    """(measured, late) by the objective."""
    times = [row["steps"]["accepted to sent"] for row in rows if row["counts_for_sla"]]
    return len(times), sum(time > limit for time in times)


def sla(world: World, asked: Asked) -> list[Row]:
    found = []
    for (tenant, channel), rows in grouped(rolled(world, asked, MINUTE), "tenant_id", "channel").items():
        measured, late = _counted(rows, asked.objective_ms)
        attained = share(measured - late, measured)
        found.append(
            {
                "tenant_id": tenant,
                "channel": channel,
                "accepted": len(rows),
                "measured": measured,
                "within": measured - late,
                "late": late,
                "attained_share": attained,
                "objective_share": asked.objective_share,
                "is_met": None if attained is None else attained >= asked.objective_share,
                "scheduled_or_throttled": sum("accepted to sent" in row["steps"] for row in rows) - measured,
                "never_sent": within(rows, *UNSENT),
            }
        )
    return found


def burn(world: World, asked: Asked) -> list[Row]:
    found = []
    for window, hours in (("1 h", 1), ("6 h", 6), ("3 d", 72)):
        part = Asked(asked.until - hours * HOUR, asked.until, asked.tenant, asked.channel, asked.account)
        for (tenant, channel), rows in grouped(rolled(world, part, MINUTE), "tenant_id", "channel").items():
            measured, late = _counted(rows, asked.objective_ms)
            if measured:
                allowed = 1 - asked.objective_share
                found.append(
                    {
                        "tenant_id": tenant,
                        "channel": channel,
                        "window": window,
                        "measured": measured,
                        "late": late,
                        "late_share": late / measured,
                        "allowed_share": allowed,
                        "burn": late / measured / allowed,
                    }
                )
    return sorted(found, key=lambda row: (row["tenant_id"], row["channel"], ("1 h", "6 h", "3 d").index(row["window"])))


# --- where the time went ------------------------------------------------------------------------------------------------------

PARTS = ("waiting", "pacing", "attempts", "provider", "receipt", "other", "total")


def parts_of(row: Row) -> dict[str, int | None] | None:
    """Part -> ms of one delivery; None when it was neither sent nor has arrived."""
    start = max(row["accepted_at"], row["not_before"] or 0)
    arrived = None if row["delivered_implied"] else row["delivered_at"]
    ends = [at for at in (row["sent_at"], arrived) if at is not None]
    if not ends:
        return None
    total = max(0, max(ends) - start)
    parts: dict[str, int | None] = {}
    times = [
        row["accepted_at"],
        row["ready_at"],
        row["first_dispatched_at"],
        row["dispatched_at"],
        row["sent_at"],
        arrived,
    ]
    reached = 0  # how far the clock has come, from the start; it never goes back and never beyond the end
    for name, before, after in zip(PARTS, times[:-1], times[1:], strict=False):
        came = reached if after is None else max(reached, min(total, after - start))
        if name == "receipt" and after is not None:
            came = total
        parts[name] = None if before is None or after is None else came - reached
        reached = came
    parts["other"] = total - sum(part or 0 for part in parts.values())
    return {**parts, "total": total}


def breaches(world: World, asked: Asked) -> list[Row]:
    found = []
    for row in now(world, asked):
        took = max(0, row["sent_at"] - row["accepted_at"]) if row["sent_at"] is not None else 0
        if took > asked.objective_ms and row["not_before"] is None and row["throttles"] == 0:
            parts = parts_of(row)
            assert parts is not None
            copied = (
                "tenant_id",
                "channel",
                "account",
                "conversation_id",
                "message_id",
                "delivery_id",
                "accepted_at",
                "status",
                "attempts",
            )
            found.append(
                {
                    **{name: row[name] for name in copied},
                    "accept_to_sent_ms": took,
                    "total_ms": parts["total"],
                    **{f"{name}_ms": parts[name] for name in PARTS[:-1]},
                }
            )
    found.sort(key=lambda row: (-row["accept_to_sent_ms"], row["tenant_id"], row["delivery_id"]))
    return found[: asked.worst_n]


def waterfall(world: World, asked: Asked) -> list[Row]:
    found = []
    for (tenant, channel), rows in grouped(now(world, asked), "tenant_id", "channel").items():
        each = [parts for parts in map(parts_of, rows) if parts is not None]
        whole = sum(parts["total"] or 0 for parts in each)
        for name in PARTS:
            times = [part for parts in each if (part := parts[name]) is not None]
            if times:
                found.append(
                    {
                        "tenant_id": tenant,
                        "channel": channel,
                        "part": name,
                        "deliveries": len(times),
                        "p50_ms": exact(times, 0.5),
                        "p95_ms": exact(times, 0.95),
                        "sum_ms": sum(times),
                        "of_total_share": share(sum(times), whole),
                    }
                )
    return found


# --- attempts -----------------------------------------------------------------------------------------------------------------

CLASSES = {
    "ACCEPTED": "accepted",
    "RETRY_LATER": "retry_later",
    "EXHAUSTED": "retry_later",
    "UNKNOWN": "unknown",
    "REJECTED": "rejected",
}


def attempts(world: World, asked: Asked) -> list[Row]:
    """Each call that ended, and each resend, of the deliveries of the range."""
    found = []
    for event in world.events:
        if asked.has(event, event["accepted_at"]) and event["attempt"] and event["cause"] in {*CLASSES, "RESENT"}:
            began = event["dispatched_at"]
            resent = event["cause"] == "RESENT"
            took = None if resent or began is None else max(0, event["occurred_at"] - began)
            found.append({**event, "class": CLASSES.get(event["cause"], ""), "resent": resent, "call_ms": took})
    return found


def retries(world: World, asked: Asked) -> list[Row]:
    calls = [call for call in attempts(world, asked) if not call["resent"]]
    names = ("tenant_id", "channel", "class", "cause", "reason_code")
    found = []
    for place, rows in grouped(calls, *names).items():
        times = [row["call_ms"] for row in rows if row["call_ms"] is not None]
        found.append(
            {
                **dict(zip(names, place, strict=True)),
                "attempts": len(rows),
                "deliveries": len({row["delivery_id"] for row in rows}),
                "retries": sum(row["attempt"] > 1 for row in rows),
                "throttled": sum(row["throttled"] for row in rows),
                "call_p50_ms": exact(times, 0.5),
                "call_p95_ms": exact(times, 0.95),
            }
        )
    return sorted(
        found,
        key=lambda row: (
            row["tenant_id"],
            row["channel"],
            -row["attempts"],
            row["class"],
            row["cause"],
            row["reason_code"],
        ),
    )


def unknown(world: World, asked: Asked) -> list[Row]:
    status = {(row["tenant_id"], row["delivery_id"]): row["status"] for row in now(world, asked)}
    calls = [call for call in attempts(world, asked) if call["class"] == "unknown" or call["resent"]]
    names = ("tenant_id", "channel", "account")
    found = []
    for place, rows in grouped(calls, *names).items():
        ends = [status[key] for key in {(row["tenant_id"], row["delivery_id"]) for row in rows}]
        found.append(
            {
                **dict(zip(names, place, strict=True)),
                "unknown": sum(row["class"] == "unknown" for row in rows),
                "resends": sum(row["resent"] for row in rows),
                "deliveries": len(ends),
                "sent": sum(end in SENT for end in ends),
                "ended_unsent": sum(end in UNSENT for end in ends),
                "pending": ends.count("PENDING"),
            }
        )
    return found


def throttle(world: World, asked: Asked) -> list[Row]:
    names = ("tenant_id", "channel", "account")
    found = []
    for place, rows in grouped([call for call in attempts(world, asked) if call["throttled"]], *names).items():
        waits = [max(0, row["retry_at"] - row["occurred_at"]) for row in rows if row["retry_at"] is not None]
        found.append(
            {
                **dict(zip(names, place, strict=True)),
                "throttled": len(rows),
                "deliveries": len({row["delivery_id"] for row in rows}),
                "wait_sum_ms": sum(waits),
                "wait_p95_ms": exact(waits, 0.95),
                "wait_max_ms": max(waits, default=None),
            }
        )
    return sorted(found, key=lambda row: (-row["wait_sum_ms"], row["tenant_id"], row["channel"], row["account"]))
