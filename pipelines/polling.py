"""Polls one account for updates: what its provider would otherwise post to a webhook of the gateway.

In: pages of updates from the connector (connectors.base.Polling). Out: the records that a webhook makes of them, in one Kafka transaction
with the position behind them (polling_group.py). Guaranteed: the provider is asked to forget a page only after Kafka has it, so nothing is
lost; a restart goes on behind the last page that Kafka has, so nothing is repeated. One gateway of a deployment polls, and another one
takes over. An update of which no record can be made is counted and logged, and the next ones go on. Nothing blocks the event loop.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

import structlog
from confluent_kafka import KafkaException

from connectors.base import NotPolled, Polled, Polling, WebhookItems
from pipelines.acknowledged_producer import OutgoingRecord, RefusedRecord
from pipelines.engine.serial_executor import SerialExecutor
from pipelines.polling_group import Letter, NoLongerHeld, PollingGroup
from schemas import metrics
from schemas.tracebacks import described_error

POLL_SECONDS = 30  # how long a provider may wait for a first update: below what proxies between us close
LOOK_SECONDS = 0.5
FIRST_BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS = 1.0, 30.0
STOP_SECONDS = 4.0  # for the transaction that is under way when the gateway stops
SAID_SECONDS = 600.0  # at least, between two log lines about the same failure
STANDBY, POLLS, NOT_STORED, FAILED = "standby", "polls", "not_stored", "failed"
P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)


class UpdateRecords(Protocol):
    """What polling needs of the gateway: the records and the dead letters of webhooks. No method blocks."""

    def records(self, channel: str, items: WebhookItems, received_at: int) -> list[OutgoingRecord]:
        """Counts the items and makes their records."""
        ...

    def letter(self, received_at: int) -> Letter:
        """What makes the dead letter of a record; used in another thread."""
        ...

    def note_refused(self, channel: str, refused: Sequence[RefusedRecord]) -> None:
        """Counts and logs the records that became dead letters."""
        ...


@dataclass(slots=True)
class PollingState:
    """What a poller does, for /health: a code (standby, polls, not_stored, failed, or a code of NotPolled), a sentence, and since when."""

    code: str = STANDBY
    sentence: str = "not yet polled"
    since: int = 0  # Unix milliseconds

    def shown(self) -> dict[str, object]:
        return {"state": self.code, "detail": self.sentence, "since": self.since}


class Poller:
    """Polls one account of a channel in `run`; all methods are for one event loop."""

    def __init__(
        self,
        *,
        channel: str,
        connector: Polling,
        group: PollingGroup,
        made: UpdateRecords,
        state: PollingState,
        clock: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._channel = channel
        self._connector = connector
        self._group = group
        self._made = made
        self._state = state
        self._clock = clock
        self._membership = SerialExecutor("polling membership")
        self._writing = SerialExecutor("polling transactions")
        self._said: dict[str, float] = {}  # code -> time.monotonic() of its last log line
        self._said_last = ""
        self._failures = 0

    async def run(self) -> None:
        """Polls whenever this gateway is the one that does; until cancelled. Then it leaves the group, so that another one goes on."""
        polling: asyncio.Task[None] | None = None
        try:
            while True:
                held = await self._look()
                if polling is not None and (polling.done() or not held):
                    await _ended(polling)
                    polling = None
                if held and polling is None:
                    polling = asyncio.create_task(self._poll(), name=f"polls {self._channel}")
        except Exception as error:  # noqa: BLE001  # nobody awaits this task, so that its end would not be seen
            self._become(FAILED, f"polling has ended; restart the gateway and report this: {described_error(error)}")
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    if polling is not None:
                        await _ended(polling)
                    await asyncio.shield(_started(self._writing, self._group.close))
                    await asyncio.shield(_started(self._membership, self._group.leave))
            self._writing.shutdown()
            self._membership.shutdown()

    async def _look(self) -> bool:
        try:
            held = await self._in(self._membership, self._group.look, LOOK_SECONDS)
        except KafkaException as error:
            self._become(FAILED, f"Kafka refuses this gateway as a member of the group: {error.args[0].str()}")
            await asyncio.sleep(LONGEST_BACK_OFF_SECONDS)
            return self._group.is_held
        if not held:
            self._become(STANDBY, "another gateway polls, or the group is still choosing")
        return held

    async def _poll(self) -> None:
        """Polls until cancelled, or until this gateway is no longer the one that does."""
        while self._group.is_held:
            try:
                await self._poll_from(await self._in(self._writing, self._group.open))
            except NoLongerHeld:
                await asyncio.sleep(LOOK_SECONDS)
            except KafkaException as error:
                reason = f"Kafka does not take the updates, so the provider keeps them: {error.args[0].str()}"
                await self._pause(NotPolled(NOT_STORED, reason))
            except Exception as error:  # noqa: BLE001  # the webhooks of other channels must not end with it
                await self._pause(NotPolled(FAILED, f"report this: {described_error(error)}"))

    async def _poll_from(self, position: str) -> None:
        wait = 0  # the first answer comes at once, so that the state is known
        while self._group.is_held:
            page = await self._connector.poll(position, wait, self._clock)
            if isinstance(page, NotPolled):
                await self._pause(page)
                wait = 0
                continue
            if page.items:
                await self._store(page)
            metrics.POLLS.labels(self._channel, "updates" if page.items else "none").inc()
            self._become(POLLS, "updates are fetched from the provider")
            self._failures, position, wait = 0, page.position, POLL_SECONDS

    async def _store(self, page: Polled) -> None:
        received_at = self._clock()
        records = [record for items in page.items for record in self._records(items, received_at)]
        letter = self._made.letter(received_at)
        refused = await self._in(self._writing, self._group.store, records, page.position, letter)
        self._made.note_refused(self._channel, refused)

    def _records(self, items: WebhookItems, received_at: int) -> list[OutgoingRecord]:
        try:
            return self._made.records(self._channel, items, received_at)
        except Exception as error:  # noqa: BLE001  # one update must not keep all later ones away
            metrics.WEBHOOK_ITEMS.labels(self._channel, "unrecognised").inc()
            log.error("update not usable", channel=self._channel, error=described_error(error))
            return []

    async def _pause(self, why: NotPolled) -> None:
        metrics.POLLS.labels(self._channel, why.code).inc()
        self._become(why.code, why.sentence)
        self._failures += 1
        longest = FIRST_BACK_OFF_SECONDS * 2.0 ** min(self._failures - 1, 10)
        await asyncio.sleep(min(longest, LONGEST_BACK_OFF_SECONDS) if why.after_seconds is None else why.after_seconds)

    def _become(self, code: str, sentence: str) -> None:
        """Notes the state. A change is logged, but a failure that comes and goes has one line in SAID_SECONDS."""
        if code == self._state.code and self._state.since:
            self._state.sentence = sentence
            return
        self._state.code, self._state.sentence, self._state.since = code, sentence, self._clock()
        now, is_fine = time.monotonic(), code in (STANDBY, POLLS)
        if code == self._said_last or (not is_fine and now - self._said.get(code, -SAID_SECONDS) < SAID_SECONDS):
            return
        self._said[code], self._said_last = now, code
        if is_fine:
            log.info("polling", channel=self._channel, state=code, detail=sentence)
        else:
            log.warning("no updates", channel=self._channel, state=code, detail=sentence)

    async def _in(self, executor: SerialExecutor, step: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """The step in its thread. It is not interrupted by a cancellation: what it does to Kafka's client must end first."""
        running = _started(executor, step, *args, **named)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running}, timeout=STOP_SECONDS)
            if running.done() and not running.cancelled():
                running.exception()  # taken, so that it is not reported as never taken
            raise


def _started(executor: SerialExecutor, step: Callable[P, T], *args: P.args, **named: P.kwargs) -> "asyncio.Future[T]":
    """The step, begun in its thread. The future must not be cancelled (await it shielded): the thread sets its result."""
    return asyncio.wrap_future(executor.submit(step, *args, **named))


async def _ended(task: "asyncio.Task[None]") -> None:
    """Cancels a task and waits for its end. Raises what it raised."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


@asynccontextmanager
async def polling_during(pollers: Sequence[Poller]) -> AsyncIterator[None]:
    """Runs the pollers during the block."""
    tasks = [asyncio.create_task(poller.run(), name="poller") for poller in pollers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
