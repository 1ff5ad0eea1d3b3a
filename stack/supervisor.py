"""The parent process of a whole stack: `python -m stack.supervisor --folder F --lock FD`, with the plan on standard input. It detaches
itself.

Enters: a StackPlan. Leaves: running servers and processes, the state file that describes them, and the targets of Prometheus.
Guaranteed: SIGTERM or SIGINT ends all of them, in reverse order of their start. When the supervisor itself ends in any way, the kernel
ends all of them. A process with `restarts` that ends is started again, with a line in the log and a counter. A server that ends is not
started again: the log and the state say that it is dead, and its clients must cope. A start that fails ends everything, keeps the logs,
and leaves one sentence in the state file.
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
from stack.targets import remove_targets, write_targets

KEPT = "kept"  # name of the file that marks kept data
FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # limit for a group of services to become ready
AGAIN = 3  # the exit code of a program that asks to be started again
STARTS_AGAIN = 3  # how often that is done before it was ready for the first time
LOOK_SECONDS = 0.08  # between probes; a probe takes a millisecond, and there are up to ten
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL, for a whole group
STEADY_SECONDS = 10.0  # a process that ran this long is restarted without back-off


class Stopped(Exception):
    """The supervisor was asked to stop while the stack was starting."""


class Supervisor:
    """Starts, watches and stops the children of one stack.

    All methods run in the main thread, because a child ends with the thread that forked it. `stopping` is the only way to reach it from
    outside: a signal handler sets it. Every change of a child's status is written to the state file.
    """

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
        """Writes a line to supervisor.log, with the secrets of the stack masked."""
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._redacted(sentence)}\n")
        sys.stderr.flush()

    def _redacted(self, sentence: str) -> str:
        """The sentence without the secrets of this stack: it may quote a program's log."""
        return redactor(self.state.settings)(sentence)

    def run(self) -> int:
        """Runs the stack until `stopping` is set, and ends it. Returns the exit code: 1 if the start failed, else 0. Blocks, and never
        raises an error of a start: that goes to the log and the state file."""
        write_state(self.folder, self.state)  # first, so that `chat4all down` finds the pid
        try:
            self._start()
        except Stopped:
            self._end()
            return 0
        except Exception as error:  # noqa: BLE001  # any error of a start is reported in the state file
            self.say(f"start failed: {error}")
            remove_targets(self.folder)
            self._stop_children()
            self.state.phase, self.state.error = FAILED, self._redacted(str(error)) or type(error).__name__
            write_state(self.folder, self.state)
            return 1
        while not self.stopping.wait(0.1):
            self._watch()
        self._end()
        return 0

    def _start(self) -> None:
        for process in self.plan.processes:  # the plan has chosen their ports; nothing listens there yet
            for url in (process.url, *process.parts.values()):
                ports.keep(urlsplit(url).port or 0)
        for name, url in self.plan.replaced.items():
            self.state.services.append(ServiceState(name=name, url=url, status=EXTERNAL))
        servers = []
        for name in self.plan.servers:
            more = {"locks": self.plan.locks} if name == "kafka" else {}
            servers.append(SERVERS[name](self.folder / name, **more))
            self.state.settings |= servers[
                -1
            ].settings  # known already; no program reads them before the server is ready
            self._launch(servers[-1])
        if self.plan.locks == "secured":
            servers.append(self._start_tls())
        if self.forks is not None:
            self.forks.start()  # it imports while the servers start
        processes = [self._service(process) for process in self.plan.processes]
        self._await(servers)
        self._make_users(servers)
        for command in self.plan.prepare:
            self._run(command)
        for service in processes:
            self._launch(service)
        self._await(processes)
        self.state.phase = READY
        write_state(self.folder, self.state)
        write_targets(self.folder, self.state)

    def _start_tls(self) -> Service:
        """Starts TLS in front of the servers that have none of their own, and changes their settings to use it."""
        from stack import tls_server  # noqa: PLC0415  # it imports the library for certificates, which only a secured stack needs

        own = {name: url for name, url in self.state.settings.items() if name.removesuffix("_url") in self.plan.servers}
        service = tls_server.service(self.folder / "tls", own)
        self.state.settings |= service.settings
        self._launch(service)
        return service

    def _make_users(self, servers: Sequence[Service]) -> None:
        """Makes the users of a secured Kafka, with their rights."""
        for kafka in (server for server in servers if server.name == "kafka" and self.plan.access):
            from stack import kafka_listeners, kafka_users  # noqa: PLC0415  # it imports Kafka's client

            known = kafka_users.passwords(self.folder, sorted(self.plan.access))
            admin = kafka_listeners.admin(self.folder / "kafka", kafka.parts[kafka_listeners.MUTUAL])
            kafka_users.apply(admin, known, self.plan.access)

    def _launch(self, service: Service) -> None:
        """Starts the service without waiting for it. All are started before the first is awaited, so the start takes as long as the
        slowest."""
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
        """Waits until all of them are ready, probing each in turn. Raises ServiceFailed or Stopped."""
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
        """Restarts a worker that ended with AGAIN before it was ready, as it may on a broker that has just started. Any other end is a
        failure."""
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
        """Checks every child once; restarts what has to be restarted; writes the state file if something changed."""
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
        except Exception:  # noqa: BLE001  # not ready yet; a probe may raise anything
            return False
        row.status = READY
        self.say(f"{row.name} answers again, restart {row.restarts}")
        return True

    def _next_backoff(self, child: Child) -> float:
        """Seconds until the next start: 0 if it ran for STEADY_SECONDS, else the back-off, which doubles."""
        name = child.service.name
        if time.time() - child.started_at / 1000 > STEADY_SECONDS:
            self._backoff.pop(name, None)
            return 0.0
        wait = self._backoff.get(name, 0.0)
        self._backoff[name] = min(max(wait * 2, FIRST_BACKOFF_SECONDS), LAST_BACKOFF_SECONDS)
        return wait

    def _stop_children(self) -> None:
        """Stops the processes first, then the servers; each group at the same time. Servers whose data are deleted end at once."""
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
        remove_targets(self.folder)
        self._stop_children()
        if self.plan.keep_data:
            (self.folder / KEPT).touch()
            state_path(self.folder).unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.folder.parent.name == ".chat4all":
                with contextlib.suppress(OSError):  # not empty: it holds another stack
                    self.folder.parent.rmdir()


def healthy(address: str) -> Callable[[], str]:
    """A probe that requires a 2xx status from the URL. It returns the version of the product, which is that of our own programs."""

    port = urlsplit(address).port or 80

    def probe() -> str:
        ports.answers(port)  # ten times cheaper than an HTTP client whose connection is refused
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310  # a loopback URL; raises unless 2xx
            return importlib.metadata.version("chat4all")

    return probe


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--lock", type=int, required=True, help="inherited file descriptor that holds the lock of the folder"
    )
    arguments = parser.parse_args()
    os.umask(private_files.UMASK)  # also for data and logs of all children
    arguments.folder.chmod(private_files.FOLDER)  # an earlier release may have made it readable for others
    log_plainly(masked)  # a traceback may quote texts of servers
    os.set_inheritable(arguments.lock, False)  # a child must not hold the lock longer than this process
    plan = StackPlan.from_json(sys.stdin.read())
    if os.fork():
        os._exit(0)  # detached: the starter waits only for this first process, and the second one leaves no zombie
    supervisor = Supervisor(arguments.folder, plan)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: supervisor.stopping.set())
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
