"""Posting what a simulated provider has to tell to our webhook: when it is due, in batches, again until it is taken.

What enters: notices with a delay. What leaves: HTTP POSTs, packed and signed by the provider's own function. Guaranteed: a notice is
posted until the webhook answers 2xx (back-off doubles from FIRST_RETRY_SECONDS to LONGEST_RETRY_SECONDS, as long as the simulator
lives); each one taken is in the log. Without a URL notices are dropped.
"""

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from loadgen.providers.log import Log

FIRST_RETRY_SECONDS = 0.2
LONGEST_RETRY_SECONDS = 10.0
TICK_SECONDS = 0.01  # notices due within one tick share a POST
POST_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `name` is the log's word for it (sent, read, inbound, ...); `payload` is what the provider packs."""

    name: str
    provider_message_id: str
    payload: Any


Pack = Callable[[Sequence[Notice]], tuple[bytes, Mapping[str, str]]]


class Webhooks:
    """`ordered` posts one notice at a time and retries it in place (Telegram); else batches are posted side by side."""

    def __init__(self, *, url: str, pack: Pack, log: Log, batch: int, ordered: bool) -> None:
        self.url = url
        self._pack = pack
        self._log = log
        self._batch = batch
        self._ordered = ordered
        self._due: list[
            tuple[float, int, int, Notice]
        ] = []  # (due by the loop's clock, tie-break, tries so far, notice)
        self._scheduled = 0
        self._slots = asyncio.Semaphore(1 if ordered else 8)
        self._wake = asyncio.Event()
        self._posts: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    @property
    def pending(self) -> int:
        """Notices not yet taken, those on their way included."""
        return len(self._due) + len(self._posts)

    def schedule(self, notice: Notice, delay_ms: float, tries: int = 0) -> None:
        self._scheduled += 1
        due = asyncio.get_running_loop().time() + delay_ms / 1000
        heapq.heappush(self._due, (due, self._scheduled, tries, notice))
        self._wake.set()

    async def post_now(self, notice: Notice, patience_seconds: float) -> None:
        """Posts at once and waits for the webhook's answer, but no longer than `patience_seconds`."""
        await asyncio.wait({self._start([(0, notice)])}, timeout=patience_seconds)

    async def run(self) -> None:
        """Posts what is due until cancelled."""
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
                if len(due) < self._batch or self._ordered:
                    await asyncio.sleep(TICK_SECONDS)
        finally:
            for task in self._posts:
                task.cancel()
            await asyncio.gather(*self._posts, return_exceptions=True)
            if self._session is not None:
                await self._session.close()

    def _take(self) -> list[tuple[int, Notice]]:
        now = asyncio.get_running_loop().time()
        due: list[tuple[int, Notice]] = []
        while self._due and self._due[0][0] <= now and len(due) < self._batch:
            due.append(heapq.heappop(self._due)[2:])
        return due

    def _start(self, due: list[tuple[int, Notice]]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._deliver(due))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)
        return task

    async def _deliver(self, due: list[tuple[int, Notice]]) -> None:
        if not self.url:
            return
        tries = max(tried for tried, _ in due) + 1
        while not await self._post([notice for _, notice in due]):
            delay = min(FIRST_RETRY_SECONDS * 2 ** min(tries - 1, 10), LONGEST_RETRY_SECONDS)
            if not self._ordered:
                for tried, notice in due:
                    self.schedule(notice, delay * 1000, tried + 1)
                return
            await asyncio.sleep(delay)
            tries += 1
        for tried, notice in due:
            self._log.receipt(notice.name, notice.provider_message_id, tries if self._ordered else tried + 1)

    async def _post(self, notices: Sequence[Notice]) -> bool:
        body, headers = self._pack(notices)
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=POST_TIMEOUT_SECONDS))
        try:
            async with self._session.post(self.url, data=body, headers=headers, allow_redirects=False) as response:
                await response.read()
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
