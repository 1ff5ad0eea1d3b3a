"""Three days of an ordinary service, for the examples of docs/reports.md. The same rows every time.

Leaves: a World (tests/support/report_seed.py): more to do by day than by night, few failures, one slow hour of a provider, one account that
runs into its limit, a campaign.
"""

import math
import random

from tests.support.report_seed import BASE, DAY, HOUR, MINUTE, Life, Row, World

CHANNELS = ("whatsapp",) * 5 + ("telegram",) * 2 + ("instagram", "internal", "internal")
DAYS = 3
SLOW = BASE + DAY + 15 * HOUR  # an hour in which WhatsApp's API is slow


def example(deliveries: int = 3000) -> World:
    """The rows."""
    chance = random.Random(14)  # noqa: S311  # a reproducible choice, no secret
    world = World()
    times = sorted(_time(chance) for _ in range(deliveries))
    seq = dict[str, int]()
    for n, at in enumerate(times):
        channel = chance.choice(CHANNELS)
        conversation = f"c-{chance.randrange(400)}"
        seq[conversation] = seq.get(conversation, 0) + 1
        place = {
            "tenant_id": "shop",
            "conversation_id": conversation,
            "channel": channel,
            "account": f"{channel}-{chance.randint(1, 2)}",
        }
        if chance.random() < 0.12:
            world.inbound.append(
                {
                    **place,
                    "message_id": f"in-{n}",
                    "home_partition": 0,
                    "seq": seq[conversation],
                    "kind": "text",
                    "received_at": at - 20,
                    "accepted_at": at,
                    "batch": 1,
                }
            )
        else:
            _delivery(world, chance, {**place, "seq": seq[conversation], "accepted_at": at}, n)
    for n in range(14):
        orphan = n < 9
        world.dead_letters.append(
            {
                "tenant_id": "shop",
                "dead_letter_id": f"l{n}",
                "stage": "match" if orphan else "route",
                "cause": "orphan_receipt" if orphan else "invalid_message",
                "source_topic": "receipts" if orphan else "messages",
                "channel": "whatsapp" if orphan else "",
                "source_partition": 0,
                "source_offset": n,
                "refused_at": BASE + chance.randrange(DAYS * DAY),
                "value_bytes": 200 + chance.randrange(200),
            }
        )
    return world


def _time(chance: random.Random) -> int:
    """Most at noon, few at night."""
    while True:
        hour = chance.uniform(0, 24)
        if chance.random() < 0.05 + 0.95 * max(0.0, math.sin((hour - 6) / 16 * math.pi)):
            return BASE + chance.randrange(DAYS) * DAY + round(hour * HOUR)


def _delivery(world: World, chance: random.Random, place: Row, n: int) -> None:
    scheduled = place["accepted_at"] + chance.randint(5, 50) * MINUTE if chance.random() < 0.004 else None
    created = {**place, "delivery_id": f"d-{n}", "message_id": f"m-{n}", "kind": "text", "fallback_of": ""}
    campaign = "november" if place["channel"] == "whatsapp" and chance.random() < 0.2 else ""
    world.accepted.append({**created, "home_partition": 0, "campaign": campaign, "not_before": scheduled, "batch": 1})
    if n in {2990, 2994}:
        return  # not in the facts yet: the sinks read the two topics one after the other
    life = Life(world, {**created, "anomaly": ""})
    life.goes("PENDING", "CREATED", place["accepted_at"], not_before=scheduled)
    start = scheduled or place["accepted_at"]
    if chance.random() < 0.012:
        life.goes("SUPPRESSED", "REJECTED", start + 2, reason="opted_out", failed_at=start + 2)
        return
    waiting = round(chance.lognormvariate(1.5, 1)) if chance.random() < 0.9 else round(chance.lognormvariate(5, 1))
    life.state["ready_at"] = start + waiting
    if _sent(life, chance, start + waiting + round(chance.lognormvariate(1, 0.8))):
        _receipts(life, chance)


def _sent(life: Life, chance: random.Random, at: int) -> bool:
    """The calls. Whether the last one sent it."""
    first = at
    is_slow = life.state["channel"] == "whatsapp" and SLOW <= life.state["accepted_at"] < SLOW + HOUR
    limited = life.state["account"] == "whatsapp-2" and chance.random() < 0.05
    again = limited or chance.random() < 0.012
    for n in (1, 2):
        end = at + round(chance.lognormvariate(7.2 if is_slow else 4.6, 0.45))
        call: Row = {"dispatched_at": at, "first_dispatched_at": first, "attempts": n}
        if n == 1 and again and limited:
            life.goes(
                "PENDING",
                "RETRY_LATER",
                end,
                attempt=1,
                throttled=True,
                reason="130429",
                throttles=1,
                retry_at=end + 1500,
                **call,
            )
            at = end + 1500
        elif n == 1 and again and chance.random() < 0.3:
            life.goes("PENDING", "UNKNOWN", end + 5000, attempt=1, **call)
            life.goes("PENDING", "RESENT", end + 5010, attempt=1, resends=1)
            at = end + 5010
        elif n == 1 and again:
            life.goes("PENDING", "RETRY_LATER", end, attempt=1, reason="http_503", retry_at=end + 400, **call)
            at = end + 400
        elif chance.random() < 0.015:
            life.goes("FAILED", "REJECTED", end, attempt=n, reason="131026", failed_at=end, **call)
            return False
        else:
            life.goes("SENT", "ACCEPTED", end, attempt=n, sent_at=end, **call)
            return True
    return False


def _receipts(life: Life, chance: random.Random) -> None:
    sent, channel = life.state["sent_at"], life.state["channel"]
    if channel == "telegram":
        return
    if chance.random() < 0.02:
        life.goes("SENT", "STALLED", sent + DAY, stalled_at=sent + DAY)
        return
    delivered = sent + round(chance.lognormvariate(6.5, 0.9))
    read = delivered + round(chance.lognormvariate(10.5, 1.3))
    is_read = chance.random() < 0.7
    if channel == "instagram":
        if is_read:
            life.goes("READ", "RECEIPT", read, delivered_at=read, read_at=read, delivered_implied=True)
        return
    life.goes("DELIVERED", "RECEIPT", delivered, delivered_at=delivered)
    if is_read:
        life.goes("READ", "RECEIPT", read, read_at=read)
