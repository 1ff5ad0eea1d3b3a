"""The rest of tests/support/report_reference.py: the reports of fallbacks, receipts, campaigns, answers and balances. ALL has every one."""

from collections.abc import Callable, Mapping

from connectors.registry import OBSERVED
from tests.support import report_reference as first
from tests.support.report_reference import ARRIVED, SENT, Asked, about, exact, grouped, now, rolled, share, within
from tests.support.report_seed import DAY, HOUR, MINUTE, Row, World


def fallback(world: World, asked: Asked) -> list[Row]:
    earlier = now(world, Asked(asked.since - 31 * DAY, asked.until, asked.tenant))
    replaced = {(row["tenant_id"], row["delivery_id"]): row for row in earlier}
    nothing = {"channel": "", "status": ""}
    pairs = []
    for row in now(world, asked):
        if row["fallback_of"]:
            before = replaced.get((row["tenant_id"], row["fallback_of"]), nothing)
            pairs.append({**row, "first_channel": before["channel"], "first_status": before["status"]})
    found = []
    for (tenant, before, channel), rows in grouped(pairs, "tenant_id", "first_channel", "channel").items():
        statuses = [row["first_status"] for row in rows]
        found.append(
            {
                "tenant_id": tenant,
                "first_channel": before,
                "channel": channel,
                "fallbacks": len(rows),
                "first_failed": sum(status in {"FAILED", "EXPIRED"} for status in statuses),
                "first_arrived": sum(status in ARRIVED for status in statuses),
                "sent": within(rows, *SENT),
                "delivered": within(rows, *ARRIVED),
                "sent_share": share(within(rows, *SENT), len(rows)),
                "delivered_share": share(within(rows, *ARRIVED), len(rows)),
            }
        )
    return found


def suppressed(world: World, asked: Asked) -> list[Row]:
    found = []
    for (tenant, channel, account), rows in grouped(now(world, asked), "tenant_id", "channel", "account").items():
        unwanted = grouped([row for row in rows if row["status"] == "SUPPRESSED"], "reason_code")
        for (reason,), each in sorted(unwanted.items(), key=lambda item: (-len(item[1]), item[0])):
            found.append(
                {
                    "tenant_id": tenant,
                    "channel": channel,
                    "account": account,
                    "reason_code": reason,
                    "suppressed": len(each),
                    "conversations": len({row["conversation_id"] for row in each}),
                    "accepted": len(rows),
                    "suppressed_share": share(len(each), len(rows)),
                }
            )
    return found


def coverage(world: World, asked: Asked) -> list[Row]:
    found = []
    sent = [row for row in now(world, asked) if row["status"] in SENT]
    for (tenant, channel), rows in grouped(sent, "tenant_id", "channel").items():
        observed = OBSERVED[channel]
        unconfirmed = within(rows, "SENT")
        never = 0 if observed.delivered or observed.read else unconfirmed
        arrived = [row for row in rows if row["status"] in ARRIVED]
        found.append(
            {
                "tenant_id": tenant,
                "channel": channel,
                "reports_delivered": observed.delivered,
                "reports_read": observed.read,
                "sent": len(rows),
                "delivered": sum(not row["delivered_implied"] for row in arrived),
                "implied": sum(row["delivered_implied"] for row in arrived),
                "read": within(rows, "READ"),
                "unconfirmed": unconfirmed,
                "never_confirmable": never,
                "missing": unconfirmed - never,
                "confirmed_share": share(len(rows) - unconfirmed, len(rows)),
            }
        )
    return found


def _letters(world: World) -> list[Row]:
    return list({row["dead_letter_id"]: row for row in world.dead_letters}.values())


def orphans(world: World, asked: Asked) -> list[Row]:
    rows = [
        {**row, "account": "", "what": "orphan receipt", "at": row["refused_at"]}
        for row in _letters(world)
        if row["cause"] == "orphan_receipt" and not asked.account and asked.has(row, row["refused_at"], no_account=True)
    ]
    rows += [
        {**row, "what": "stalled delivery", "at": row["stalled_at"]}
        for row in now(world, asked)
        if row["stalled_at"] is not None
    ]
    names = ("tenant_id", "channel", "account", "what")
    found = [
        {
            **dict(zip(names, place, strict=True)),
            "number": len(each),
            "first_at": min(row["at"] for row in each),
            "last_at": max(row["at"] for row in each),
        }
        for place, each in grouped(rows, *names).items()
    ]
    return sorted(
        found, key=lambda row: (row["what"], -row["number"], row["tenant_id"], row["channel"], row["account"])
    )


def dead_letters(world: World, asked: Asked) -> list[Row]:
    names = ("tenant_id", "channel", "stage", "cause", "source_topic")
    rows = [row for row in _letters(world) if asked.has(row, row["refused_at"], no_account=True)]
    found = [
        {
            **dict(zip(names, place, strict=True)),
            "number": len(each),
            "value_bytes": sum(row["value_bytes"] for row in each),
            "first_at": min(row["refused_at"] for row in each),
            "last_at": max(row["refused_at"] for row in each),
        }
        for place, each in grouped(rows, *names).items()
    ]
    return sorted(found, key=lambda row: -row["number"])


def heatmap(world: World, asked: Asked) -> list[Row]:
    rows = rolled(world, asked, HOUR)
    for row in rows:  # 1970-01-01 was a Thursday
        row |= {"weekday": (row["accepted_at"] // DAY + 3) % 7 + 1, "hour_of_day": row["accepted_at"] % DAY // HOUR}
    found = []
    for (weekday, hour), each in grouped(rows, "weekday", "hour_of_day").items():
        times = [row["steps"]["accepted to sent"] for row in each if "accepted to sent" in row["steps"]]
        found.append(
            {
                "weekday": weekday,
                "hour_of_day": hour,
                "accepted": len(each),
                "failure_share": share(within(each, "FAILED", "EXPIRED"), len(each)),
                "accept_to_sent_p95_ms": about(times, 0.95),
            }
        )
    return found


def campaigns(world: World, asked: Asked) -> list[Row]:
    status = {(row["tenant_id"], row["delivery_id"]): row["status"] for row in now(world, asked)}
    rows = [
        {**row, "status": status.get((row["tenant_id"], row["delivery_id"]), "PENDING")}
        for row in world.accepted
        if row["campaign"] and asked.label in {"", row["campaign"]} and asked.has(row, row["accepted_at"])
    ]
    found = []
    for (tenant, campaign, channel), each in grouped(rows, "tenant_id", "campaign", "channel").items():
        found.append(
            {
                "tenant_id": tenant,
                "campaign": campaign,
                "channel": channel,
                "accepted": len(each),
                "first_at": min(row["accepted_at"] for row in each),
                "last_at": max(row["accepted_at"] for row in each),
                "pending": within(each, "PENDING"),
                "sent": within(each, *SENT),
                "delivered": within(each, *ARRIVED),
                "read": within(each, "READ"),
                "failed": within(each, "FAILED", "EXPIRED"),
                "suppressed": within(each, "SUPPRESSED", "CANCELLED"),
                "delivered_share": share(within(each, *ARRIVED), len(each)),
                "read_share": share(within(each, "READ"), len(each)),
            }
        )
    return found


def responses(world: World, asked: Asked) -> list[Row]:
    rows = []
    for said in world.inbound:
        if asked.has(said, said["accepted_at"]):
            answers = [
                row
                for row in world.accepted
                if (row["tenant_id"], row["conversation_id"]) == (said["tenant_id"], said["conversation_id"])
                and row["seq"] > said["seq"]
            ]
            answer = min(answers, key=lambda row: row["seq"], default=None)
            rows.append(
                {**said, "waited": None if answer is None else max(0, answer["accepted_at"] - said["accepted_at"])}
            )
    found = []
    for (tenant, channel), each in grouped(rows, "tenant_id", "channel").items():
        waits = [row["waited"] for row in each if row["waited"] is not None]
        found.append(
            {
                "tenant_id": tenant,
                "channel": channel,
                "inbound": len(each),
                "answered": len(waits),
                "unanswered": len(each) - len(waits),
                "answered_share": share(len(waits), len(each)),
                "response_p50_ms": exact(waits, 0.5),
                "response_p95_ms": exact(waits, 0.95),
                "response_max_ms": max(waits, default=None),
            }
        )
    return found


def _balance(world: World, asked: Asked) -> list[Row]:
    minutes: dict[tuple[str, str, int], list[int]] = {}
    everything = Asked(0, 2**53)
    for n, rows in enumerate((world.accepted, now(world, everything))):
        for row in rows:
            minute = row["accepted_at"] // MINUTE * MINUTE
            if asked.has(row, minute, no_account=True):
                balance = minutes.setdefault((row["tenant_id"], row["channel"], minute), [0, 0, 0])
                balance[0 if n == 0 else 2 if row["status"] == "PENDING" else 1] += 1
    return [
        {
            "tenant_id": tenant,
            "channel": channel,
            "minute": minute,
            "accepted": accepted,
            "ended": ended,
            "in_flight": pending,
            "difference": accepted - ended - pending,
        }
        for (tenant, channel, minute), (accepted, ended, pending) in sorted(minutes.items())
    ]


def audit(world: World, asked: Asked) -> list[Row]:
    found = []
    for (tenant, channel), rows in grouped(_balance(world, asked), "tenant_id", "channel").items():
        row = {"tenant_id": tenant, "channel": channel}
        row |= {name: sum(each[name] for each in rows) for name in ("accepted", "ended", "in_flight", "difference")}
        found.append(
            {**row, "minutes": len(rows), "minutes_that_differ": sum(each["difference"] != 0 for each in rows)}
        )
    return found


def audit_minutes(world: World, asked: Asked) -> list[Row]:
    differ = [row for row in _balance(world, asked) if row["difference"]]
    return sorted(differ, key=lambda row: -abs(row["difference"]))[: asked.worst_n]


ALL: Mapping[str, Callable[[World, Asked], list[Row]]] = {
    "delivery": first.delivery,
    "delivery_by_hour": first.delivery_by_hour,
    "latency": first.latency_of(),
    "latency_by_hour": first.latency_of("hour", grain=HOUR),
    "latency_by_account": first.latency_of("account"),
    "funnel": first.funnel,
    "sla": first.sla,
    "breaches": first.breaches,
    "waterfall": first.waterfall,
    "burn": first.burn,
    "retries": first.retries,
    "unknown": first.unknown,
    "fallback": fallback,
    "throttle": first.throttle,
    "suppressed": suppressed,
    "coverage": coverage,
    "orphans": orphans,
    "heatmap": heatmap,
    "campaigns": campaigns,
    "responses": responses,
    "audit": audit,
    "audit_minutes": audit_minutes,
    "dead_letters": dead_letters,
}
