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

from stack.plan import Plan
from stack.state import FAILED, READY, State, is_running, lock, read_state, state_path
from stack.supervisor import KEPT


class StackRefused(Exception):
    """The stack cannot be started or ended; one sentence says why and what to do."""


def start(
    folder: Path, plan: Plan, progress: Callable[[State], None] = lambda _state: None, limit_seconds: float = 180.0
) -> State:
    """Starts the stack and returns when all of it answers; `progress` sees every state on the way. Raises StackRefused."""
    folder = folder.resolve()
    claim = lock(folder)
    if claim is None:
        raise StackRefused(_already(folder))
    try:
        _await_orphans(folder)
        _make_room(folder, plan)
        supervisor = _spawn(folder, plan, claim)
    finally:
        os.close(claim)  # the supervisor has inherited it
    try:
        return _await_ready(folder, supervisor, progress, limit_seconds)
    except BaseException:  # a Ctrl-C while it starts ends it as well
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(60)
        raise


def stop(folder: Path, limit_seconds: float = 60.0) -> bool:
    """Ends the stack of this folder, or clears away what a dead one left; False when there is nothing of it."""
    folder = folder.resolve()
    state = read_state(folder)
    if is_running(folder):
        deadline = time.monotonic() + limit_seconds
        while is_running(folder):
            state = read_state(folder)
            if state is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state.pid, signal.SIGTERM)
            if time.monotonic() > deadline:
                raise StackRefused(f"the stack of {folder} does not end; look into {folder / 'supervisor.log'}")
            time.sleep(0.1)
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


def _await_orphans(folder: Path) -> None:
    """The kernel ends the children of a killed supervisor, but PostgreSQL takes a moment to leave."""
    state = read_state(folder)
    for service in state.services if state else []:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(service.pid)
            if (
                service.pid and abs(process.create_time() * 1000 - service.started_at) < 5000
            ):  # else the pid is somebody else's
                process.wait(15)


def _make_room(folder: Path, plan: Plan) -> None:
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


def _spawn(folder: Path, plan: Plan, claim: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "stack.supervisor", "--folder", str(folder), "--lock", str(claim)]
    with (folder / "supervisor.log").open("ab") as log:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, pass_fds=[claim]
        )
    assert supervisor.stdin is not None  # noqa: S101  # PIPE was asked for
    with supervisor.stdin as pipe:
        pipe.write(plan.to_json().encode())
    return supervisor


def _await_ready(
    folder: Path, supervisor: subprocess.Popen[bytes], progress: Callable[[State], None], limit_seconds: float
) -> State:
    deadline = time.monotonic() + limit_seconds
    while True:
        ended = supervisor.poll() is not None
        state = read_state(folder)
        if state is not None:
            progress(state)
            if state.phase == READY:
                return state
            if state.phase == FAILED:
                supervisor.wait(60)
                raise StackRefused(state.error)
        if ended:
            raise StackRefused(
                f"the supervisor ended with {supervisor.returncode}; look into {folder / 'supervisor.log'}"
            )
        if time.monotonic() > deadline:
            raise StackRefused(
                f"the stack was not ready within {limit_seconds:.0f} s; look into {folder / 'supervisor.log'}"
            )
        time.sleep(0.05)


def _already(folder: Path) -> str:
    state = read_state(folder)
    if state is None:
        return f"a stack in {folder} is just starting or ending; try again in some seconds"
    urls = ", ".join(f"{service.name} {service.url}" for service in state.services if service.url)
    return f"the stack of {folder} is already up (pid {state.pid}): {urls}; end it with `chat4all down`, or choose another --name"
