"""Inbound messages through route, send, match and route again: whatever comes twice, late or in another order, and whoever restarts, each
message of a person becomes one message of one conversation, and a person's messages stay in order."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Inbound
from pipelines.engine.stage import Decision, Record, Result
from pipelines.gateway import _inbound
from pipelines.match import Match
from pipelines.match_threads import ThreadLimits
from pipelines.recipients import Reachable
from pipelines.route import Route
from pipelines.send import Send
from pipelines.send_state import SendLimits
from schemas import codec
from schemas.content import Content
from schemas.ids import inbound_conversation_id
from schemas.keys import key_of
from schemas.outcomes import Accepted
from schemas.partitions import home_partition
from schemas.records import Direction, SequencedMessage
from tests.support.builders import NOW, Desk, examples, message, raw, to_address
from tests.support.counting_provider import Provider

PARTITIONS = 2
WAIT = 5000
HOUR = 3_600_000
PEOPLE = ("15550001", "15550002")
CONVERSATIONS = ("c-1", "c-2", "c-3")
LIMITS = SendLimits(concurrency=10, outstanding=1000, attempts=3, hold_ms=1000)
THREADS = ThreadLimits(window_ms=HOUR, wait_ms=WAIT, service_windows={"whatsapp": 24 * HOUR})


def a_stage(name: str) -> Any:
    if name == "route":
        channels = {"whatsapp": Reachable("acc-1", lambda _: None)}
        return Route(partitions=PARTITIONS, dedupe_ms=24 * HOUR, channels=channels)
    if name == "send":
        return Send(connectors={"whatsapp": Provider("whatsapp", "hold")}, limits=LIMITS)
    return Match(partitions=PARTITIONS, binding_ms=24 * HOUR, orphan_ms=HOUR, threads=THREADS)


class World:
    """Kafka and the stages. A topic's partition is read in order; how the sources of a stage mix is up to the test."""

    def __init__(self) -> None:
        self.now = NOW
        self.topics: dict[tuple[str, int], list[Record]] = defaultdict(list)
        names = [(name, partition) for name in ("route", "match", "send") for partition in range(PARTITIONS)]
        self.desks: dict[tuple[str, int], Desk[Any]] = {each: Desk(a_stage(each[0]), each[1]) for each in names}
        self.read: dict[tuple[str, tuple[str, int]], int] = defaultdict(int)
        self.answers: dict[tuple[str, int], list[Result]] = defaultdict(list)

    def produce(self, topic: str, key: bytes, value: bytes | None, partition: int | None = None) -> None:
        place = (topic, home_partition(key, PARTITIONS) if partition is None else partition)
        offset = len(self.topics[place])
        self.topics[place].append(raw(topic, value, key=key, partition=place[1], offset=offset))

    def sources(self, desk: tuple[str, int]) -> Iterator[tuple[tuple[str, int], int]]:
        """Sources of a desk with unread records, each with their number."""
        for source in self.desks[desk].stage.sources:
            place = (source.topic, desk[1])
            left = len(self.topics[place]) - self.read[desk[0], place]
            if left:
                yield place, left

    def busy(self) -> list[tuple[str, int]]:
        return [each for each in self.desks if self.answers[each] or any(self.sources(each))]

    def step(self, desk: tuple[str, int], sizes: dict[tuple[str, int], int], *, fate: str = "commit") -> None:
        """One turn with so many records of each source, which commits or is lost."""
        batch: list[Record] = []
        for place, size in sizes.items():
            start = self.read[desk[0], place]
            batch += self.topics[place][start : start + size]
        at = self.desks[desk]
        decision = at.decide(batch, self.answers[desk], self.now)
        if fate != "commit":
            at.restart(a_stage(desk[0])) if fate == "restart" else at.reopen()
            return
        at.commit()
        for place, size in sizes.items():
            self.read[desk[0], place] += size
        self.answers[desk] = [Result(call, Accepted((f"w-{call.key}",))) for call in decision.calls]
        self.take(decision)

    def take(self, decision: Decision) -> None:
        assert not decision.refusals, decision.refusals
        for output in decision.outputs:
            self.produce(output.topic, output.key, output.value, output.partition)

    def drain(self) -> None:
        while busy := self.busy():
            for desk in busy:
                self.step(desk, dict(self.sources(desk)))

    def logged(self) -> list[SequencedMessage]:
        """The accepted messages of people, each partition in order."""
        found = [
            codec.decode(each.value, SequencedMessage)
            for partition in range(PARTITIONS)
            for each in self.topics["conversation-log", partition]
        ]
        return [each for each in found if each.direction is Direction.INBOUND]


_SENT = st.lists(st.tuples(st.sampled_from(CONVERSATIONS), st.sampled_from(PEOPLE)), max_size=5)
# person, what it answers (a message of ours, an own one, an unknown one, none), and how often the webhook comes
_WROTE = st.lists(
    st.tuples(st.sampled_from(PEOPLE), st.sampled_from(["ours", "ours", "own", "unknown", "none"]), st.integers(1, 3)),
    min_size=1,
    max_size=7,
)


@examples(150)
@given(sent=_SENT, wrote=_WROTE, data=st.data())
def test_one_message_one_conversation_and_the_order_of_each_person(
    sent: list[tuple[str, str]], wrote: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    world = World()
    for number, (conversation, person) in enumerate(sent):
        ours = message(f"m-{number}", conversation_id=conversation, recipients=(to_address(person),))
        world.produce("messages", key_of(ours), codec.encode(ours))
    waited = _play(world, wrote, data)
    logged = world.logged()
    assert len(logged) == len({(each.sender, each.metadata["provider_message_id"]) for each in logged}) == len(wrote)
    for conversation in {each.conversation_id for each in logged}:
        for person in PEOPLE:
            written = [each for each in logged if (each.conversation_id, each.sender) == (conversation, person)]
            numbers = [int(each.metadata["provider_message_id"].removeprefix("in-")) for each in written]
            assert numbers == sorted(numbers), "in the order in which they were written"
    assert not any(desk.changelog.get("held_inbound") for desk in world.desks.values())
    _check_replies(world, sent, waited=waited)
    _check_windows(world, logged)


def _play(world: World, wrote: list[tuple[str, str, int]], data: st.DataObject) -> bool:
    """Posts every webhook, with turns, losses and restarts in between; returns whether time passed before the end."""
    waited = False
    for number, (person, answers, times) in enumerate(wrote):
        for _ in range(times if number else 1):
            _post(world, number, person, answers)
            for repeated in range(data.draw(st.integers(0, number), label="webhooks that come again")):
                _post(world, repeated, *wrote[repeated][:2])
        for _ in range(data.draw(st.integers(0, 4), label="turns")):
            busy = world.busy()
            if not busy:
                break
            desk = data.draw(st.sampled_from(busy), label="desk")
            left = dict(world.sources(desk))
            sizes = {place: data.draw(st.integers(0, most), label=f"of {place}") for place, most in left.items()}
            fate = data.draw(st.sampled_from(["commit", "commit", "commit", "undone", "restart"]), label="fate")
            world.step(desk, sizes, fate=fate)
        if data.draw(st.integers(0, 5), label="time") == 0:
            world.now += WAIT
            waited = True
    world.drain()
    while (due := _next_due(world)) is not None and due <= NOW + 20 * WAIT:
        world.now = max(world.now, due)
        for desk in world.desks:
            world.step(desk, {})
        world.drain()
    return waited


def _next_due(world: World) -> int | None:
    dues = [desk.state.threads.queues.next_due() for (name, _), desk in world.desks.items() if name == "match"]
    return min((due for due in dues if due is not None), default=None)


def _post(world: World, number: int, person: str, answers: str) -> None:
    """One webhook. `ours` answers the first message to the person, which the provider named after its delivery."""
    named = {"ours": _first_to(world, person), "own": f"in-{number - 1}", "unknown": "w-unknown", "none": None}[answers]
    content = Content(reply_to=named) if named else None
    item = Inbound("whatsapp", "acc-1", person, f"in-{number}", "text", f"text {number}", world.now - 50, content)
    record = _inbound(item, world.now)
    world.produce(record.topic, record.key, record.value)


def _first_to(world: World, person: str) -> str | None:
    """The provider's id of the first accepted message to the person."""
    for partition in range(PARTITIONS):
        for each in world.topics["conversation-log", partition]:
            for ref in codec.decode(each.value, SequencedMessage).deliveries:
                if ref.address == person:
                    return f"w-{ref.delivery_id}"
    return None


def _check_replies(world: World, sent: list[tuple[str, str]], *, waited: bool) -> None:
    """A reply to a message of ours is in its conversation, unless it had to give up waiting."""
    own = {person: inbound_conversation_id("whatsapp", "acc-1", person) for person in PEOPLE}
    for each in world.logged():
        possible = {conversation for conversation, person in sent if person == each.sender} | {own[each.sender]}
        assert each.conversation_id in possible
        answered = each.metadata.get("reply_to_message_id", "")
        if answered.startswith("m-"):
            assert each.conversation_id == sent[int(answered.removeprefix("m-"))][0]
        if each.content is not None and (each.content.reply_to or "").startswith("w-") and not waited:
            assert answered or each.content.reply_to == "w-unknown"


def _check_windows(world: World, logged: list[SequencedMessage]) -> None:
    """The home partition of each answered conversation knows the window of the person's latest message."""
    for each in logged:
        latest = max(int(other.metadata["at"]) for other in logged if other.sender == each.sender)
        send = world.desks["send", each.home_partition]
        assert send.state.windows.open_until("whatsapp", "acc-1", each.sender, world.now) == latest + 24 * HOUR
