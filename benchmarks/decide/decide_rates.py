"""The CPU of each stage's decisions: every message goes through route, send, match and track, end to end, turn by turn."""

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
from pipelines.stages import BUILDERS, WORKERS
from schemas.outcomes import Accepted
from schemas.records import Contact
from schemas.settings import Settings

STAGES = tuple(name for name in BUILDERS if name in WORKERS["core"])
TURN_MS = 250
MESSAGES_A_TURN = 100


def measure(count: int) -> dict[str, Any]:
    """Microseconds of CPU and bytes of changelog a delivery, by stage, and digests of the stages' outputs. Ends the process when the work
    was wrong."""
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
    """Turns until every message is through all stages. A later stage reads an output in the same turn, an earlier one in the next."""
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
    """Ends the process unless every delivery was called once and no receipt was repeated or an anomaly."""
    counts = desks["track"].counts
    counted = {name: counts[name] for name in ("introduced", "sent", "repeated", "anomaly")}
    if counted != {"introduced": deliveries, "sent": deliveries, "repeated": 0, "anomaly": 0}:
        raise SystemExit(f"wrong work, not timed: of {deliveries} deliveries track counts {counted}")
    if not counts["read"] > deliveries // 3:
        raise SystemExit(f"wrong work, not timed: {counts['read']} of {deliveries} deliveries were read")


def _route(settings: Settings, contacts: dict[bytes, Contact]) -> tuple[Route, dict[str, Any]]:
    """The stage as pipelines/stages.py builds it, and its view of contacts. Commits up to 0.1 gave contacts to the constructor."""
    kind: Any = vars(routing).get("Reachable") or vars(routing)["Channel"]  # its name at older commits
    channels = {name: kind(channel.account(settings), channel.check) for name, channel in CHANNELS.items()}
    made = partial(Route, partitions=1, dedupe_ms=7 * 86_400_000, channels=channels)
    if "contacts" in signature(Route).parameters:
        return made(contacts=contacts), {}  # type: ignore[call-arg]  # of that time
    return made(), {"contacts": engine.View(contacts)}
