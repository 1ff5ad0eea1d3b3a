"""Rows for the reports: two tenants, four channels, and every way a delivery can go. The same seed gives the same rows.

Leaves: a World of rows as plain dicts, times in Unix milliseconds; `insert` puts them into a migrated ClickHouse database.
"""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

Row = dict[str, Any]

BASE = 1_793_577_600_000  # 2026-11-02 00:00 UTC, a Monday
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
TENANTS = ("acme", "o'brien")
CHANNELS = ("whatsapp", "telegram", "instagram", "internal")
_MAYBE = (
    "dispatched_at",
    "sent_at",
    "delivered_at",
    "read_at",
    "failed_at",
    "stalled_at",
    "retry_at",
    "not_before",
    "ready_at",
    "first_dispatched_at",
)


@dataclass
class World:
    """The rows of each relation that reports read."""

    events: list[Row] = field(default_factory=list)  # delivery_events: every transition
    accepted: list[Row] = field(default_factory=list)  # accepted_deliveries
    inbound: list[Row] = field(default_factory=list)  # inbound_events
    dead_letters: list[Row] = field(default_factory=list)  # dead_letter_events; some twice

    def insert(self, client: Client, chance: random.Random, blocks: int = 3) -> None:
        """In several blocks and any order, as the sinks might."""
        for relation, rows in (
            ("delivery_events", chance.sample(self.events, len(self.events))),
            ("accepted_deliveries", self.accepted),
            ("inbound_events", self.inbound),
            ("dead_letter_events", self.dead_letters),
        ):
            cut = len(rows) // blocks + 1
            for n in range(0, len(rows), cut):
                _insert(client, relation, rows[n : n + cut])


def _insert(client: Client, relation: str, rows: list[Row]) -> None:
    if rows:
        names = list(rows[0])
        client.insert(relation, [[_stored(name, row[name]) for name in names] for row in rows], column_names=names)


def _stored(name: str, value: Any) -> Any:
    is_time = name.endswith("_at") or name == "not_before"
    return datetime.fromtimestamp(value / 1000, UTC) if is_time and value is not None else value


class Life:
    """One delivery while its transitions are made."""

    def __init__(self, world: World, created: Row) -> None:
        self._world = world
        self.state: Row = {
            **created,
            "version": 0,
            "status": "PENDING",
            "requested_at": created["accepted_at"] - 7,
            **dict.fromkeys(_MAYBE),
            "delivered_implied": False,
            "attempts": 0,
            "resends": 0,
            "throttles": 0,
            "home_partition": 0,
        }

    def goes(
        self,
        status: str,
        cause: str,
        at: int,
        *,
        attempt: int = 0,
        throttled: bool = False,
        reason: str = "",
        **kept: Any,
    ) -> None:
        """The next transition; `kept` are columns of the delivery that change and stay."""
        self.state = {
            **self.state,
            "stalled_at": None,
            "retry_at": None,
            **kept,
            "previous_status": self.state["status"],
            "status": status,
            "version": self.state["version"] + 1,
        }
        event = {
            "cause": cause,
            "occurred_at": at,
            "observed_at": at + 3,
            "attempt": attempt,
            "throttled": throttled,
            "reason_code": reason,
        }
        self._world.events.append({**self.state, **event})


def seeded(seed: int, deliveries: int = 400) -> World:
    """A world of `deliveries` deliveries over four days, with what people wrote and with dead letters."""
    chance = random.Random(seed)  # noqa: S311  # a reproducible choice, no secret
    world = World()
    minutes = [BASE + chance.randrange(4 * DAY) // MINUTE * MINUTE for _ in range(40)]
    times = [chance.choice(minutes) + chance.randrange(MINUTE) for _ in range(deliveries - 4)]
    times += [BASE + DAY - 1, BASE + DAY, BASE + 2 * DAY - 1, BASE + 2 * DAY]  # at the bounds that the tests use
    seq = dict[tuple[str, str], int]()
    for n, at in enumerate(sorted(times)):
        tenant = chance.choice(TENANTS)
        conversation = f"c{chance.randrange(25)}"
        place = {"tenant_id": tenant, "conversation_id": conversation, "channel": chance.choice(CHANNELS)}
        place["account"] = f"{place['channel']}-{chance.randint(1, 2)}"
        seq[tenant, conversation] = seq.get((tenant, conversation), 0) + 1
        number = seq[tenant, conversation]
        if chance.random() < 0.15:
            world.inbound.append(
                {
                    **place,
                    "message_id": f"in{n}",
                    "home_partition": 0,
                    "seq": number,
                    "kind": "text",
                    "received_at": at - 20,
                    "accepted_at": at,
                    "batch": 1,
                }
            )
        else:
            _accept(world, chance, {**place, "seq": number, "accepted_at": at}, n)
    _dead_letters(world, chance)
    return world


def _accept(world: World, chance: random.Random, place: Row, n: int) -> None:
    """One message with one or two deliveries."""
    for part in range(chance.choice((1, 1, 1, 2))):
        scheduled = place["accepted_at"] + chance.randrange(HOUR) if chance.random() < 0.15 else None
        before = [row["delivery_id"] for row in world.accepted if row["tenant_id"] == place["tenant_id"]]
        first = chance.choice(before) if before and chance.random() < 0.06 else ""
        created = {**place, "delivery_id": f"d{n}.{part}", "message_id": f"m{n}", "kind": "text", "fallback_of": first}
        campaign = chance.choice(("", "", "spring", "o'clock"))
        world.accepted.append(
            {**created, "home_partition": 0, "campaign": campaign, "not_before": scheduled, "batch": 1}
        )
        if chance.random() < 0.97:  # the rest has not come to the facts
            life = Life(world, {**created, "anomaly": ""})
            life.goes("PENDING", "CREATED", place["accepted_at"], not_before=scheduled)
            _live(life, chance)


def _live(life: Life, chance: random.Random) -> None:
    start = max(life.state["accepted_at"], life.state["not_before"] or 0)
    way = chance.random()
    if way < 0.08:
        life.goes(
            "SUPPRESSED", "REJECTED", start + 1, reason=chance.choice(("opt_out", "blocked")), failed_at=start + 1
        )
    elif way < 0.12:
        life.goes(chance.choice(("EXPIRED", "CANCELLED")), "EXPIRED", start + 500, failed_at=start + 500)
    elif way > 0.16 and _attempts(life, chance, start):  # else nothing was called yet
        _receipts(life, chance)


def _attempts(life: Life, chance: random.Random, start: int) -> bool:
    """The calls, the last of which may send it. Whether it was sent."""
    ready = start + chance.choice((0, 5, 40, 900))
    if chance.random() < 0.1:
        life.state["ready_at"] = None  # a row of an older version
    else:
        life.state["ready_at"] = ready - (chance.choice((0, 0, 2000)))  # also before the acceptance
    at = ready + chance.choice((0, 1, 30, 300))
    tries = chance.choice((1, 1, 1, 1, 2, 3))
    for n in range(1, tries + 1):
        end = at + chance.choice((20, 80, 150, 900, 2600)) - (chance.random() < 0.03) * 5000
        call: Row = {"dispatched_at": at, "first_dispatched_at": life.state["first_dispatched_at"] or at, "attempts": n}
        if n < tries:
            at = _failed_attempt(life, chance, n, end, call)
        elif chance.random() < 0.1:
            cause = chance.choice(("REJECTED", "EXHAUSTED"))
            life.goes("FAILED", cause, end, attempt=n, reason="131026", failed_at=end, **call)
            if chance.random() < 0.3:  # it had arrived after all
                life.goes("DELIVERED", "RECEIPT", end + 50, sent_at=end + 10, delivered_at=end + 50)
            return False
        elif chance.random() < 0.05:
            life.goes("PENDING", "UNKNOWN", end, attempt=n, **call)
            return False
        elif chance.random() < 0.05:  # overtaken by the receipt
            life.goes("DELIVERED", "RECEIPT", end, delivered_at=end, **call)
            return False
        else:
            life.goes("SENT", "ACCEPTED", end, attempt=n, sent_at=end, **call)
    return True


def _failed_attempt(life: Life, chance: random.Random, n: int, end: int, call: Row) -> int:
    """An attempt that is followed by another one. When that one starts."""
    kind = chance.choice(("throttled", "later", "unknown"))
    again = end + chance.choice((200, 1500)) - (chance.random() < 0.1) * 3000
    if kind == "throttled":
        throttles = life.state["throttles"] + 1
        no_time = chance.random() < 0.1
        life.goes(
            "PENDING",
            "RETRY_LATER",
            end,
            attempt=n,
            throttled=True,
            reason="130429",
            throttles=throttles,
            retry_at=None if no_time else again,
            **call,
        )
    elif kind == "later":
        life.goes("PENDING", "RETRY_LATER", end, attempt=n, reason="500", retry_at=again, **call)
    else:
        life.goes("PENDING", "UNKNOWN", end, attempt=n, **call)
        life.goes("PENDING", "RESENT", end + 5, attempt=n, resends=life.state["resends"] + 1)
    return max(again, end)


def _receipts(life: Life, chance: random.Random) -> None:
    sent, channel, way = life.state["sent_at"], life.state["channel"], chance.random()
    if way < 0.1:
        life.goes("SENT", "STALLED", sent + HOUR, stalled_at=sent + HOUR)
    elif way < 0.15:
        life.goes("FAILED", "RECEIPT", sent + 700, reason="131047", failed_at=sent + 700)
    elif channel in {"telegram", "instagram"}:
        if way > (0.5 if channel == "instagram" else 0.95):
            life.goes(
                "READ", "RECEIPT", sent + 800, delivered_at=sent + 800, read_at=sent + 800, delivered_implied=True
            )
    elif way > 0.25:
        delivered = sent + chance.choice((90, 400, 5000, -700))  # a provider's clock of whole seconds
        life.goes("DELIVERED", "RECEIPT", max(sent, delivered), delivered_at=delivered)
        if way > 0.4:
            read = delivered + chance.choice((500, 60_000, -100))
            life.goes("READ", "RECEIPT", read, read_at=read)
        if way > 0.9:
            life.goes(life.state["status"], "RECEIPT", sent + 9000)  # a receipt again


def _dead_letters(world: World, chance: random.Random) -> None:
    for n in range(60):
        cause = chance.choice(("orphan_receipt", "orphan_receipt", "not_avro", "too_large"))
        letter = {
            "tenant_id": chance.choice((*TENANTS, "")),
            "dead_letter_id": f"l{n}",
            "stage": "match" if cause == "orphan_receipt" else chance.choice(("route", "track")),
            "cause": cause,
            "source_topic": "receipts" if cause == "orphan_receipt" else "messages",
            "channel": chance.choice(CHANNELS) if cause == "orphan_receipt" else "",
            "source_partition": 0,
            "source_offset": n,
            "refused_at": BASE + chance.randrange(4 * DAY),
            "value_bytes": chance.randrange(500),
        }
        world.dead_letters += [letter] * chance.choice((1, 1, 2))
