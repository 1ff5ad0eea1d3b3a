"""The speed of one simulator on one core: first calls alone, then all their receipts at once.

What enters: a channel. What leaves: calls and receipts per CPU second, and its memory. bare_http.py makes the calls and receives the
webhooks, on the other cores. Receipts are scheduled far ahead; then the simulator's clock is set forward.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import orjson

from benchmarks.connectors import bare_http
from benchmarks.connectors.channel_costs import ACCOUNT, SETTINGS, TEXT
from benchmarks.engine.machine import Process
from stack.ports import free_port

# The text that marks one receipt in a posted body. Telegram has no receipts, so people reply to every message.
RECEIPTS = {"whatsapp": b'"recipient_id"', "instagram": b'"timestamp"', "telegram": b'"update_id"'}
KNOBS = {"telegram": ["--reply-rate", "1"]}
PEOPLE = 1000
QUIET_SECONDS = 1.0
LATE_MS, FORWARD_SECONDS = 600_000, 7200  # less than a day, so that no notice is given up or expires
FIRST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rates:
    """The figures of one simulator; a CPU second is one second of a whole core."""

    calls: float
    calls_wall: float
    receipts: float
    receipts_posted: int
    growth_mib: float  # from a fifth of the calls on


def requests(channel: str, calls: int) -> Iterator[bytes]:
    """Texts to PEOPLE people, each prepared once: the pump must cost less than what it measures."""
    prepared = [_request(channel, number) for number in range(PEOPLE)]
    return islice((prepared[number % PEOPLE] for number in count()), calls)


def _request(channel: str, number: int) -> bytes:
    its = SETTINGS[channel]
    address, text = str(15550000000 + number), f"[m-{number}] " + TEXT.format(number)
    headers = {"Content-Type": "application/json"}
    if channel == "telegram":
        return bare_http.request(
            f"/bot{its['telegram_token']}/sendMessage", headers, orjson.dumps({"chat_id": address, "text": text})
        )
    headers["Authorization"] = f"Bearer {its[f'{channel}_token']}"
    if channel == "instagram":
        body: object = {"recipient": {"id": address}, "message": {"text": text}}
        return bare_http.request("/v23.0/me/messages", headers, orjson.dumps(body))
    body = {"messaging_product": "whatsapp", "to": address, "type": "text", "text": {"body": text}}
    return bare_http.request(f"/v23.0/{ACCOUNT}/messages", headers, orjson.dumps(body))


async def measured(channel: str, calls: int, folder: Path) -> Rates:
    """Starts one simulator, measures it and stops it."""
    counted = _Counted(RECEIPTS[channel])
    port = free_port()
    async with bare_http.answering(b"{}", counted.see) as sink:
        command = [sys.executable, "-m", "simulators", channel, "--port", str(port), "--no-limits"]
        command += ["--latency-ms", "0", "--receipt-delay-ms", str(LATE_MS), "--log", str(folder / f"{channel}.jsonl")]
        command += ["--webhook-url", f"{sink}/webhook", *KNOBS.get(channel, ())]
        environment = {f"CHAT4ALL_{name.upper()}": str(value) for name, value in SETTINGS[channel].items()}
        simulator = Process(command, environment, folder / f"{channel}.log")
        try:
            await _listening(port, simulator)
            await bare_http.pump(port, requests(channel, max(calls // 20, 100)))  # warms up
            await _all_posted(port, counted)
            return await _rates(channel, calls, port, simulator, counted)
        finally:
            simulator.stop()


async def _rates(channel: str, calls: int, port: int, simulator: Process, counted: "_Counted") -> Rates:
    loop = asyncio.get_running_loop()
    counted.number = 0
    before, began = simulator.cpu_seconds(), loop.time()
    bad = await bare_http.pump(port, requests(channel, calls // 5))
    held = simulator.resident_bytes()
    bad += await bare_http.pump(port, requests(channel, calls - calls // 5))
    taken, wall = simulator.cpu_seconds(), loop.time() - began
    if bad:
        raise SystemExit(f"{bad} calls of the {channel} simulator were not answered 200: {simulator.output()[-300:]}")
    await _all_posted(port, counted)
    posted = simulator.cpu_seconds()
    return Rates(
        calls=calls / (taken - before),
        calls_wall=calls / wall,
        receipts=counted.number / (posted - taken),
        receipts_posted=counted.number,
        growth_mib=(simulator.resident_bytes() - held) / 2**20,
    )


async def _all_posted(port: int, counted: "_Counted") -> None:
    """Makes every receipt due and waits until all are posted."""
    forward = orjson.dumps({"advance_seconds": FORWARD_SECONDS})
    await bare_http.pump(port, iter([bare_http.request("/_control/clock", {}, forward)]), connections=1)
    await counted.quiet()


class _Counted:
    """Counts the receipts in the bodies that a simulator posts."""

    def __init__(self, one: bytes) -> None:
        self.number = 0
        self._one = one

    def see(self, body: bytes) -> None:
        self.number += body.count(self._one)

    async def quiet(self) -> None:
        """Waits for the first receipt, then until none has arrived for QUIET_SECONDS."""
        loop = asyncio.get_running_loop()
        began, before = loop.time(), -1
        while before != self.number or (not self.number and loop.time() - began < FIRST_SECONDS):
            before = self.number
            await asyncio.sleep(QUIET_SECONDS)


async def _listening(port: int, simulator: Process) -> None:
    while not simulator.ended:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit(f"the simulator ended: {simulator.output()[-300:]}")
