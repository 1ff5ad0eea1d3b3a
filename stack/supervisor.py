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
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from schemas import private_files
from schemas.redaction import redactor
from schemas.secret_masking import masked
from schemas.tracebacks import log_plainly
from stack import ports
from stack.forks import Forks
from stack.launch import ServiceFailed
from stack.plan import Command, Process, StackPlan
from stack.servers import SERVERS
from stack.service import Child, Service
from stack.state import DEAD, EXTERNAL, FAILED, READY, STARTING, ServiceState, StackState, state_path, write_state

KEPT = "kept"  # the marker of data that the last stack was told to keep
FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # how long a group may take until all of it answers
AGAIN = 3  # the exit code of a program that could not be right any more and is to be started again
STARTS_AGAIN = 3  # how often, before it has answered for the first time
LOOK_SECONDS = 0.08  # a probe costs a millisecond, and there are up to ten at a time
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL, for a whole group
STEADY_SECONDS = 10.0  # a process that lived this long is restarted at once


class Stopped(Exception):
    """SIGTERM came while the stack was starting."""


class Supervisor:
    """Owns the children; every method runs in the main thread, because children die with the thread that forked them."""

    def __init__(self, folder: Path, plan: StackPlan) -> None:
        self.folder = folder
        self.plan = plan
        self.stopping = threading.Event()
        self.state = StackState(pid=os.getpid(), phase=STARTING, keep_data=plan.keep_data, settings=dict(plan.settings))
        self.children: list[Child] = []
        modules = dict.fromkeys(name for each in (*plan.prepare, *plan.processes) for name in each.preload)
        self.forks = Forks(list(modules), folder / "supervisor.log") if modules else None
        self._rows: dict[str, ServiceState] = {}
        self._restart_at: dict[str, float] = {}
        self._backoff: dict[str, float] = {}

    def say(self, sentence: str) -> None:
        """A line of supervisor.log."""
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._told(sentence)}\n")
        sys.stderr.flush()

    def _told(self, sentence: str) -> str:
        """The sentence without the secrets of this stack: it may quote a program's last words."""
        return redactor(self.state.settings)(sentence)

    def run(self) -> int:
        write_state(self.folder, self.state)  # first of all, so that whoever wants to end it finds its pid
        try:
            self._start()
        except Stopped:
            self._end()
            return 0
        except Exception as error:  # noqa: BLE001  # whatever stops a start is told to the one who waits for it
            self.say(f"start failed: {error}")
            self._stop_children()
            self.state.phase, self.state.error = FAILED, self._told(str(error)) or type(error).__name__
            write_state(self.folder, self.state)
            return 1
        while not self.stopping.wait(0.1):
            self._watch()
        self._end()
        return 0

    def _start(self) -> None:
        for process in self.plan.processes:  # whoever made the plan chose their ports, and nobody has bound them yet
            for url in (process.url, *process.parts.values()):
                ports.keep(urlsplit(url).port or 0)
        for name, url in self.plan.replaced.items():
            self.state.services.append(ServiceState(name=name, url=url, status=EXTERNAL))
        servers = []
        for name in self.plan.servers:
            more = {"locks": self.plan.locks} if name == "kafka" else {}
            servers.append(SERVERS[name](self.folder / name, **more))
            self.state.settings |= servers[-1].settings  # known before it answers, and read by nobody until then
            self._launch(servers[-1])
        if self.plan.locks == "secured":
            servers.append(self._behind_tls())
        if self.forks is not None:
            self.forks.start()  # it imports while the servers start
        processes = [self._service(process) for process in self.plan.processes]
        self._await(servers)
        self._let_in(servers)
        for command in self.plan.prepare:
            self._run(command)
        for service in processes:
            self._launch(service)
        self._await(processes)
        self.state.phase = READY
        write_state(self.folder, self.state)

    def _behind_tls(self) -> Service:
        """TLS for the servers that have none of their own; their settings lead through it from now on."""
        from stack import tls_server  # noqa: PLC0415  # with the maker of certificates, which no other stack needs

        own = {name: url for name, url in self.state.settings.items() if name.removesuffix("_url") in self.plan.servers}
        service = tls_server.service(self.folder / "tls", own)
        self.state.settings |= service.settings
        self._launch(service)
        return service

    def _let_in(self, servers: Sequence[Service]) -> None:
        """Makes the users of a secured Kafka."""
        for kafka in (server for server in servers if server.name == "kafka" and self.plan.access):
            from stack import kafka_listeners, kafka_users  # noqa: PLC0415  # with Kafka's client

            known = kafka_users.passwords(self.folder, sorted(self.plan.access))
            admin = kafka_listeners.admin(self.folder / "kafka", kafka.parts[kafka_listeners.MUTUAL])
            kafka_users.apply(admin, known, self.plan.access)

    def _launch(self, service: Service) -> None:
        """Starts it; several are started before the first is awaited, so that they take as long as the slowest."""
        child = Child(service, self.forks if service.forked else None)
        row = ServiceState(
            name=service.name, url=service.url, status=STARTING, log=str(service.log), parts=dict(service.parts)
        )
        self.children.append(child)
        self.state.services.append(row)
        self._rows[service.name] = row
        child.start()
        row.pid, row.started_at = child.pid, child.started_at

    def _await(self, services: Sequence[Service]) -> None:
        """Until all of them answer; looks at each in turn, so that none begins its last step later than it could."""
        write_state(self.folder, self.state)
        waiting, deadline = list(services), time.monotonic() + ANSWER_SECONDS
        while waiting:
            for service in list(waiting):
                if self._started_again(service):
                    continue
                if self._child_of(service).look(deadline, ANSWER_SECONDS):
                    waiting.remove(service)
                    self._ready(service)
            if self.stopping.wait(LOOK_SECONDS if waiting else 0):
                raise Stopped

    def _started_again(self, service: Service) -> bool:
        """A worker that ends with AGAIN asks for a new start, as it may on a broker that has just started; any other end is a failure."""
        child, row = self._child_of(service), self._rows[service.name]
        restartable = any(process.name == service.name and process.restarts for process in self.plan.processes)
        if child.returncode != AGAIN or not restartable or row.restarts >= STARTS_AGAIN:
            return False
        self.say(f"{row.name.upper()} ENDED with {AGAIN} before it answered; restarting it; {child.log_tail()}")
        child.start()
        row.pid, row.started_at = child.pid, child.started_at
        row.restarts += 1
        return True

    def _ready(self, service: Service) -> None:
        child, row = self._child_of(service), self._rows[service.name]
        row.status, row.version = READY, child.version
        write_state(self.folder, self.state)
        seconds = time.time() - child.started_at / 1000
        self.say(f"{row.name} {row.version} answers on {row.address} after {seconds:.1f} s")

    def _child_of(self, service: Service) -> Child:
        return next(child for child in self.children if child.service is service)

    def _run(self, program: Command) -> None:
        service = self._service(Process(**vars(program), health="", url=""))
        command = Child(service, self.forks if service.forked else None)
        self.children.append(command)
        command.start()
        while command.returncode is None:
            if self.stopping.wait(0.02):
                raise Stopped
        self.children.remove(command)
        if command.returncode:
            raise ServiceFailed(f"{command.service.name} ended with {command.returncode}; {command.log_tail()}")

    def _service(self, process: Process) -> Service:
        env = {**process.env, "CHAT4ALL_STATE": str(state_path(self.folder))}
        return Service(
            name=process.name,
            folder=self.folder / process.name,
            url=process.url,
            parts=process.parts,
            steps=[process.argv],
            forked=bool(process.preload),
            probe=healthy(process.health),
            env=env,
            ours=True,
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
                self.say(f"{row.name.upper()} DIED with {child.returncode}; {what}; {child.log_tail()}")
                if row.name in restartable:
                    self._restart_at[row.name] = time.monotonic() + self._next_backoff(child)
            elif row.name in restartable and time.monotonic() >= self._restart_at[row.name]:
                try:
                    child.start()
                except ServiceFailed as error:
                    self.say(f"{row.name} could not be started again: {error}")
                    self._restart_at[row.name] = time.monotonic() + LAST_BACKOFF_SECONDS
                    continue
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
        self.say(f"{row.name} answers again, restart {row.restarts}")
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
        """Processes first, then servers; within a group all are asked at once. Servers whose data go anyway are given no time."""
        of_servers = {*self.plan.servers, "tls"}
        processes = [child for child in self.children if child.service.name not in of_servers]
        servers = [child for child in self.children if child.service.name in of_servers]
        for group in (processes, servers):
            for child in reversed(group):
                dropped = group is servers and not self.plan.keep_data
                child.terminate(child.service.drop_signal if dropped else signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            for child in reversed(group):
                child.stop(timeout_seconds=max(0.1, deadline - time.monotonic()))
        if self.forks is not None:
            self.forks.close()

    def _end(self) -> None:
        self.say("stopping")
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

    port = urlsplit(address).port or 80

    def probe() -> str:
        ports.answers(port)  # a tenth of the price of an HTTP client that is refused
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310  # a loopback URL of the plan; raises unless 2xx
            return importlib.metadata.version("chat4all")

    return probe


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--lock", type=int, required=True, help="inherited file descriptor that claims the folder")
    arguments = parser.parse_args()
    os.umask(private_files.UMASK)  # data, logs and state of all children too
    arguments.folder.chmod(private_files.FOLDER)  # one that an earlier release made may be open
    log_plainly(masked)  # an end that nobody foresaw may quote what servers say
    os.set_inheritable(arguments.lock, False)  # the claim must not outlive this process in a child
    plan = StackPlan.from_json(sys.stdin.read())
    if os.fork():
        os._exit(0)  # detached: the starter waits for this first process, and nobody's zombie is left at the end
    supervisor = Supervisor(arguments.folder, plan)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: supervisor.stopping.set())
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
