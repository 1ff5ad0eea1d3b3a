"""What the decisions of each stage cost: every message goes the whole way through route, send, match and track, turn by turn."""

from collections import defaultdict
from functools import partial
from inspect import signature
from itertools import islice
from typing import Any

from benchmarks.decide import life
from benchmarks.decide.desks import Desk, Wire
from connectors.registry import CHANNELS
from pipelines import route as routing
from pipelines.engine import stage as engine
from pipelines.engine.stage import Call, Output, Result
from pipelines.route import Route
from pipelines.stages import BUILDERS
from schemas.outcomes import Accepted
from schemas.records import Contact
from schemas.settings import Settings

STAGES = ("route", "send", "match", "track")
TURN_MS = 250
MESSAGES_A_TURN = 100


def measure(count: int) -> dict[str, Any]:
    """Microseconds of CPU a delivery and bytes of changelog a delivery by stage, and digests of what the stages put out."""
    desks = run(count)
    deliveries = desks["route"].counts["deliveries"]
    check(desks, deliveries)
    return {
        "deliveries": deliveries,
        "us": {name: desk.cpu_seconds * 1e6 / deliveries for name, desk in desks.items()},
        "changelog": {name: desk.changelog_bytes / deliveries for name, desk in desks.items()},
        "digests": {name: desk.digest() for name, desk in desks.items()},
    }


def run(count: int) -> dict[str, Desk]:
    """Turns until every message is through: what is put out is read in the same turn by the stages after, else in the next."""
    settings, of = life.settings(), life.scenario(count)
    desks = {name: Desk(BUILDERS[name](settings)) for name in STAGES if name != "route"}
    route, views = _route(settings, life.contacts(of))
    desks = {"route": Desk(route, views), **desks}
    wire, messages = Wire([desk.stage for desk in desks.values()]), life.messages(of)
    calls: list[Call] = []
    later: defaultdict[int, list[Output]] = defaultdict(list)
    turn = made = 0
    while True:
        now = life.START + turn * TURN_MS
        wire.put(islice(messages, MESSAGES_A_TURN), now)
        wire.put(later.pop(turn, []), now)
        if wire.is_empty and not calls and not later:
            return desks
        results = [Result(call, Accepted((life.provider_id(call.request.delivery),))) for call in calls]
        calls = []
        for name, desk in desks.items():
            decision = desk.turn(wire.take(name), results if name == "send" else [], now)
            wire.put(decision.outputs, now)
            calls += decision.calls
        for call in calls:
            made += 1
            for turns, receipt in life.receipts(call, made, now):
                later[turn + 1 + turns].append(receipt)
        turn += 1


def check(desks: dict[str, Desk], deliveries: int) -> None:
    """Every delivery was called once and every receipt moved it: else there is nothing to time."""
    counts = desks["track"].counts
    told = {name: counts[name] for name in ("introduced", "sent", "repeated", "anomaly")}
    if told != {"introduced": deliveries, "sent": deliveries, "repeated": 0, "anomaly": 0}:
        raise SystemExit(f"wrong work, not timed: of {deliveries} deliveries track counts {told}")
    if not counts["read"] > deliveries // 3:
        raise SystemExit(f"wrong work, not timed: {counts['read']} of {deliveries} deliveries were read")


def _route(settings: Settings, contacts: dict[bytes, Contact]) -> tuple[Route, dict[str, Any]]:
    """As pipelines/stages.py builds it, and what it sees of contacts; up to 0.1 it was given them itself."""
    kind: Any = vars(routing)["Channel"]  # of a module of its own since
    channels = {name: kind(channel.account(settings), channel.check) for name, channel in CHANNELS.items()}
    made = partial(Route, partitions=1, dedupe_ms=7 * 86_400_000, channels=channels)
    if "contacts" in signature(Route).parameters:
        return made(contacts=contacts), {}  # type: ignore[call-arg]  # of that time
    return made(), {"contacts": engine.View(contacts)}
