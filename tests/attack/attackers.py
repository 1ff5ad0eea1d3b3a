"""The attackers, a process of their own: all attacks that cost a server more than the sender.

In: a plan as JSON on standard input. Out: one line of JSON for each attack, {"way", "seconds", "statuses": {status: how often}}, when it
has ended. The seed decides when each attack begins; they overlap.
"""

import asyncio
import gzip
import json
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field

from tests.attack.sources import BLOCK, HUNG_UP, UNSIGNED, Line, line, request, signature
from tests.support.odd_requests import JSON, Door, requests

HUGE = 300_000_000
LARGE = 2_900_000
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 2.0  # at most, between the starts of two attacks


@dataclass(frozen=True, slots=True)
class Plan:
    """The target and the size of the attacks. `secret` signs bodies that must be read; `replayed` is a good sender's webhook."""

    port: int
    path: str
    seed: int
    secret: str = ""
    replayed: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    huge: int = 3
    bombs: int = 50
    slow: int = 200
    silent: int = 3000
    posts: int = 5000
    held: int = 300
    pipelines: int = 20
    hold_seconds: float = 25.0


class Attack:
    """All attacks by name; each returns the statuses of its answers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._chance = random.Random(plan.seed)  # noqa: S311  # a seed makes the attack repeatable

    def ways(self) -> dict[str, Callable[[], Awaitable[Counter[int]]]]:
        plan = self._plan
        found: dict[str, Callable[[], Awaitable[Counter[int]]]] = {
            "bodies of 300 MB": lambda: self._many(plan.huge, self._huge),
            "bodies of 300 MB in chunks": lambda: self._many(plan.huge, self._chunked),
            "gzip bombs": lambda: self._many(plan.bombs, self._gzip),
            "deflate bombs": lambda: self._many(plan.bombs, self._deflate),
            "slow headers": lambda: self._many(plan.slow, self._slow_head),
            "slow bodies": lambda: self._many(plan.slow, self._slow_body),
            "silent connections": lambda: self._many(plan.silent, self._silent),
            "posts": lambda: self._many(50, self._posts),
            "posts of the good sender's address": lambda: self._many(50, self._posts, itself=True),
            "unsigned bodies held open": lambda: self._many(plan.held, self._held),
            "pipelining": lambda: self._many(plan.pipelines, self._pipelined),
            "odd bodies": lambda: self._many(1, self._odd),
        }
        if plan.replayed:
            found["replayed"] = lambda: self._many(20, self._replay)
            found["re-serialised"] = lambda: self._many(20, self._reserialise)
        return found

    async def run(self) -> None:
        ways = list(self.ways().items())
        self._chance.shuffle(ways)
        async with asyncio.TaskGroup() as group:
            for name, way in ways:
                group.create_task(self._reported(name, way))
                await asyncio.sleep(self._chance.uniform(0, PAUSE_SECONDS))

    async def _reported(self, name: str, way: Callable[[], Awaitable[Counter[int]]]) -> None:
        began = time.monotonic()
        statuses = await way()
        sys.stdout.write(json.dumps({"way": name, "seconds": time.monotonic() - began, "statuses": statuses}) + "\n")
        sys.stdout.flush()

    async def _many(
        self, count: int, one: Callable[[Line, int], Awaitable[Counter[int] | int]], *, itself: bool = False
    ) -> Counter[int]:
        found: Counter[int] = Counter()

        async def attacker(number: int) -> None:
            try:
                async with line(self._plan.port, None if itself else number) as its:
                    answer = await one(its, number)
            except OSError:
                answer = HUNG_UP
            found.update(answer if isinstance(answer, Counter) else [answer])

        await asyncio.gather(*[attacker(number) for number in range(count)])
        return found

    def _head(self, more: dict[str, str]) -> bytes:
        return request(self._plan.path, {"X-Hub-Signature-256": UNSIGNED, **self._plan.headers, **JSON, **more})

    async def _huge(self, its: Line, _: int) -> int:
        await its.send(self._head({"Content-Length": str(HUGE)}))
        return await self._flood(its, BLOCK, HUGE)

    async def _chunked(self, its: Line, _: int) -> int:
        await its.send(self._head({"Transfer-Encoding": "chunked"}))
        return await self._flood(its, b"10000\r\n" + BLOCK + b"\r\n", HUGE)

    async def _flood(self, its: Line, block: bytes, size: int) -> int:
        async def all_of_it() -> None:
            for _ in range(size // len(block)):
                if not await its.send(block):
                    return

        sending = asyncio.create_task(all_of_it())
        status = await its.status(PATIENCE_SECONDS)
        await asyncio.wait({sending}, timeout=PATIENCE_SECONDS)
        sending.cancel()
        return status

    async def _gzip(self, its: Line, _: int) -> int:
        return await self._bomb(its, "gzip", GZIP)

    async def _deflate(self, its: Line, _: int) -> int:
        return await self._bomb(its, "deflate", DEFLATE)

    async def _bomb(self, its: Line, encoding: str, body: bytes) -> int:
        """Correctly signed, which is the worst case."""
        signed = signature(body, self._plan.secret) | self._plan.headers
        await its.send(request(self._plan.path, signed | {"Content-Encoding": encoding}, body))
        return await its.status(PATIENCE_SECONDS)

    async def _slow_head(self, its: Line, number: int) -> int:
        await its.send(f"POST {self._plan.path} HTTP/1.1\r\nHost: a\r\n".encode())
        return await self._drip(its, b"X-%d: a\r\n" % number)

    async def _slow_body(self, its: Line, _: int) -> int:
        await its.send(self._head({"Content-Length": "100000"}))
        return await self._drip(its, b"{")

    async def _drip(self, its: Line, drop: bytes) -> int:
        status = asyncio.create_task(its.status(self._plan.hold_seconds))
        while not status.done() and await its.send(drop):
            await asyncio.wait({status}, timeout=1.0)
        return await status

    async def _silent(self, its: Line, _: int) -> int:
        return await its.status(self._plan.hold_seconds)

    async def _posts(self, its: Line, number: int) -> Counter[int]:
        found: Counter[int] = Counter()
        for _ in range(self._plan.posts // 50):
            body = b'{"text": "secret-words %d"}' % number
            await its.send(request(self._plan.path, {"X-Hub-Signature-256": UNSIGNED}, body))
            found[await its.status(PATIENCE_SECONDS)] += 1
        return found

    async def _held(self, its: Line, _: int) -> int:
        await its.send(self._head({"Content-Length": str(LARGE)}))
        status = asyncio.create_task(its.status(self._plan.hold_seconds))
        for _ in range(LARGE // len(BLOCK)):
            if status.done() or not await its.send(BLOCK):
                break
        return await status

    async def _pipelined(self, its: Line, _: int) -> Counter[int]:
        one = request(self._plan.path, {"X-Hub-Signature-256": UNSIGNED}, b"{}" * 500)
        count = 200
        sending = asyncio.create_task(its.send(one * count))
        found = Counter([await its.status(PATIENCE_SECONDS) for _ in range(count)])
        sending.cancel()
        return found

    async def _odd(self, _: Line, first: int) -> Counter[int]:
        """Every odd body, query, path, method and header, signed so that it is read, each on its own connection."""
        plan = self._plan
        door = Door(
            plan.port, [plan.path], ["", plan.path], {plan.path: ("limit", "hub.mode")}, plan.headers, plan.secret
        )
        found: Counter[int] = Counter()
        for number, (_name, asked) in enumerate(requests(door), first):
            async with line(plan.port, number) as its:
                await its.send(asked)
                found[await its.status(PATIENCE_SECONDS)] += 1
        return found

    async def _replay(self, its: Line, _: int) -> int:
        body = self._plan.replayed.encode()
        await its.send(request(self._plan.path, signature(body, self._plan.secret), body))
        return await its.status(PATIENCE_SECONDS)

    async def _reserialise(self, its: Line, _: int) -> int:
        """The good sender's signature with the same JSON as different bytes."""
        signed = signature(self._plan.replayed.encode(), self._plan.secret)
        body = json.dumps(json.loads(self._plan.replayed), separators=(" ,", " :")).encode()
        await its.send(request(self._plan.path, signed, body))
        return await its.status(PATIENCE_SECONDS)


def plan_text(plan: Plan) -> str:
    return json.dumps(asdict(plan))


GZIP = gzip.compress(bytes(HUGE // 10), 9)
DEFLATE = zlib.compress(bytes(HUGE // 10), 9)

if __name__ == "__main__":
    asyncio.run(Attack(Plan(**json.loads(sys.stdin.read()))).run())
