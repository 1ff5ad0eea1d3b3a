"""Posts the notices of a simulated provider (Meta's, or our own clients') to our webhook: when they are due, in batches, with retries.

What enters: notices with a delay. What leaves: HTTP POSTs, packed and signed by the provider's own function. Guaranteed: a notice is
posted until the webhook answers 2xx or `retry_hours` are over (back-off doubles from FIRST_RETRY_SECONDS to LONGEST_RETRY_SECONDS); each
notice that was accepted or given up is in the log. Without a URL notices are dropped.
"""

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from simulators.clock import Clock
from simulators.misbehaviour_schedule import Schedule
from simulators.provider_log import Log
from simulators.webhook_connections import Connections

FIRST_RETRY_SECONDS = 0.2
LONGEST_RETRY_SECONDS = 10.0
TICK_SECONDS = 0.01  # notices due within one tick share a POST
POST_TIMEOUT_SECONDS = 10.0
SIDE_BY_SIDE = 8  # POSTs at the same time


@dataclass(frozen=True, slots=True)
class Notice:
    """One item for our webhook. `name` is its name in the log (sent, read, inbound, ...); the provider packs `payload`."""

    name: str
    provider_message_id: str
    payload: Any


@dataclass(frozen=True, slots=True)
class Posted:
    """The webhook's answer; `status` is 0 when there was none."""

    status: int
    retry_after: str = ""
    reason: str = ""

    @property
    def taken(self) -> bool:
        return 200 <= self.status < 300


class Poster:
    """HTTP client for the webhooks of a simulator. Connections open inside the running loop and stay open."""

    def __init__(self) -> None:
        self._connections: dict[str, Connections] = {}
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        """Posts one body, over TLS for an https URL. Raises nothing but cancellation."""
        if url.startswith("https:"):
            return await self._post_secured(url, body, headers)
        connections = self._connections.get(url)
        if connections is None:
            connections = self._connections[url] = Connections(url)
        reply = await connections.post(headers, body, POST_TIMEOUT_SECONDS)
        if reply is None:
            return Posted(0, reason="Connection timed out or was refused")
        return Posted(reply.status, reply.retry_after, reply.reason)

    async def _post_secured(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        try:
            async with self._open().post(url, data=body, headers=headers, allow_redirects=False) as response:
                await response.read()
                return Posted(response.status, response.headers.get("Retry-After", ""), response.reason or "")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Posted(0, reason="Connection timed out or was refused")

    async def get(self, url: str, query: Mapping[str, str]) -> tuple[int, str]:
        """Status and text of an answer; status 0 when there was none."""
        try:
            async with self._open().get(url, params=query, allow_redirects=False) as response:
                return response.status, (await response.text(errors="replace"))[:1000]
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, ""

    async def close(self) -> None:
        for connections in self._connections.values():
            connections.close()
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=POST_TIMEOUT_SECONDS), connector=aiohttp.TCPConnector(limit=0)
            )
        return self._session


Pack = Callable[[Sequence[Notice]], tuple[bytes, Mapping[str, str]]]


class Webhooks:
    """Posts SIDE_BY_SIDE batches at a time, in no order: Meta promises none. A notice is given up `retry_hours` after its first try."""

    def __init__(self, *, url: str, pack: Pack, log: Log, clock: Clock, schedule: Schedule, retry_hours: float) -> None:
        self.url = url
        self.poster = Poster()
        self._pack = pack
        self._log = log
        self._clock = clock
        self._schedule = schedule
        self._retry_ms = retry_hours * 3_600_000
        self._due: list[tuple[float, int, int, float, Notice]] = []  # due, order, tries so far, first due, notice
        self._order = 0
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(SIDE_BY_SIDE)
        self._posts: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """Notices that our webhook has not accepted yet, without those in flight."""
        return len(self._due)

    def schedule(self, notice: Notice, delay_ms: float) -> None:
        due = self._clock.now() + delay_ms
        self._push(notice, due, 0, due)

    async def post_now(self, notice: Notice, wait_seconds: float) -> None:
        """Posts a notice before all others and waits at most `wait_seconds` for the answer."""
        await asyncio.wait({self._start([(0, float(self._clock.now()), notice)])}, timeout=wait_seconds)

    async def run(self) -> None:
        """Posts the notices that are due, until cancelled."""
        try:
            while True:
                await self._wake.wait()
                if not self._due:
                    self._wake.clear()
                    continue
                await self._slots.acquire()
                due = self._take()
                if due:
                    self._start(due).add_done_callback(lambda _: self._slots.release())
                else:
                    self._slots.release()
                if len(due) < self._schedule.batch:
                    await asyncio.sleep(TICK_SECONDS)
        finally:
            for task in self._posts:
                task.cancel()
            await asyncio.gather(*self._posts, return_exceptions=True)
            await self.poster.close()

    def _push(self, notice: Notice, due: float, tries: int, first: float) -> None:
        self._order += 1
        heapq.heappush(self._due, (due, self._order, tries, first, notice))
        self._wake.set()

    def _take(self) -> list[tuple[int, float, Notice]]:
        now, most = self._clock.now(), self._schedule.batch
        due: list[tuple[int, float, Notice]] = []
        while self._due and self._due[0][0] <= now and len(due) < most:
            due.append(heapq.heappop(self._due)[2:])
        return due

    def _start(self, due: list[tuple[int, float, Notice]]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._deliver(due))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)
        return task

    async def _deliver(self, due: list[tuple[int, float, Notice]]) -> None:
        if not self.url:
            return
        body, headers = self._pack([notice for _, _, notice in due])
        if (await self.poster.post(self.url, body, headers)).taken:
            for tries, _, notice in due:
                self._log.receipt(notice.name, notice.provider_message_id, tries + 1)
            return
        tried = max(tries for tries, _, _ in due)
        again = self._clock.now() + 1000 * min(FIRST_RETRY_SECONDS * 2 ** min(tried, 10), LONGEST_RETRY_SECONDS)
        for tries, first, notice in due:
            if again - first > self._retry_ms:
                self._log.dropped(notice.name, notice.provider_message_id, "expired")
            else:
                self._push(notice, again, tries + 1, first)
