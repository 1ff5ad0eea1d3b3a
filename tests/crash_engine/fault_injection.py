"""The processes of a crash run: a broker, three workers, and the faults.

A process that has ended, by a fault or by itself, is started again a moment later, as a supervisor does. Nothing here waits: `keep_up`
is called repeatedly and does what is due.
"""

import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stack import kafka_server
from stack.ports import free_port
from stack.service import Child, NotYet, Service
from tests.support.engine_harness import Toy, ask

STORES = ("memory", "rocksdb", "memory")  # of the workers, so that partitions move between the two kinds
SESSION_SECONDS = 6.0  # the product's default; the target for SIGKILL assumes it
FREEZE_SECONDS = SESSION_SECONDS + 3
CALM_SECONDS = 120.0
_BROKER_STOP_SECONDS = 20.0  # for a clean end; a broker that takes longer is killed
KINDS = ("SIGKILL", "SIGTERM", "SIGSTOP", "broker SIGTERM", "broker SIGKILL")
# One round; the rounds are shuffled, so that even a short run sees every kind.
ROUND = ("SIGKILL", *KINDS)


@dataclass(frozen=True)
class Fault:
    kind: str
    at: float  # monotonic seconds
    target: str


def kinds(chance: random.Random) -> Iterator[str]:
    """Kinds of faults without end, in rounds of a random order."""
    while True:
        yield from chance.sample(ROUND, len(ROUND))


class World:
    """Owns the processes. Not thread-safe: one thread strikes and keeps up."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder = folder
        self._chance = chance
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._frozen: set[str] = set()
        self._ended: set[str] = set()
        self._doomed: dict[str, int] = {}  # name -> pid of a process that got a signal to end
        self.broker = Child(kafka_server.service(folder / "kafka"))
        self.workers: list[Child] = []
        self.toy: Toy

    def start(self) -> None:
        self.broker.start()
        self.broker.wait()
        # A second start must not format the folder again.
        self.broker.service = dataclasses.replace(self.broker.service, steps=self.broker.service.steps[-1:])
        self.toy = Toy(self.broker.service.url, "crash", self._folder, sources=("in", "more"), partitions=6)
        self.workers = [Child(self._worker(number)) for number in range(len(STORES))]
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            worker.wait()

    def stop(self) -> None:
        for worker in self.workers:
            self._signal(worker, signal.SIGCONT)
            worker.terminate()
        for child in (*self.workers, self.broker):
            child.stop(timeout_seconds=30)

    def _worker(self, number: int) -> Service:
        folder = self._folder / f"worker-{number}"
        folder.mkdir()
        port, probe_port = free_port(), free_port()
        probes = f"http://127.0.0.1:{probe_port}"
        return Service(
            name=f"worker-{number}",
            folder=folder,
            url=f"http://127.0.0.1:{port}",
            parts={"probes": probes},
            steps=[self.toy.command],
            probe=lambda: _ready(probes),
            env={
                **self.toy.environment(
                    folder / "data", web_port=port, probe_port=probe_port, session_seconds=SESSION_SECONDS
                ),
                "CHAT4ALL_STORE": STORES[number],
            },
        )

    # --- faults ---------------------------------------------------------------------------------------------------------

    def strike(self, kind: str) -> Fault | None:
        """Causes a fault of this kind in a random running worker or in the broker; None when there is none."""
        standing = [w for w in self.workers if w.returncode is None and w.service.name not in self._frozen]
        target = self.broker if kind.startswith("broker") else self._chance.choice(standing) if standing else None
        if target is None or target.returncode is not None:
            return None
        number = signal.Signals[kind.removeprefix("broker ")]
        self._signal(target, number)
        fault = Fault(kind, time.monotonic(), target.service.name)
        if number != signal.SIGSTOP:
            self._doomed[target.service.name] = target.pid
        else:
            self._frozen.add(target.service.name)
            self._due.append((fault.at + FREEZE_SECONDS, lambda: self._thaw(target)))
        if kind == "broker SIGTERM":
            pid = target.pid
            self._due.append((fault.at + _BROKER_STOP_SECONDS, lambda: self._kill_if_still(target, pid)))
        return fault

    def keep_up(self) -> None:
        """Continues workers that were frozen long enough, and starts processes again a moment after their end."""
        now = time.monotonic()
        due = [act for at, act in self._due if at <= now]
        self._due = [(at, act) for at, act in self._due if at > now]
        for act in due:
            act()
        for child in (self.broker, *self.workers):
            name = child.service.name
            if child.returncode is not None and name not in self._ended:
                self._ended.add(name)
                self._due.append((now + self._chance.uniform(0.2, 2.0), lambda child=child: self._restart(child)))  # type: ignore[misc]  # mypy cannot type a default in a lambda

    def urls(self) -> list[str]:
        """The URLs of the workers' web views."""
        return [worker.service.url for worker in self.workers]

    def probes(self) -> list[str]:
        """The URLs of the workers' probes."""
        return [worker.service.parts["probes"] for worker in self.workers]

    def is_whole(self) -> bool:
        """Whether all processes run, and none is frozen or about to end."""
        running = all(child.returncode is None for child in (self.broker, *self.workers))
        return running and not self._frozen and not self._doomed

    def calm(self) -> None:
        """Ends the faults: starts all processes again and waits until all are ready, however often one ends itself meanwhile."""
        end = time.monotonic() + CALM_SECONDS
        while not (self.is_whole() and all(_is_ready(worker.service.parts["probes"]) for worker in self.workers)):
            self.keep_up()
            if time.monotonic() > end:
                raise TimeoutError(f"not all workers are ready {CALM_SECONDS:.0f} s after the last fault")
            time.sleep(0.1)

    def _restart(self, child: Child) -> None:
        self._ended.discard(child.service.name)
        self._doomed.pop(child.service.name, None)
        child.start()

    def _thaw(self, child: Child) -> None:
        self._frozen.discard(child.service.name)
        self._signal(child, signal.SIGCONT)

    def _kill_if_still(self, child: Child, pid: int) -> None:
        if child.pid == pid:
            self._signal(child, signal.SIGKILL)

    @staticmethod
    def _signal(child: Child, number: int) -> None:
        if child.returncode is None:
            os.kill(child.pid, number)


def _ready(url: str) -> str:
    status = str(ask(url, "/health")["status"])
    if status != "ready":
        raise NotYet(status)
    return status


def _is_ready(url: str) -> bool:
    try:
        return bool(_ready(url))
    except (OSError, NotYet):
        return False
