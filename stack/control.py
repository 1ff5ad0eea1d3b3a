"""Starting and ending a stack from another process: what `chat4all up` and `down` do, and what demo and tests call.

Enters: a folder and a Plan. Leaves: a detached supervisor, or its end. Guaranteed: one stack per folder, a second start is refused
with the pid and the URLs of the first; after stop() no process of the stack is left and, unless they are kept, no data.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from schemas import private_files
from stack import kafka_server
from stack.plan import StackPlan
from stack.state import FAILED, READY, StackState, is_running, lock, read_state, state_path
from stack.supervisor import KEPT


class StackRefused(Exception):
    """The stack cannot be started or ended; one sentence says why and what to do."""


def start(
    folder: Path,
    plan: StackPlan,
    progress: Callable[[StackState], None] = lambda _state: None,
    say: Callable[[str], None] = lambda _sentence: None,
    limit_seconds: float = 180.0,
) -> StackState:
    """Starts the stack and returns when all of it answers; `progress` sees every state on the way, `say` gets what a first start of
    this machine does besides. Raises StackRefused."""
    folder = folder.resolve()
    if is_running(folder):
        raise StackRefused(_already(folder))
    if "kafka" in plan.servers:
        kafka_server.make_ready(say)  # what only a first run does belongs to whoever waits, not to the supervisor
    claim = lock(folder)
    if claim is None:
        raise StackRefused(_already(folder))
    try:
        _await_orphans(folder)
        _make_room(folder, plan)
        _spawn(folder, plan, claim)
    finally:
        os.close(claim)  # the supervisor has inherited it
    try:
        return _await_ready(folder, progress, limit_seconds)
    except BaseException:  # a Ctrl-C while it starts ends it as well
        if is_running(folder):
            stop(folder)
        raise


def stop(folder: Path, limit_seconds: float = 60.0) -> bool:
    """Ends the stack of this folder, or clears away what a dead one left; False when there is nothing of it."""
    folder = folder.resolve()
    state = read_state(folder)
    if is_running(folder):
        _end_supervisor(folder, limit_seconds)
        return True
    if state is None and not (folder / "supervisor.log").exists():
        return False
    # Its supervisor was killed or its start failed; its children are gone, or going, its files are not.
    _await_orphans(folder)
    if state is not None and state.keep_data:
        (folder / KEPT).touch()
        state_path(folder).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def memory(pid: int) -> int:
    """Bytes a service and its own children occupy; shared pages are counted once where the system tells (Linux)."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                full = member.memory_full_info()
                total += getattr(full, "pss", 0) or full.rss
    return total


def _end_supervisor(folder: Path, limit_seconds: float) -> None:
    deadline = time.monotonic() + limit_seconds
    pid = 0
    while is_running(folder):
        state = read_state(folder)
        if state is not None:
            pid = state.pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if time.monotonic() > deadline:
            raise StackRefused(f"the stack of {folder} does not end; look into {folder / 'supervisor.log'}")
        time.sleep(0.1)
    _await_end(pid)


def _await_orphans(folder: Path) -> None:
    """The kernel ends the children of a killed supervisor, but PostgreSQL takes a moment to leave."""
    state = read_state(folder)
    for service in state.services if state else []:
        with contextlib.suppress(psutil.Error):
            born = psutil.Process(service.pid).create_time() * 1000
            if service.pid and abs(born - service.started_at) < 5000:  # else the pid is somebody else's by now
                _await_end(service.pid)


def _await_end(pid: int, limit_seconds: float = 15.0) -> None:
    """Until the process runs no more; a zombie runs no more, it waits for an init process that a container may lack."""
    deadline = time.monotonic() + limit_seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while pid and process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)


def _make_room(folder: Path, plan: StackPlan) -> None:
    """Data are taken up only when somebody asked for it; the rest of an earlier stack would only confuse this one."""
    kept = folder / KEPT
    if not (plan.keep_data or kept.exists()):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
    kept.unlink(missing_ok=True)
    state_path(folder).unlink(missing_ok=True)


def _spawn(folder: Path, plan: StackPlan, claim: int) -> None:
    command = [sys.executable, "-m", "stack.supervisor", "--folder", str(folder), "--lock", str(claim)]
    log = folder / "supervisor.log"
    with private_files.append_to(log) as output:
        text = plan.to_json().encode()
        done = subprocess.run(
            command, input=text, stdout=output, stderr=output, start_new_session=True, pass_fds=[claim], check=False
        )
    if done.returncode:
        raise StackRefused(f"the supervisor ended with {done.returncode}; look into {log}")


def _await_ready(folder: Path, progress: Callable[[StackState], None], limit_seconds: float) -> StackState:
    deadline = time.monotonic() + limit_seconds
    while True:
        running = is_running(folder)  # asked first: what it wrote before its end is read after it
        state = read_state(folder)
        if state is not None:
            progress(state)
            if state.phase == READY and running:
                return state
            if state.phase == FAILED and not running:
                raise StackRefused(state.error)
        if not running:
            raise StackRefused(f"the supervisor has ended; look into {folder / 'supervisor.log'}")
        if time.monotonic() > deadline:
            raise StackRefused(
                f"the stack was not ready within {limit_seconds:.0f} s; look into {folder / 'supervisor.log'}"
            )
        time.sleep(0.05)


def _already(folder: Path) -> str:
    state = read_state(folder)
    if state is None:
        return f"a stack in {folder} is just starting or ending; try again in some seconds"
    urls = ", ".join(f"{service.name} {service.address}" for service in state.services if service.address)
    return f"the stack of {folder} is already up (pid {state.pid}): {urls}; end it with `chat4all down`, or choose another --name"
