"""Starts and stops a stack from another process: for `chat4all up` and `down`, and for demos and tests.

Enters: a folder and a StackPlan. Leaves: a detached supervisor, or its end. Guaranteed: one stack per folder; a second start is refused
with the pid and the URLs of the first; after stop() no process of the stack is left, and no data unless they are kept. All functions
block and may be called from any thread: the stack does not end with the caller.
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
    """The stack cannot be started or stopped. One sentence says why, and what to do."""


def start(
    folder: Path,
    plan: StackPlan,
    progress: Callable[[StackState], None] = lambda _state: None,
    say: Callable[[str], None] = lambda _sentence: None,
    limit_seconds: float = 180.0,
) -> StackState:
    """Starts the stack and returns its state when all services are ready. Blocks until then, at most `limit_seconds` after the download
    that a first start on a machine needs.

    `progress` gets each state that was read meanwhile, in this thread; `say` gets a line for each step of a first start on the machine.
    Raises StackRefused when the stack runs already, does not start or takes too long, and ServiceFailed when Kafka cannot be downloaded.
    A start that fails leaves its logs and no process. A start that is interrupted (KeyboardInterrupt) is stopped as by `stop`."""
    folder = folder.resolve()
    if is_running(folder):
        raise StackRefused(_already(folder))
    if "kafka" in plan.servers:
        # The download of a first start is shown to the caller, so it is not the supervisor's work.
        kafka_server.make_ready(say)
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
    except BaseException:  # Ctrl-C during the start stops it too
        if is_running(folder):
            stop(folder)
        raise


def stop(folder: Path, limit_seconds: float = 60.0) -> bool:
    """Stops the stack of this folder, or removes the files of a dead one. Blocks until all its processes have ended. Returns False when
    there is neither. Deletes the data unless the stack was started with `keep_data`. Raises StackRefused after `limit_seconds`."""
    folder = folder.resolve()
    state = read_state(folder)
    if is_running(folder):
        _end_supervisor(folder, limit_seconds)
        return True
    if state is None and not (folder / "supervisor.log").exists():
        return False
    # Its supervisor was killed or its start failed: its children have ended or are ending, but its files are still there.
    _await_orphans(folder)
    if state is not None and state.keep_data:
        (folder / KEPT).touch()
        state_path(folder).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def memory(pid: int) -> int:
    """Memory of a process and its children in bytes; 0 when it has ended. On Linux, each shared page is counted once in the sum."""
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
            raise StackRefused(f"the stack of {folder} does not stop; see {folder / 'supervisor.log'}")
        time.sleep(0.1)
    _await_end(pid)


def _await_orphans(folder: Path) -> None:
    """Waits for the children of a killed supervisor. The kernel ends them, but PostgreSQL needs a moment."""
    state = read_state(folder)
    for service in state.services if state else []:
        with contextlib.suppress(psutil.Error):
            born = psutil.Process(service.pid).create_time() * 1000
            if service.pid and abs(born - service.started_at) < 5000:  # otherwise another process has the pid now
                _await_end(service.pid)


def _await_end(pid: int, limit_seconds: float = 15.0) -> None:
    """Waits until the process has ended, at most so long. A zombie has ended: it only waits for an init process, which a container may
    lack."""
    deadline = time.monotonic() + limit_seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while pid and process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)


def _make_room(folder: Path, plan: StackPlan) -> None:
    """Deletes what an earlier stack left in the folder, unless its data were kept or this plan keeps data."""
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
        raise StackRefused(f"the supervisor ended with {done.returncode}; see {log}")


def _await_ready(folder: Path, progress: Callable[[StackState], None], limit_seconds: float) -> StackState:
    deadline = time.monotonic() + limit_seconds
    while True:
        # Before the state: so the last state of a supervisor that has just ended is not missed.
        running = is_running(folder)
        state = read_state(folder)
        if state is not None:
            progress(state)
            if state.phase == READY and running:
                return state
            if state.phase == FAILED and not running:
                raise StackRefused(state.error)
        if not running:
            raise StackRefused(f"the supervisor has ended; see {folder / 'supervisor.log'}")
        if time.monotonic() > deadline:
            raise StackRefused(f"the stack was not ready within {limit_seconds:.0f} s; see {folder / 'supervisor.log'}")
        time.sleep(0.05)


def _already(folder: Path) -> str:
    state = read_state(folder)
    if state is None:
        return f"a stack in {folder} is just starting or stopping; try again in a few seconds"
    urls = ", ".join(f"{service.name} {service.address}" for service in state.services if service.address)
    return f"the stack of {folder} is already up (pid {state.pid}): {urls}; stop it with `chat4all down`, or choose another --name"
