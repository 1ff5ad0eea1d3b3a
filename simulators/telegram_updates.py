"""The updates of a simulated bot: fetched by getUpdates or posted to the bot's webhook, never both.

What enters: updates with a queue (a chat). What leaves: pages of getUpdates, or one POST for each update. Guaranteed: within a queue an
update is posted only after the one before it was accepted or expired; at most `max_connections` queues post at the same time; an update
expires after 24 h of the provider's clock; at most KEPT updates wait, the oldest are dropped first. Back-off as in the server: at once,
then 2 s, doubling up to a limit of 60 to 120 s; Retry-After is honoured. getUpdates as in the server (Client, TQueue): an offset far above
the newest update counts as none, and a second conflict within CONFLICT_SECONDS is answered that much later.
https://github.com/tdlib/telegram-bot-api (WebhookActor) · https://core.telegram.org/bots/api#getting-updates
"""

import asyncio
import heapq
import zlib
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from simulators.clock import Clock
from simulators.provider_log import Log
from simulators.telegram_fields import TelegramRefused
from simulators.webhook_sender import Posted, Poster

KEPT = 100_000
LIFE_MS = 24 * 3_600_000
CONFLICT_SECONDS = 3.0
FUTURE_IDS = 10  # an offset further above the newest update_id than this is ignored
GONE_MS = 23 * 3_600_000  # a webhook that answers 410 for this long is removed
KINDS = frozenset(
    ("message", "edited_message", "channel_post", "callback_query", "my_chat_member", "chat_member", "message_reaction",
     "message_reaction_count", "poll", "inline_query", "business_message")
)  # fmt: skip  # a list of words, several on a line
DEFAULT_KINDS = KINDS - {"chat_member", "message_reaction", "message_reaction_count"}
_FIRST_BACK_OFF_MS = 2_000
_LONGEST_WAIT_MS = 3_600_000
_WEBHOOK_IS_SET = "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"
_OTHER_POLL = "terminated by other getUpdates request; make sure that only one bot instance is running"
_WEBHOOK_WAS_SET = "terminated by setWebhook request"


@dataclass(slots=True)
class Update:
    """One update. `name` is the log's id of the message that the update is about. `born` is Unix milliseconds."""

    update_id: int
    queue: str
    kind: str
    name: str
    body: bytes
    born: int


class Updates:
    """The outbox of one bot, for one event loop."""

    def __init__(self, *, url: str, secret: str, first: int, log: Log, clock: Clock) -> None:
        self.url = url
        self.secret = secret
        self.max_connections = 40
        self.kinds: frozenset[str] = KINDS
        self.last_error: tuple[int, str] | None = None  # Unix seconds, sentence
        self._poster = Poster()
        self._log = log
        self._clock = clock
        self._newest = 10_000_000 + first
        self._born: list[tuple[float, int, Any]] = []  # scheduled updates: due, order, arguments of `_happen`
        self._order = 0
        self._waiting: OrderedDict[int, Update] = OrderedDict()
        self._queues: dict[str, deque[Update]] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._under_way = 0
        self._room = asyncio.Condition()
        self._wake = asyncio.Event()
        self._poll: asyncio.Future[str] | None = None  # of the getUpdates that waits; its result is why it must end
        self._asked: tuple[int, float] | None = None  # offset and time of the last getUpdates
        self._next_conflict = 0.0
        self._arrived = asyncio.Event()
        self._gone_since: int | None = None

    @property
    def pending(self) -> int:
        """Updates that were not accepted or confirmed yet, those not due yet included."""
        return len(self._waiting) + len(self._born)

    def schedule(self, kind: str, content: Mapping[str, Any], *, queue: str, name: str, delay_ms: float) -> None:
        self._order += 1
        heapq.heappush(self._born, (self._clock.now() + delay_ms, self._order, (kind, content, queue, name)))
        self._wake.set()

    # --- getUpdates --------------------------------------------------------------------------------------------------

    async def fetch(self, offset: int, limit: int, timeout_seconds: float) -> list[bytes]:
        """One page of getUpdates; waits up to `timeout_seconds` for a first update.

        Updates below a positive offset are confirmed and removed; a client that repeats an offset soon waits 3 s at least, or gets one
        update only. Raises TelegramRefused (409) while a webhook is set, or when another
        getUpdates arrives.
        """
        if self.url:
            raise await self._conflict(_WEBHOOK_IS_SET)
        now, asked = asyncio.get_running_loop().time(), self._asked
        # the server slows down a client that asks for the same again and again
        if asked is not None and asked[0] == offset:
            timeout_seconds = max(timeout_seconds, 3.0) if now < asked[1] + 3.0 else timeout_seconds
            limit = 1 if now < asked[1] + 0.5 else limit
        self._asked = (offset, now)
        self._end_poll(_OTHER_POLL)
        self._confirm(offset)
        if not self._waiting and timeout_seconds > 0:
            await self._wait(timeout_seconds)
            self._confirm(offset)
        return [update.body for update, _ in zip(list(self._waiting.values()), range(limit), strict=False)]

    @property
    def is_polled(self) -> bool:
        """Whether a getUpdates waits."""
        return self._poll is not None

    def _end_poll(self, why: str) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(why)

    async def _wait(self, timeout_seconds: float) -> None:
        ended = self._poll = asyncio.get_running_loop().create_future()
        self._arrived.clear()
        arrived = asyncio.create_task(self._arrived.wait())
        try:
            await asyncio.wait((ended, arrived), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrived.cancel()
            if self._poll is ended:
                self._poll = None
        if ended.done():
            raise await self._conflict(ended.result())

    async def _conflict(self, why: str) -> TelegramRefused:
        """A conflict; the server delays each one that comes soon after another."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_conflict:
            await asyncio.sleep(CONFLICT_SECONDS)
        else:
            self._next_conflict = loop.time() + CONFLICT_SECONDS
        return TelegramRefused(409, f"Conflict: {why}")

    def _confirm(self, offset: int) -> None:
        now = self._clock.now()
        ids = list(self._waiting)
        if offset > self._newest + 1 + FUTURE_IDS:
            offset = 0
        below = offset if offset >= 0 else (ids[offset] if len(ids) > -offset else 0)
        for update_id in ids:
            update = self._waiting[update_id]
            if update_id < below:
                self._finish(update, "receipt")
            elif now - update.born > LIFE_MS:
                self._finish(update, "expired")
            else:
                return

    # --- webhook -----------------------------------------------------------------------------------------------------

    def set_webhook(self, url: str, secret: str, max_connections: int, kinds: frozenset[str] | None) -> None:
        self.url, self.secret, self.max_connections = url, secret, max_connections
        self.kinds = kinds if kinds is not None else self.kinds
        self.last_error = self._gone_since = None
        if url:
            self._end_poll(_WEBHOOK_WAS_SET)
        for queue in self._queues:
            self._drain_soon(queue)

    def drop_pending(self) -> None:
        for update in list(self._waiting.values()):
            self._finish(update, "dropped")

    async def run(self) -> None:
        """Makes updates of scheduled items that are due, until cancelled."""
        try:
            while True:
                await self._wake.wait()
                if not self._born:
                    self._wake.clear()
                    continue
                await self._clock.sleep_until(min(self._born[0][0], self._clock.now() + 10))
                while self._born and self._born[0][0] <= self._clock.now():
                    self._happen(*heapq.heappop(self._born)[2])
        finally:
            tasks = list(self._drains.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._poster.close()

    def _happen(self, kind: str, content: Mapping[str, Any], queue: str, name: str) -> None:
        if kind not in self.kinds:
            self._log.dropped(kind, name, "not allowed")
            return
        self._newest += 1
        body = orjson.dumps({"update_id": self._newest, kind: content})
        update = Update(self._newest, queue, kind, name, body, self._clock.now())
        self._waiting[self._newest] = update
        self._queues.setdefault(queue, deque()).append(update)
        if len(self._waiting) > KEPT:
            self._finish(next(iter(self._waiting.values())), "too many")
        self._arrived.set()
        self._drain_soon(queue)

    def _drain_soon(self, queue: str) -> None:
        if self.url and queue not in self._drains:
            self._drains[queue] = asyncio.create_task(self._drain(queue))

    async def _drain(self, queue: str) -> None:
        """Posts one queue's updates in their order."""
        try:
            waiting, failures, tries = self._queues[queue], 0, 0
            while waiting and self.url:
                update = waiting[0]
                if self._clock.now() - update.born > LIFE_MS:
                    self._finish(update, "expired")
                    continue
                posted = await self._post(update)
                tries += 1
                if posted.taken:
                    self._finish(update, "receipt", tries)
                    failures = tries = 0
                    continue
                failures += 1
                await self._clock.sleep_until(self._clock.now() + self._back_off(update, posted, failures))
        finally:
            del self._drains[queue]
            if not self._queues.get(queue):
                self._queues.pop(queue, None)

    async def _post(self, update: Update) -> Posted:
        headers = {"Content-Type": "application/json"}
        if self.secret:
            headers["X-Telegram-Bot-Api-Secret-Token"] = self.secret
        async with self._room:
            await self._room.wait_for(lambda: self._under_way < self.max_connections)
            self._under_way += 1
        try:
            posted = await self._poster.post(self.url, update.body, headers)
        finally:
            async with self._room:
                self._under_way -= 1
                self._room.notify()
        self._judge(posted)
        return posted

    def _judge(self, posted: Posted) -> None:
        """Records the error for getWebhookInfo, and removes a webhook that answered 410 for too long."""
        if posted.taken:
            self._gone_since = None
            return
        answer = f"Wrong response from the webhook: {posted.status} {posted.reason}"
        self.last_error = (self._clock.seconds(), answer if posted.status else posted.reason)
        if posted.status != 410:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = self._clock.now()
        elif self._clock.now() - self._gone_since > GONE_MS:
            self.url = ""

    def _back_off(self, update: Update, posted: Posted, failures: int) -> float:
        if posted.retry_after.isdecimal():
            return float(min(int(posted.retry_after) * 1000, _LONGEST_WAIT_MS))
        if failures == 1:
            return 0.0
        cap = 60_000 + zlib.crc32(str(update.update_id).encode()) % 60_000
        return float(min(_FIRST_BACK_OFF_MS * 2 ** min(failures - 2, 10), cap))

    def _finish(self, update: Update, how: str, tries: int = 1) -> None:
        """Removes an update and logs it: as a receipt, or as dropped with `how` as the reason."""
        if self._waiting.pop(update.update_id, None) is None:
            return
        queue = self._queues.get(update.queue)
        if queue is not None:
            queue.remove(update)
            if not queue and update.queue not in self._drains:
                del self._queues[update.queue]
        if how == "receipt":
            self._log.receipt(update.kind, update.name, tries)
        else:
            self._log.dropped(update.kind, update.name, how)
