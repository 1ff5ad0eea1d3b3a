"""The roll-ups of ClickHouse in plain Python, from the transitions, and as ClickHouse has them; slow and obvious."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from clickhouse_connect.driver.client import Client

from schemas.records import SIGNALS, Cause, DeliveryState, Status

LIMITS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 3_600_000, 2**32 - 1)
STATUSES = ("pending", "sent", "delivered", "read", "failed", "expired", "cancelled", "suppressed")
COUNTS = ("accepted", *STATUSES, "attempts", "resends", "throttles")
TIMES = ("accept_to_sent", "sent_to_delivered", "accept_to_delivered", "delivered_to_read")
MINUTE, HOUR = 60_000, 3_600_000
_FIRST, _LAST = 0, 4_102_444_799_999  # minutes and hours are those of 1970 to 2099
_BEYOND_SENT = (Status.SENT, Status.DELIVERED, Status.READ)
_ENDED = (Cause.ACCEPTED, Cause.RETRY_LATER, Cause.EXHAUSTED, Cause.UNKNOWN, Cause.REJECTED)

Key = tuple[str, str, str, int]  # tenant, channel, account, start of the minute or hour in Unix milliseconds


@dataclass
class RollUp:
    """One line: counts, the measured times in milliseconds, and those of deliveries that count for the objective."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    times: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in TIMES})
    sla: list[int] = field(default_factory=list)

    def exact(self) -> dict[str, Any]:
        """What must be equal in ClickHouse, by column."""
        found: dict[str, Any] = dict(self.counts)
        for name, times in self.times.items():
            found[f"{name}_max_ms"] = max(times, default=0)
            found[f"{name}_le_ms"] = _within(times)
        return found | {"sla_sent_le_ms": _within(self.sla)}


def _within(times: Iterable[int]) -> dict[int, int]:
    found: dict[int, int] = defaultdict(int)
    for ms in times:
        found[next(limit for limit in LIMITS if limit >= ms or limit == LIMITS[-1])] += 1
    return dict(found)


def _took(start: int, end: int) -> int:
    return max(0, end - start)


def rolled_up(transitions: Iterable[DeliveryState], step: int) -> dict[Key, RollUp]:
    """The roll-ups of these transitions, each given once, in any order."""
    by_delivery: dict[tuple[str, str], list[DeliveryState]] = defaultdict(list)
    for each in transitions:
        if each.kind not in SIGNALS:
            by_delivery[each.tenant_id, each.delivery_id].append(each)
    found: dict[Key, RollUp] = defaultdict(RollUp)
    for life in by_delivery.values():
        life.sort(key=lambda each: each.version)
        first = life[0]
        at = min(max(first.accepted_at, _FIRST), _LAST)
        line = found[first.tenant_id, first.channel, first.account, at - at % step]
        line.counts["accepted"] += 1
        line.counts[life[-1].status.lower()] += 1
        for each in life:
            _add(line, each)
    return dict(found)


def _add(line: RollUp, each: DeliveryState) -> None:
    line.counts["attempts"] += each.attempt > 0 and each.cause in _ENDED
    line.counts["resends"] += each.cause == Cause.RESENT
    line.counts["throttles"] += each.throttled
    is_confirmed = not each.delivered_implied and each.delivered_at is not None
    if each.previous_status == Status.PENDING and each.status in _BEYOND_SENT and each.sent_at is not None:
        took = _took(each.accepted_at, each.sent_at)
        line.times["accept_to_sent"].append(took)
        if each.not_before is None and each.throttles == 0:
            line.sla.append(took)
    steps_up = each.previous_status in (Status.PENDING, Status.SENT) and each.status in (Status.DELIVERED, Status.READ)
    if is_confirmed and each.delivered_at is not None and steps_up:
        line.times["accept_to_delivered"].append(_took(each.accepted_at, each.delivered_at))
        if each.sent_at is not None:
            line.times["sent_to_delivered"].append(_took(each.sent_at, each.delivered_at))
    is_read = each.previous_status != Status.READ and each.status == Status.READ
    if is_confirmed and each.delivered_at is not None and is_read and each.read_at is not None:
        line.times["delivered_to_read"].append(_took(each.delivered_at, each.read_at))


def in_clickhouse(client: Client, step: int) -> dict[Key, dict[str, Any]]:
    """The roll-ups as ClickHouse has them: the columns of `RollUp.exact`, and for each time its percentiles as `<time>_ms`."""
    unit = "minute" if step == MINUTE else "hour"
    columns = [f"sum({name}) as {name}_" for name in COUNTS]
    for name in TIMES:
        columns.append(f"max({name}_max_ms) as {name}_max_ms_")
        columns.append(f"sumMap({name}_le_ms) as {name}_le_ms_")
        columns.append(f"quantilesTDigestMerge(0.5, 0.95, 0.99)({name}_ms) as {name}_ms_")
    query = (
        f"select tenant_id, channel, account, toUnixTimestamp({unit}) * 1000 as at, {', '.join(columns)},"
        f" sumMap(sla_sent_le_ms) as sla_sent_le_ms_ from deliveries_by_{unit} group by tenant_id, channel, account, {unit}"
    )
    found = {}
    for row in client.query(query).named_results():
        line = {name.removesuffix("_"): value for name, value in row.items() if name.endswith("_")}
        found[row["tenant_id"], row["channel"], row["account"], row["at"]] = line
    return found


def differences(client: Client, transitions: Iterable[DeliveryState]) -> list[str]:
    """What is wrong in ClickHouse: facts, latest states and both roll-ups against these transitions, each of them given once. Empty: all is
    equal."""
    given = [each for each in transitions if each.kind not in SIGNALS]
    wanted = sorted((each.delivery_id, each.version) for each in given)
    stored = sorted(map(tuple, client.query("select delivery_id, version from delivery_events").result_rows))
    wrong = [] if stored == wanted else [f"delivery_events has {len(stored)} rows instead of {len(wanted)}"]
    latest = sorted(map(tuple, client.query("select delivery_id, version from deliveries final").result_rows))
    newest: dict[str, int] = {}
    for name, version in wanted:
        newest[name] = max(version, newest.get(name, 0))
    if latest != sorted(newest.items()):
        wrong.append(f"deliveries has {len(latest)} rows instead of {len(newest)}")
    for step in (MINUTE, HOUR):
        by_hand, found = rolled_up(given, step), in_clickhouse(client, step)
        if set(by_hand) != set(found):
            wrong.append(f"roll-ups of {step} ms: other lines, {len(found)} instead of {len(by_hand)}")
        for key in set(by_hand) & set(found):
            exact = by_hand[key].exact()
            wrong += [
                f"{key} {name}: {found[key][name]} instead of {value}"
                for name, value in exact.items()
                if found[key][name] != value
            ]
    return wrong
