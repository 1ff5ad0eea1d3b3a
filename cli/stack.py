"""`chat4all up`, `down`, `status` and `logs`: the development stack from the command line.

Enters: options. Leaves: tables and lines on the terminal. Guaranteed: exit code 0 only when the command did what it was asked. The
stack of --name is in .chat4all/<name> of the working directory; the default name is that of CHAT4ALL_STACK, else dev.
"""

import contextlib
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer
from rich.table import Table

from cli.dev_stack import OPTIONAL, compose
from cli.terminal import console
from pipelines.stages import WORKERS
from schemas.redaction import is_secret
from schemas.settings import state_file
from stack import control
from stack.control import StackRefused
from stack.state import DEAD, EXTERNAL, READY, STARTING, ServiceState, StackState, is_running, read_state

MOST_WORKERS = 16  # of a kind
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of the stack. Stacks of different names run side by side. Default: $CHAT4ALL_STACK or dev.",
    ),
]
STYLES = {READY: "green", STARTING: "yellow", DEAD: "bold red", EXTERNAL: "cyan"}


def folder_of(name: str | None) -> Path:
    """The folder of the stack of that name. Raises StackRefused for a name that cannot be a folder name."""
    if name is None:
        if state_file().name != "state.json":
            raise StackRefused(f"CHAT4ALL_STATE is {state_file()}; the state file of a stack must be called state.json")
        return state_file().parent
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise StackRefused(f"--name {name!r} is no name for a folder; use letters, digits, - and _")
    return Path(".chat4all") / name


def up(
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="Keep the data after `chat4all down`; the next `up` uses them again.")
    ] = False,
    workers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=NUMBER",
            help=f"Number of workers of a kind ({' or '.join(WORKERS)}), for example core=2. May be repeated. Default: one each.",
        ),
    ] = None,
    secure: Annotated[
        bool,
        typer.Option(
            "--secure",
            help="Use TLS and passwords everywhere. In Kafka, each kind of process has its own user and ACLs.",
        ),
    ] = False,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="SERVER",
            help=f"Also start this server: {' or '.join(OPTIONAL)}. No worker uses it yet. May be repeated.",
        ),
    ] = None,
    name: Name = None,
) -> None:
    """Start Kafka, PostgreSQL, ClickHouse, the simulators of the providers, the gateway and the workers, and leave them running.

    A server or provider whose CHAT4ALL_..._URL is set is not started; the stack uses the one at that URL.

    Examples: `chat4all up`, `chat4all up --workers core=2 --keep-data`, `chat4all up --name second --secure`.
    """
    folder = folder_of(name)
    unknown = sorted({*(extra or ())} - {*OPTIONAL})
    if unknown:
        raise StackRefused(f"--with {unknown[0]!r}: choose {' or '.join(OPTIONAL)}; the other servers always start")
    start(folder, keep_data=keep_data, workers=_numbers(workers or ()), secure=secure, extra=extra or ())
    if name is not None:
        console.print(f"for the other commands: export CHAT4ALL_STACK={name}")


def _numbers(given: Sequence[str]) -> Mapping[str, int]:
    """Texts like `core=2` as kind -> number. Raises StackRefused."""
    numbers = {}
    for each in given:
        kind, _, number = each.partition("=")
        if kind not in WORKERS or not number.isdecimal() or not 1 <= int(number) <= MOST_WORKERS:
            kinds = " or ".join(WORKERS)
            raise StackRefused(
                f"--workers {each!r}: write {kinds}, then = and a number from 1 to {MOST_WORKERS}, as in core=2"
            )
        numbers[kind] = int(number)
    return numbers


def start(
    folder: Path,
    *,
    keep_data: bool = False,
    workers: Mapping[str, int] = MappingProxyType({}),
    secure: bool = False,
    extra: Sequence[str] = (),
) -> None:
    """Starts the whole stack of a folder, prints each service when it is ready, and returns when all are. Raises StackRefused. The
    options are those of cli.dev_stack.compose."""
    began = time.monotonic()
    shown: set[str] = set()

    def progress(state: StackState) -> None:
        for service in state.services:
            if service.status in {READY, EXTERNAL} and service.name not in shown:
                shown.add(service.name)
                version = "is set" if service.status == EXTERNAL else service.version
                console.print(f"[green]✓[/] {service.name:<11} {version:<18} {service.address}", highlight=False)

    plan = compose(folder, keep_data=keep_data, workers=workers, secure=secure, extra=extra)
    control.start(folder, plan, progress, console.print)
    console.print(f"up in {time.monotonic() - began:.1f} s; state, data and logs in {folder}")


def down(name: Name = None) -> None:
    """Stop everything that `chat4all up` started. Deletes the data, unless `up` was called with --keep-data."""
    folder = folder_of(name)
    state = read_state(folder)
    if not control.stop(folder):
        console.print(f"nothing to stop in {folder}")
    elif state is not None and state.keep_data:
        console.print(f"down; data kept in {folder}")
    else:
        console.print("down; data deleted")


def status(
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Show passwords in URLs, and the secret settings.")
    ] = False,
    name: Name = None,
) -> None:
    """Show the services of the stack: status, version, URL, memory, start time, restarts. Exit code 1 if one is dead."""
    folder = folder_of(name)
    state = _running_state(folder)
    table = Table(box=None, pad_edge=False)
    for column in ("service", "status", "version", "URL", "memory", "up since", "restarts"):
        table.add_column(
            column,
            justify="right" if column in {"memory", "restarts"} else "left",
            no_wrap=column != "URL",
            overflow="fold",
        )
    for service in state.services:
        table.add_row(*_cells(service, show_secrets=show_secrets))
    console.print(table)
    if show_secrets:
        for setting, value in state.settings.items():
            if value and is_secret(setting):
                console.out(f"CHAT4ALL_{setting.upper()}={value}", highlight=False)
    if any(service.status == DEAD for service in state.services):
        raise typer.Exit(1)


def logs(
    service: Annotated[str, typer.Argument(help="A name that `chat4all status` shows, or supervisor, or prepare.")],
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many lines to show, from the end.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show new lines too, until Ctrl-C.")] = False,
    name: Name = None,
) -> None:
    """Show the last lines of a service's log. Example: `chat4all logs core --follow`."""
    folder = folder_of(name)
    path = folder / "supervisor.log" if service == "supervisor" else folder / service / f"{service}.log"
    if not path.is_file():
        known = sorted(
            [log.parent.name for log in folder.glob("*/*.log") if log.stem == log.parent.name] + ["supervisor"]
        )
        raise StackRefused(f"no log of {service!r} in {folder}; there are: {', '.join(known)}")
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends --follow
        for line in _tail(path, lines, follow=follow):
            console.out(line, end="", highlight=False)


def _running_state(folder: Path) -> StackState:
    state = read_state(folder)
    if is_running(folder) and state is not None:
        return state
    if state is None:
        raise StackRefused(f"no stack runs in {folder}; start it with `chat4all up`")
    if state.error:
        raise StackRefused(f"the stack of {folder} did not start: {state.error}")
    raise StackRefused(
        f"the supervisor of {folder} (pid {state.pid}) is dead, and so are its services; `chat4all down` removes what is left"
    )


def _cells(service: ServiceState, *, show_secrets: bool) -> tuple[str, ...]:
    since = datetime.fromtimestamp(service.started_at / 1000).astimezone() if service.pid else None
    return (
        service.name,
        f"[{STYLES[service.status]}]{service.status}[/]",
        service.version,
        service.full_address if show_secrets else service.address,
        f"{control.memory(service.pid) / 2**20:.0f} MB" if service.pid else "",
        f"{since:%Y-%m-%d %H:%M:%S}" if since else "",
        str(service.restarts) if service.status != EXTERNAL else "",
    )


def _tail(path: Path, lines: int, *, follow: bool) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from deque(file, maxlen=lines)
        while follow:
            line = file.readline()
            if line:
                yield line
            else:
                time.sleep(0.2)
