"""The parent of a whole stack: `python -m stack.supervisor --folder F --lock FD`, with the plan on standard input; it detaches itself.

Enters: a Plan. Leaves: running servers and processes, and the state file that describes them. Guaranteed: SIGTERM (or SIGINT) ends
all in the reverse of their start; the death of the supervisor itself, by whatever signal, ends all through the kernel; a process
that may be restarted is, with a line in the log and a counter; a server's death is said loudly and left alone, for its clients
must notice. A start that fails ends everything, keeps the logs, and leaves its one sentence in the state file.
"""

import argparse
import contextlib
import importlib.metadata
import os
import shutil
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from stack.plan import Plan, Process
from stack.servers import SERVERS
from stack.service import Child, Service, ServiceFailed
from stack.state import DEAD, EXTERNAL, FAILED, READY, STARTING, ServiceState, State, state_path, write_state

KEPT = "kept"  # the marker of data that the last stack was told to keep
FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 10.0
PATIENCE_SECONDS = 10.0  # between SIGTERM and SIGKILL, for a whole group
STEADY_SECONDS = 10.0  # a process that lived this long is restarted at once


class Stopped(Exception):
    """SIGTERM came while the stack was starting."""


def say(sentence: str) -> None:
    """A line of supervisor.log."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}\n")
    sys.stderr.flush()


class Supervisor:
    """Owns the children; every method runs in the main thread, because children die with the thread that forked them."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self.stopping = threading.Event()
        self.state = State(pid=os.getpid(), phase=STARTING, keep_data=plan.keep_data, settings=dict(plan.settings))
        self.children: list[Child] = []
        self._rows: dict[str, ServiceState] = {}
        self._restart_at: dict[str, float] = {}
        self._backoff: dict[str, float] = {}

    def run(self) -> int:
        write_state(self.folder, self.state)  # first of all, so that whoever wants to end it finds its pid
        try:
            self._start()
        except Stopped:
            self._end()
            return 0
        except Exception as error:  # noqa: BLE001  # whatever stops a start is told to the one who waits for it
            say(f"start failed: {error}")
            self._stop_children()
            self.state.phase, self.state.error = FAILED, str(error) or type(error).__name__
            write_state(self.folder, self.state)
            return 1
        while not self.stopping.wait(0.1):
            self._watch()
        self._end()
        return 0

    def _start(self) -> None:
        for name, url in self.plan.replaced.items():
            self.state.services.append(ServiceState(name=name, url=url, status=EXTERNAL))
        self._start_group([SERVERS[name](self.folder / name) for name in self.plan.servers])
        for child in self.children:
            self.state.settings |= child.service.settings
        write_state(self.folder, self.state)  # from here on, Settings() of every child finds the servers
        for name, argv in self.plan.prepare.items():
            self._prepare(name, argv)
        self._start_group([self._service(process) for process in self.plan.processes])
        self.state.phase = READY
        write_state(self.folder, self.state)

    def _start_group(self, services: list[Service]) -> None:
        """Starts all of them, then waits for each; so the group takes as long as its slowest member."""
        for service in services:
            child = Child(service)
            row = ServiceState(name=service.name, url=service.url, status=STARTING, log=str(service.log))
            self.children.append(child)
            self.state.services.append(row)
            self._rows[service.name] = row
            child.start()
            row.pid, row.started_at = child.pid, child.started_at
        write_state(self.folder, self.state)
        for service in services:
            child = next(child for child in self.children if child.service is service)
            child.wait(cancelled=self.stopping.is_set)
            if self.stopping.is_set():
                raise Stopped
            self._rows[service.name].status = READY
            self._rows[service.name].version = child.version
            write_state(self.folder, self.state)
            say(
                f"{service.name} {child.version} answers on {service.url} after {time.time() - child.started_at / 1000:.1f} s"
            )

    def _prepare(self, name: str, argv: list[str]) -> None:
        command = Child(self._service(Process(name=name, argv=argv, health="", url="")))
        self.children.append(command)
        command.start()
        while command.returncode is None:
            if self.stopping.wait(0.05):
                raise Stopped
        self.children.remove(command)
        if command.returncode:
            raise ServiceFailed(f"{name} ended with {command.returncode}; {command.last_words()}")

    def _service(self, process: Process) -> Service:
        env = {**process.env, "CHAT4ALL_STATE": str(state_path(self.folder))}
        return Service(
            name=process.name,
            folder=self.folder / process.name,
            url=process.url,
            steps=[process.argv],
            probe=healthy(process.health),
            env=env,
        )

    def _watch(self) -> None:
        """One look at every child; writes the state file when something changed."""
        restartable = {process.name for process in self.plan.processes if process.restarts}
        changed = False
        for child in self.children:
            row = self._rows[child.service.name]
            if child.returncode is None:
                changed |= row.status == STARTING and self._now_ready(child, row)
            elif row.status != DEAD:
                row.status, row.pid, changed = DEAD, 0, True
                what = "restarting it" if row.name in restartable else "IT STAYS DEAD, and what depends on it fails"
                say(f"{row.name.upper()} DIED with {child.returncode}; {what}; {child.last_words()}")
                if row.name in restartable:
                    self._restart_at[row.name] = time.monotonic() + self._next_backoff(child)
            elif row.name in restartable and time.monotonic() >= self._restart_at[row.name]:
                child.start()
                row.status, row.pid, row.started_at, changed = STARTING, child.pid, child.started_at, True
                row.restarts += 1
        if changed:
            write_state(self.folder, self.state)

    def _now_ready(self, child: Child, row: ServiceState) -> bool:
        try:
            row.version = child.service.probe()
        except Exception:  # noqa: BLE001  # not yet; a probe may fail in any way
            return False
        row.status = READY
        say(f"{row.name} answers again, restart {row.restarts}")
        return True

    def _next_backoff(self, child: Child) -> float:
        """Seconds until the next start: none after a steady life, else doubling."""
        name = child.service.name
        if time.time() - child.started_at / 1000 > STEADY_SECONDS:
            self._backoff.pop(name, None)
            return 0.0
        wait = self._backoff.get(name, 0.0)
        self._backoff[name] = min(max(wait * 2, FIRST_BACKOFF_SECONDS), LAST_BACKOFF_SECONDS)
        return wait

    def _stop_children(self) -> None:
        """Processes first, then servers; within a group all are asked at once."""
        processes = [child for child in self.children if child.service.name not in self.plan.servers]
        servers = [child for child in self.children if child.service.name in self.plan.servers]
        for group in (processes, servers):
            for child in reversed(group):
                child.terminate()
            deadline = time.monotonic() + PATIENCE_SECONDS
            for child in reversed(group):
                child.stop(patience_seconds=max(0.1, deadline - time.monotonic()))

    def _end(self) -> None:
        say("stopping")
        self._stop_children()
        if self.plan.keep_data:
            (self.folder / KEPT).touch()
            state_path(self.folder).unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.folder.parent.name == ".chat4all":
                with contextlib.suppress(OSError):  # not empty: another stack lives there
                    self.folder.parent.rmdir()


def healthy(address: str) -> Callable[[], str]:
    """A probe that wants a good status; the version of our own programs is that of the product."""

    def probe() -> str:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310  # a loopback URL of the plan; raises unless 2xx
            return importlib.metadata.version("chat4all")

    return probe


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--lock", type=int, required=True, help="inherited file descriptor that claims the folder")
    arguments = parser.parse_args()
    os.set_inheritable(arguments.lock, False)  # the claim must not outlive this process in a child
    plan = Plan.from_json(sys.stdin.read())
    if os.fork():
        os._exit(0)  # detached: the starter waits for this first process, and nobody's zombie is left at the end
    supervisor = Supervisor(arguments.folder, plan)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: supervisor.stopping.set())
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
