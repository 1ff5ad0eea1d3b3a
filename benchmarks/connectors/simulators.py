"""How much one simulator can take and tell on one core: calls alone, then calls that make it post receipts.

What enters: a channel. What leaves: calls and receipts a CPU second, and its memory. Its calls come from the pump of wire.py, its
webhooks go to a bare server; both run on the other cores.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import orjson

from benchmarks.connectors import wire
from benchmarks.connectors.channels import ACCOUNT, SETTINGS, TEXT
from benchmarks.engine.machine import Process
from stack.ports import free_port

# What in a posted body is one receipt, and the knobs that make a simulator post them as fast as it can.
RECEIPTS = {"whatsapp": b'"recipient_id"', "instagram": b'"timestamp"', "telegram": b'"update_id"'}
KNOBS = {"telegram": ["--reply-rate", "1"]}
PEOPLE = 1000
QUIET_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one simulator; a CPU second is a second of one whole core."""

    calls: float
    calls_wall: float
    receipts: float
    receipts_posted: int
    growth_mib: float  # from a fifth of the calls on


def requests(channel: str, calls: int) -> Iterator[bytes]:
    """Texts to PEOPLE people, each once prepared: the pump must cost less than what it measures."""
    prepared = [_request(channel, number) for number in range(PEOPLE)]
    return islice((prepared[number % PEOPLE] for number in count()), calls)


def _request(channel: str, number: int) -> bytes:
    its = SETTINGS[channel]
    address, text = str(15550000000 + number), f"[m-{number}] " + TEXT.format(number)
    headers = {"Content-Type": "application/json"}
    if channel == "telegram":
        return wire.request(
            f"/bot{its['telegram_token']}/sendMessage", headers, orjson.dumps({"chat_id": address, "text": text})
        )
    headers["Authorization"] = f"Bearer {its[f'{channel}_token']}"
    if channel == "instagram":
        body: object = {"recipient": {"id": address}, "message": {"text": text}}
        return wire.request("/v23.0/me/messages", headers, orjson.dumps(body))
    body = {"messaging_product": "whatsapp", "to": address, "type": "text", "text": {"body": text}}
    return wire.request(f"/v23.0/{ACCOUNT}/messages", headers, orjson.dumps(body))


async def measured(channel: str, calls: int, folder: Path) -> Rates:
    """Both measurements, each on a simulator of its own."""
    alone = await _run(channel, calls, folder, receipts=False)
    telling = await _run(channel, calls, folder, receipts=True)
    for_receipts = telling.cpu - alone.cpu
    return Rates(
        calls=calls / alone.cpu,
        calls_wall=calls / alone.wall,
        receipts=telling.receipts / for_receipts if for_receipts > 0 else 0.0,
        receipts_posted=telling.receipts,
        growth_mib=max(alone.growth, telling.growth) / 2**20,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    cpu: float
    wall: float
    receipts: int
    growth: int


async def _run(channel: str, calls: int, folder: Path, *, receipts: bool) -> _Run:
    counted = _Counted(RECEIPTS[channel])
    port = free_port()
    async with wire.answering(b"{}", counted.see) as sink:
        command = [sys.executable, "-m", "loadgen.providers", channel, "--port", str(port), "--no-limits"]
        command += [
            "--latency-ms",
            "0",
            "--receipt-delay-ms",
            "0",
            "--log",
            str(folder / f"{channel}-{receipts}.jsonl"),
        ]
        command += ["--webhook-url", f"{sink}/webhook", *KNOBS.get(channel, ())] if receipts else []
        environment = {f"CHAT4ALL_{name.upper()}": str(value) for name, value in SETTINGS[channel].items()}
        simulator = Process(command, environment, folder / f"{channel}-{receipts}.log")
        try:
            await _listening(port, simulator)
            await wire.pump(port, requests(channel, max(calls // 20, 100)))  # warms up
            await counted.quiet()
            counted.number = 0
            return await _pumped(channel, calls, port, simulator, counted)
        finally:
            simulator.stop()


async def _pumped(channel: str, calls: int, port: int, simulator: Process, counted: "_Counted") -> _Run:
    loop = asyncio.get_running_loop()
    cpu, began = simulator.cpu_seconds(), loop.time()
    first = await wire.pump(port, requests(channel, calls // 5))
    held = simulator.resident_bytes()
    bad = first + await wire.pump(port, requests(channel, calls - calls // 5))
    if bad:
        raise SystemExit(f"{bad} calls of the {channel} simulator were not answered 200: {simulator.output()[-300:]}")
    wall = loop.time() - began
    await counted.quiet()
    return _Run(simulator.cpu_seconds() - cpu, wall, counted.number, simulator.resident_bytes() - held)


class _Counted:
    """Receipts in the bodies that a simulator posts."""

    def __init__(self, one: bytes) -> None:
        self.number = 0
        self._one = one

    def see(self, body: bytes) -> None:
        self.number += body.count(self._one)

    async def quiet(self) -> None:
        """Waits until nothing has come for a while."""
        before = -1
        while before != self.number:
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
