"""A world of people, providers and Kafka around core, from one seed: messages, receipts in any order, repeated, late and lost, replies,
reports of clients, turns of any size that are kept or lost, and workers that start again. Two partitions, one worker each.

In: a seed. Out: what track learned, as facts, and what it published, watched. Guaranteed: the same seed is the same run; the order of
each topic, partition and key is kept; everything that is not lost has arrived at the end.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pipelines.engine.batch_queue import Batch
from pipelines.engine.chain import Chain, State
from pipelines.engine.stage import Call, Decision, Inputs, Output, Record, Result, Room, View
from pipelines.engine.unread_sources import UnreadSources
from pipelines.match import Match
from pipelines.receipts import by_tracker
from pipelines.recipients import Reachable
from pipelines.route import Route
from pipelines.send import Send
from pipelines.send_state import SendLimits
from pipelines.stages import INNER, OUTSIDE
from pipelines.track import Track
from pipelines.track_state import State as TrackState
from schemas import codec, ids, tracker
from schemas.accounts import accounts_in
from schemas.keys import key_of, provider_message_key
from schemas.outcomes import Accepted, Rejected, RetryLater, Unknown
from schemas.partitions import home_partition
from schemas.records import (
    CHANNELS,
    SIGNALS,
    Binding,
    Cause,
    CursorReport,
    Delivery,
    Direction,
    Message,
    Receipt,
    ReceiptStatus,
    Recipient,
    SequencedMessage,
    Status,
    StatusUpdate,
)
from tests.support.builders import NOW, OBSERVED, TRACKER_KEYS, Desk, conversation_at_home, passed
from tests.support.counting_provider import Provider
from tests.support.receipt_facts import Fact, Made, Replied, Reported, Said
from tests.support.receipt_watch import Watch

PARTITIONS = 2
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
STALLED_MS = {"whatsapp": HOUR, "internal": 2 * HOUR, "instagram": 6 * HOUR}
POLICIES = {"whatsapp": "hold", "instagram": "hold", "telegram": "resend", "internal": "resend"}
OWNED = accounts_in(",".join(f"{name}:{name}-acme=acme,{name}:{name}-2=default" for name in CHANNELS))
INBOUND = next(source.topic for source in Route.sources if source.topic.endswith("inbound"))
# What a provider may say of a message it took.
SAYS = {
    "whatsapp": (ReceiptStatus.SENT, ReceiptStatus.DELIVERED, ReceiptStatus.READ, ReceiptStatus.FAILED),
    "instagram": (ReceiptStatus.READ, ReceiptStatus.READ, ReceiptStatus.FAILED),
    "telegram": (ReceiptStatus.FAILED,),
    "internal": (ReceiptStatus.DELIVERED, ReceiptStatus.READ, ReceiptStatus.FAILED),
}
LIKELY = {ReceiptStatus.FAILED: 0.04, ReceiptStatus.READ: 0.5}
LATEST = 8 * HOUR  # how far ahead a message may be scheduled
CALLS = 40  # in flight in one partition
Of = tuple[str, str]  # tenant and conversation


class Observing(Track):
    """Stage track; keeps the records of its last decision for the world."""

    taken: Sequence[Record] = ()

    def decide(self, inputs: Inputs, state: TrackState, now: int) -> Decision:
        self.taken = inputs.records
        return super().decide(inputs, state, now)


class Person(NamedTuple):
    """A member of a conversation; `user_id` is None if messages name the address."""

    channel: str
    address: str
    account: str
    user_id: str | None

    @property
    def recipient(self) -> Recipient:
        return Recipient(channel=self.channel, address=self.address, user_id=self.user_id, account=self.account)


@dataclass
class Talk:
    """A conversation."""

    tenant: str
    name: str
    home: int
    people: list[Person]
    messages: int = 0
    left: int = 0  # messages still to come
    fillers: int = 0  # messages of somebody to whom nothing is delivered, still to come


@dataclass
class Worker:
    """One partition with its worker, and how far it has read the topics."""

    partition: int
    desk: Desk[State]
    track: Observing
    fetched: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    positions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    calls: list[Call] = field(default_factory=list)
    unread: UnreadSources = field(default_factory=UnreadSources)
    starts: int = 0


def core() -> tuple[Chain, Observing]:
    """Core as stages.py chains it, with providers that answer as the world says."""
    track = Observing(state_ms=400 * DAY, observed=OBSERVED, stalled_ms=STALLED_MS)
    limits = SendLimits(concurrency=CALLS, outstanding=300, attempts=3, hold_ms=20 * MINUTE, account=CALLS)
    stages = (
        Route(
            partitions=PARTITIONS,
            dedupe_ms=400 * DAY,
            channels={name: Reachable(f"{name}-1", lambda _: None) for name in CHANNELS},
            accounts=OWNED,
        ),
        Match(partitions=PARTITIONS, binding_ms=400 * DAY, orphan_ms=300 * DAY, tracker_keys=TRACKER_KEYS),
        Send(connectors={name: Provider(name, POLICIES[name]) for name in CHANNELS}, limits=limits),
        track,
    )
    rest = {"poison_limit": 0, "linger_ms": 0, "turn_records": 100}
    return Chain(name="core", stages=stages, inner=INNER, outside=OUTSIDE, **rest), track


class World:
    """One run. `tick` lets a little time pass; `finish` lets everything arrive."""

    def __init__(self, seed: int, *, talks: Sequence[Talk]) -> None:
        self.random = random.Random(seed)  # noqa: S311  # a reproducible run, no secret
        self.now = NOW
        self.talks = list(talks)
        self.kafka: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self.watch = Watch()
        self.facts: dict[Of, list[Fact]] = defaultdict(list)
        self.posted: list[tuple[int, Receipt, str]] = []  # due time, receipt, and the way it takes
        self.arrived: list[tuple[Receipt, str]] = []
        self.early: set[tuple[str, str]] = set()  # delivery and event of updates that others produced
        self.said: set[tuple[str, str]] = set()  # delivery and event of every receipt that track learned
        self.bound: dict[str, Binding] = {}
        self.taken: set[tuple[str, int, int]] = set()  # delivery, attempt and part of every call that a provider took
        self.counts = Counter[str]()
        self.causes = Counter[str]()
        self.reports = 0
        # no replies of members: the reference does not know how far a receipt has come that takes several turns
        self.long = any(talk.fillers for talk in talks)
        self.quiet = False  # no more losses: everything ends
        self.workers = []
        for partition in range(PARTITIONS):
            stage, track = core()
            self.workers.append(Worker(partition, Desk(stage, partition), track))
            self.start(self.workers[-1])

    # --- Kafka ----------------------------------------------------------------------------------------------------------

    def put(self, topic: str, key: bytes, value: bytes | None, partition: int | None, headers: Any = ()) -> None:
        at = home_partition(key, PARTITIONS) if partition is None else partition
        log = self.kafka[topic, at]
        log.append(Record(topic, at, len(log), self.now, key, value, tuple(headers)))

    def produce(self, topic: str, content: Any, key: bytes | None = None, partition: int | None = None) -> None:
        self.put(topic, key_of(content) if key is None else key, codec.encode(content), partition)

    def start(self, worker: Worker) -> None:
        """The partition starts again, at another worker, with the committed rows and offsets."""
        for call in worker.calls:
            if call.end_of is None and self.random.random() < 0.5:
                self.take(call.request[1].request)  # the provider has it; the answer reaches nobody
        stage, worker.track = core()
        worker.desk.restart(stage)
        worker.calls = []
        worker.starts += 1
        worker.fetched = defaultdict(int, worker.positions)
        worker.unread = UnreadSources()
        topics = [source.topic for source in stage.sources]
        ends = {(topic, worker.partition): len(self.kafka[topic, worker.partition]) for topic in topics}
        fetched = worker.fetched
        worker.unread.start(ends, lambda source, end, _: fetched[source[0]] >= end, b"start %d" % worker.starts)

    # --- what people do -------------------------------------------------------------------------------------------------

    def write(self, talk: Talk) -> None:
        """A message of the application to some members, or a signal."""
        draw = self.random
        number = draw.choice([1, len(talk.people), draw.randint(1, len(talk.people))])
        kind = "typing" if draw.random() < 0.05 else "text"
        text = "" if kind == "typing" else "two|parts" if draw.random() < 0.05 else "olá"
        talk.messages += 1
        message = Message(
            tenant_id=talk.tenant,
            message_id=f"m{talk.messages}",
            conversation_id=talk.name,
            sender="shop",
            recipients=tuple(person.recipient for person in draw.sample(talk.people, number)),
            kind=kind,
            text=text,
            requested_at=self.now,
            not_before=self.now + draw.randint(0, LATEST) if draw.random() < 0.06 else None,
        )
        self.produce("messages", message)
        self.counts["messages"] += 1
        if draw.random() < 0.02:  # the application repeats it
            self.produce("messages", message)
        if draw.random() < 0.05 and kind == "text":
            self.say_early(talk, message)

    def say_early(self, talk: Talk, message: Message) -> None:
        """A receipt of an earlier life of the topics: it may come before the message itself."""
        to = message.recipients[0]
        who, channel, address = to.user_id or to.address or "", to.channel or "", to.address or ""
        named = ids.delivery_id(talk.tenant, talk.name, message.message_id, who, channel, address)
        update = StatusUpdate(
            tenant_id=talk.tenant,
            event_id=f"early {named}",
            delivery_id=named,
            conversation_id=talk.name,
            home_partition=talk.home,
            status=self.random.choice([Status.SENT, Status.DELIVERED, Status.READ, Status.FAILED]),
            cause=Cause.RECEIPT,
            occurred_at=self.now,
            observed_at=self.now,
            provider_message_id=f"p-{named}-9-0",
        )
        self.produce("status-updates", update, partition=talk.home)
        self.early.add((named, update.event_id))

    def reply(self, talk: Talk, channel: str, address: str) -> None:
        talk.messages += 1
        message = Message(
            tenant_id=talk.tenant,
            message_id=f"m{talk.messages}",
            conversation_id=talk.name,
            direction=Direction.INBOUND,
            sender=address,
            text="oi",
            requested_at=self.now,
            metadata={"channel": channel},
        )
        self.produce(INBOUND, message)
        self.counts["replies"] += 1

    def report(self, talk: Talk, person: Person) -> None:
        """A client says how far its person is: too high, going back, twice, of a stranger or of another account too."""
        draw = self.random
        about, self.reports = draw.random(), self.reports + 1
        up_to = [draw.randint(0, talk.messages + 2) if draw.random() < 0.8 else 10**9, None]
        draw.shuffle(up_to)
        if draw.random() < 0.2:
            up_to = [draw.randint(0, talk.messages), draw.randint(0, talk.messages)]
        said = CursorReport(
            tenant_id=talk.tenant,
            event_id=f"report-{self.reports}",
            conversation_id=talk.name,
            home_partition=talk.home,
            channel=person.channel,
            account="of-others" if about < 0.05 else person.account,
            address="stranger" if 0.05 < about < 0.1 else person.address,
            delivered_up_to=up_to[0],
            read_up_to=up_to[1],
            occurred_at=self.now - draw.randint(0, 5000),
            observed_at=self.now,
        )
        for _ in range(draw.choice([1, 1, 1, 2])):
            self.produce("cursor-reports", said, partition=talk.home)
        self.counts["reports"] += 1
        if draw.random() < 0.03:  # somebody computes partitions otherwise
            self.produce("cursor-reports", said, partition=1 - talk.home)

    # --- what providers do ----------------------------------------------------------------------------------------------

    def take(self, attempt: Any) -> str:
        """A provider takes a message, and will say what happens to it. Returns its id."""
        delivery: Delivery = attempt.delivery
        provider_id = f"p-{delivery.delivery_id}-{attempt.number}-{attempt.part}"
        if delivery.kind in SIGNALS or (delivery.delivery_id, attempt.number, attempt.part) in self.taken:
            return provider_id
        self.taken.add((delivery.delivery_id, attempt.number, attempt.part))
        partial = attempt.part + 1 < len(delivery.text.split("|"))
        data = tracker.encode(delivery, attempt.number, TRACKER_KEYS, partial=partial)
        for number, status in enumerate(SAYS[delivery.channel]):
            if self.random.random() < LIKELY.get(status, 0.8):
                self.say(delivery, provider_id, status, number, data)
        return provider_id

    def say(self, delivery: Delivery, provider_id: str, status: ReceiptStatus, number: int, data: str | None) -> None:
        """One receipt, posted once or several times, at once or much later, by the tracker or without it."""
        draw = self.random
        happened = self.now + draw.choice([0, 1000, 60_000, HOUR]) + draw.randint(0, 5000) * (number + 1)
        dated = draw.choices([happened // 1000 * 1000, 0, happened + 365 * DAY], [0.97, 0.015, 0.015])[0]
        is_tracked = draw.random() < 0.6
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            due = happened + draw.choice([0, 0, draw.randint(0, HOUR), draw.randint(0, 12 * HOUR)])
            receipt = Receipt(
                tenant_id=draw.choice(["default", delivery.tenant_id]),
                event_id=f"{provider_id}:{status}:{number}",
                channel=delivery.channel,
                account=delivery.account,
                provider_message_id=provider_id,
                status=status,
                provider_at=dated,
                received_at=due + draw.randint(0, 2000),
                inferred=status is ReceiptStatus.READ and draw.random() < 0.1,
                callback_data=data if is_tracked else None,
                error_code="131" if status is ReceiptStatus.FAILED else None,
            )
            self.posted.append((due, receipt, draw.choice(["gateway", "topic"])))
        if draw.random() < 0.03:  # to another account, and of another tenant: about no delivery of theirs
            odd = replace(receipt, account="of-others", event_id=f"odd {receipt.event_id}")
            self.posted.append((due, odd, "topic"))
            odd = replace(receipt, tenant_id="zeta", event_id=f"odd {receipt.event_id}")
            self.posted.append((due, odd, "foreign"))

    def post(self) -> None:
        """The receipts that are due reach the gateway, in any order."""
        due = [each for each in self.posted if each[0] <= self.now]
        self.posted = [each for each in self.posted if each[0] > self.now]
        self.random.shuffle(due)
        for _, receipt, way in due:
            tracked = by_tracker(receipt, PARTITIONS, TRACKER_KEYS)
            if way == "foreign":
                self._post_foreign(receipt, tracked)
                continue
            self.arrived.append((receipt, way))
            if way == "gateway" and isinstance(tracked, StatusUpdate):
                self.produce("status-updates", tracked, partition=tracked.home_partition)
            else:
                key = provider_message_key(receipt.channel, receipt.account, receipt.provider_message_id).encode()
                self.produce("receipts", receipt, key=key)

    def _post_foreign(self, receipt: Receipt, tracked: object) -> None:
        if receipt.callback_data:
            assert not isinstance(tracked, StatusUpdate), "the gateway must not believe it"
        named = receipt.provider_message_id.split("-")[1]
        state = self.watch.states.get(named)
        if state is not None:
            update = StatusUpdate(
                tenant_id="zeta",
                event_id=receipt.event_id,
                delivery_id=named,
                conversation_id=state.conversation_id,
                home_partition=state.home_partition,
                status=Status.READ,
                cause=Cause.RECEIPT,
                occurred_at=receipt.received_at,
                observed_at=receipt.received_at,
            )
            self.produce("status-updates", update, partition=state.home_partition)
            self.counts["foreign"] += 1

    def answer(self, call: Call) -> Result:
        if call.end_of is not None:
            return passed(call)
        draw, attempt = self.random, call.request[1].request
        kind = draw.choices(
            ["accepted", "taken, no answer", "no answer", "later", "refused"],
            [1, 0, 0, 0, 0] if self.quiet else [0.86, 0.04, 0.02, 0.05, 0.03],
        )[0]
        if kind in ("accepted", "taken, no answer"):
            provider_id = self.take(attempt)
            given = () if attempt.delivery.kind in SIGNALS else (provider_id,)
            return Result(call, Accepted(given) if kind == "accepted" else Unknown("no answer"))
        if kind == "no answer":
            return Result(call, Unknown("no answer"))
        if kind == "later":
            throttled = attempt.number % 2 == 1
            return Result(call, RetryLater("slow", "429", after_seconds=draw.random() * 60, throttled=throttled))
        return Result(call, Rejected("131", "no such person"))

    # --- turns ----------------------------------------------------------------------------------------------------------

    def turn(self, worker: Worker, most: int) -> bool:
        """One turn of a partition, kept or lost. Returns whether there was anything in it."""
        draw, stage, desk = self.random, worker.desk.stage, worker.desk
        batches = []
        for source in stage.sources:
            topic = source.topic
            log = self.kafka[topic, worker.partition]
            number = draw.randint(0, most) if not self.quiet else most
            found = log[worker.fetched[topic] : worker.fetched[topic] + number]
            if found and stage.takes(topic, desk.state):
                worker.fetched[topic] += len(found)
                batches.append(Batch(found, lambda: None))
        draw.shuffle(worker.calls)
        answered = len(worker.calls) if self.quiet else draw.randint(0, len(worker.calls))
        results = [self.answer(call) for call in worker.calls[:answered]]
        left = worker.calls[answered:]
        inputs = Inputs(
            [record for batch in batches for record in batch.records],
            results,
            reading=worker.unread.look(batches, set()),
            views={each.topic: View({}) for each in stage.mirrored},
            room=Room(CALLS - len(left)),
        )
        worker.track.taken = ()
        decision = stage.decide(inputs, desk.state, self.now)
        if not self.quiet and draw.random() < 0.02:
            self.counts["lost turns"] += 1
            self.start(worker)
            return True
        desk.commit()
        worker.unread.committed(decision)
        worker.positions = defaultdict(int, worker.fetched)
        worker.calls = left + list(decision.calls)
        self._kept(worker, decision)
        if not self.quiet and draw.random() < 0.02:
            self.counts["restarts"] += 1
            self.start(worker)
        return bool(inputs.records or results or decision.outputs or decision.calls)

    def _kept(self, worker: Worker, decision: Decision) -> None:
        for record in worker.track.taken:
            self._learn(record, worker.partition)
        self.watch.see(decision.outputs, worker.partition)
        self.causes.update(refusal.cause for refusal in decision.refusals)
        for part in decision.parts:
            if part.stage == "track":
                self.counts.update(part.counts)
        for name, number in (*decision.handed.items(), *decision.detours.items()):
            self.counts[f"went {name}"] += number
        for output in decision.outputs:
            if output.topic == "bindings":
                binding = codec.decode(output.value, Binding)
                self.bound[binding.provider_message_id] = binding
            self._publish(output)

    def _publish(self, output: Output) -> None:
        sources = {source.topic for worker in self.workers for source in worker.desk.stage.sources}
        if output.topic in sources:
            self.put(output.topic, output.key, output.value, output.partition, output.headers)

    def _learn(self, record: Record, partition: int) -> None:
        """What a record says, as facts of its conversation."""
        content = codec.decode_any(record.value)
        if isinstance(content, SequencedMessage):
            facts = self.facts[content.tenant_id, content.conversation_id]
            if content.direction is Direction.INBOUND:
                facts.append(Replied(content.metadata["channel"], content.sender))
            for ref in content.deliveries:
                place, is_signal = (ref.channel, ref.account, ref.address), content.kind in SIGNALS
                made = (ref.delivery_id, content.message_id, content.seq, ref.recipient, ref.recipient != ref.address)
                at = content.not_before or 0
                facts.append(Made(*made, place, is_signal, content.accepted_at, at if at > content.accepted_at else 0))
        elif isinstance(content, StatusUpdate):
            if content.cause is Cause.RECEIPT:
                self.said.add((content.delivery_id, content.event_id))
            at = min(content.occurred_at, content.observed_at)
            said = (content.delivery_id, content.event_id, str(content.status), at, content.inferred)
            attempt = (content.ready_at, content.dispatched_at, content.throttled)
            self.facts[content.tenant_id, content.conversation_id].append(Said(*said, *attempt))
        elif isinstance(content, CursorReport) and content.event_id.startswith("report-"):  # the rest is track's own
            if content.home_partition != partition:
                return
            place = (content.channel, content.account, content.address)
            for status, up_to in (("READ", content.read_up_to), ("DELIVERED", content.delivered_up_to)):
                if up_to is not None:
                    reported = Reported(place, status, up_to, content.occurred_at)
                    self.facts[content.tenant_id, content.conversation_id].append(reported)

    # --- a run ----------------------------------------------------------------------------------------------------------

    def tick(self, most: int) -> None:
        """Some time passes, somebody does something, and each worker may take a turn."""
        draw = self.random
        self.now += draw.choice([10, 1000, 1000, 30_000, 5 * MINUTE])
        for talk in self.talks:
            for _ in range(draw.randint(0, 3)):
                if talk.left:
                    talk.left -= 1
                    self.write(talk)
            person = draw.choice(talk.people)
            for _ in range(min(talk.fillers, draw.randint(0, 40))):
                talk.fillers -= 1
                self.reply(talk, "whatsapp", "a stranger")
            if draw.random() < 0.08 and not self.long:
                self.reply(talk, person.channel, person.address if draw.random() < 0.9 else "stranger")
            if person.channel == "internal" and draw.random() < 0.3:
                self.report(talk, person)
        self.post()
        for worker in self.workers:
            if draw.random() < 0.8:
                self.turn(worker, most)

    def run(self, most: int = 30) -> None:
        for n in range(100_000):
            if not any(talk.left for talk in self.talks):
                break
            self.tick(most)
            if n % 20 == 0:
                self.check_tables()
        for _ in range(40):  # late receipts, while nothing new is written
            self.tick(most)
        self.check_tables()
        self.finish()

    def finish(self) -> None:
        """Everything that is under way arrives, every call ends, and every time of a channel is over."""
        self.quiet = True
        last = max((due for due, _, _ in self.posted), default=0)
        last = max(last, self.now + LATEST)
        idle = 0
        while idle < 5:
            self.now += 30 * MINUTE
            self.post()
            moved = [self.turn(worker, 500) for worker in self.workers]
            idle = 0 if any(moved) or self.posted or self.now < last else idle + 1
        self.now += max(STALLED_MS.values()) + 2 * MINUTE
        moved = [True]
        while any(moved):
            moved = [self.turn(worker, 500) for worker in self.workers]
            self.now += MINUTE
        self.check_tables()

    def check_tables(self) -> None:
        for worker in self.workers:
            names = ("message_states", "stalled", "awaiting", "cursors")
            self.watch.check_tables({name: worker.desk.rows(name) for name in names}, worker.partition)


def a_world(seed: int, *, messages: int) -> World:
    """Direct conversations on every channel, and groups of 2 to 50 members, of two tenants."""
    draw = random.Random(-1 - seed)  # noqa: S311  # a reproducible run, no secret
    talks = []
    for number in range(9):
        tenant = "acme" if number % 4 == 3 else "default"
        home = number % PARTITIONS
        name = conversation_at_home(home, number=number, partitions=PARTITIONS, tenant_id=tenant)
        size = 1 if number < 6 else draw.randint(2, 8) if number < 8 else draw.choice([9, 20, 50])
        people = [_person(draw, tenant, CHANNELS[(number + n) % 4], n) for n in range(size)]
        if draw.random() < 0.5:  # somebody has another address, or another of our accounts writes to them
            again = people[0]
            other = draw.choice(CHANNELS)
            people.append(
                again._replace(channel=other, address=f"{again.address}0", account=_account(draw, tenant, other))
            )
            people.append(again._replace(account=_account(draw, tenant, again.channel)))
        talks.append(
            Talk(
                tenant,
                name,
                home,
                list(dict.fromkeys(people)),
                left=max(3, messages * (1 if size < 9 else 2) // (1 + size)),
            )
        )
    return World(seed, talks=talks)


def a_long_world(seed: int) -> World:
    """Conversations of many sequences, of which few are deliveries to one member: the rest are replies of somebody else."""
    talks = []
    for number, channel in enumerate(("instagram", "internal")):
        name = conversation_at_home(number, number=20, partitions=PARTITIONS)
        person = Person(channel, "far", f"{channel}-1", "ana" if seed % 2 else None)
        talks.append(Talk("default", name, number, [person], left=90, fillers=900))
    return World(seed, talks=talks)


def _person(draw: random.Random, tenant: str, channel: str, number: int) -> Person:
    user_id = f"user-{number}" if draw.random() < 0.5 else None
    return Person(channel, f"{channel[:2]}{number}", _account(draw, tenant, channel), user_id)


def _account(draw: random.Random, tenant: str, channel: str) -> str:
    return f"{channel}-acme" if tenant == "acme" else draw.choice([f"{channel}-1", f"{channel}-2"])
