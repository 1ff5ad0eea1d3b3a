"""Exceptions as a log may tell them: what they are and where they came from, and nothing of what was being worked on.

Enters: an exception, or a line of the standard library's logging. Leaves: text. Guaranteed: no value of a local variable; no message but
of exceptions whose sentences are made of names (our own, Kafka's, the system's), for any other may quote a text, an address or a URL; at
most LONGEST characters. It costs tens of microseconds a frame, and none when nothing is raised.
"""

import builtins
import itertools
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TextIO

LONGEST = 8000  # characters of an exception with all it came from
LONGEST_SENTENCE = 500
FRAMES = 40  # of one exception, the innermost ones
TOGETHER = 8  # exceptions told of one: its causes, and those of a group
# Packages whose exceptions say names of things only; those of any other library may quote what they were given.
SPEAKING = frozenset(
    {"schemas", "tables", "connectors", "sinks", "stack", "loadgen", "pipelines", "cli"}
    | {"aiokafka", "cimpl", "confluent_kafka"}
)
# Of Python's own, those whose sentences are about code; by their very type, for what is derived from them may say more.
ABOUT_CODE = frozenset(
    {AttributeError, ImportError, IndexError, NameError, NotImplementedError, OverflowError, RecursionError}
    | {UnboundLocalError, ZeroDivisionError}
)
UNCAUGHT = logging.getLogger("uncaught")
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def described_error(error: BaseException) -> str:
    """An exception in one line: its type, and its sentence where that quotes nothing."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == builtins.__name__ else f"{kind.__module__}.{kind.__qualname__}"
    sentence = " ".join(_sentence(error).split())[:LONGEST_SENTENCE]
    return f"{name}: {sentence}" if sentence else name


def unquoted(sentence: str) -> str:
    """A sentence of ours without what it quotes: a dead letter may name a person's id, the log may not."""
    return _QUOTED.sub("***", sentence)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and isinstance(error.errno, int):  # OSError takes anything for a number
        return f"[Errno {error.errno}] {os.strerror(error.errno)}"
    if type(error).__module__.partition(".")[0] in SPEAKING or type(error) in ABOUT_CODE:
        return str(error)
    state = getattr(error, "sqlstate", None)  # what PostgreSQL calls it; its message quotes rows
    return f"SQLSTATE {state}" if isinstance(state, str) else ""


def formatted(error: BaseException) -> str:
    """An exception with its frames (file, line, function and the line of code) and what it came from, the first cause first."""
    parts = [part for each in _chain(error) for part in _frames(each)]
    text = "".join(parts).rstrip("\n")
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 4]}\n[{len(text) - LONGEST} characters left out]\n{text[-LONGEST * 3 // 4 :]}"


def _chain(error: BaseException) -> list[BaseException]:
    """The exception behind those it came from, as Python prints them; members of a group before it."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting and len(found) < TOGETHER:
        each = waiting.pop()
        if any(each is other for other in found):
            continue
        found.append(each)
        before = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        if before is not None:
            waiting.append(before)
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions[:TOGETHER]
    return found[::-1]


def _frames(error: BaseException) -> Iterator[str]:
    places = traceback.StackSummary.extract(_walked(error.__traceback__), capture_locals=False)
    if places:
        yield "Traceback (most recent call last):\n"
        yield from places.format()
    yield f"{described_error(error)}\n"


def _walked(found: TracebackType | None) -> list[tuple[FrameType, int]]:
    return list(itertools.islice(reversed(list(traceback.walk_tb(found))), FRAMES))[::-1]


class Discreet(logging.Filter):
    """For the handler of a process: takes out of each line what quotes values. What asyncio tells of a task or a callback holds their
    arguments, so its first words stay; an exception among the arguments of a line is told as `told` does."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "asyncio":
            record.msg, record.args = record.getMessage().partition("\n")[0].partition("(")[0], ()
        if isinstance(record.args, tuple):
            record.args = tuple(map(_told_value, record.args))
        elif isinstance(record.args, dict):
            record.args = {name: _told_value(each) for name, each in record.args.items()}
        if isinstance(record.msg, BaseException):
            record.msg = described_error(record.msg)
        return True


def _told_value(value: object) -> object:
    return _Told(described_error(value)) if isinstance(value, BaseException) else value


class _Told(str):
    """What `%r` of an exception shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class LogOutput(logging.StreamHandler[TextIO]):
    """Standard error. A line that cannot be written is told by its logger, its place and what was wrong: the standard library would print
    its text and its arguments."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.addFilter(Discreet())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the standard library's name
        error = sys.exc_info()[1]
        why = "" if error is None else f" ({described_error(error)})"
        with suppress(OSError, ValueError):  # standard error itself may be closed
            self.stream.write(f"a line of {record.name} could not be written: {record.filename}:{record.lineno}{why}\n")


class Plain(logging.Formatter):
    """Lines of a process that has no other format: time, level, text, and an exception as `formatted` tells it."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  # the standard library's name
        error = ei[1] if isinstance(ei, tuple) else None
        return formatted(error) if isinstance(error, BaseException) else ""


def log_plainly(redact: Callable[[str], str] = str) -> None:
    """Logging of a process that has no other: warnings and worse, on standard error."""
    output = LogOutput()
    output.setFormatter(Plain(redact))
    logging.basicConfig(level=logging.WARNING, handlers=[output], force=True)
    catch_all()


def catch_all() -> None:
    """What nobody catches is logged too, instead of being printed with its message: where a program ends, a thread, or an object; and
    warnings, which go to standard error past every formatter."""
    logging.captureWarnings(capture=True)
    sys.excepthook = lambda _kind, error, _where: _uncaught("the program ends", error)
    threading.excepthook = lambda args: _uncaught("a thread ends", args.exc_value)
    sys.unraisablehook = lambda args: _uncaught("not raised", args.exc_value)


def _uncaught(what: str, error: BaseException | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    UNCAUGHT.critical(what, exc_info=error)


def where_all_stand() -> str:
    """The stack of every thread, and of every task of the running loop, without a value: what SIGUSR1 asks a worker for."""
    import asyncio  # noqa: PLC0415  # the supervisor of a stack has no use for it

    names = {each.ident: each.name for each in threading.enumerate()}
    parts = [
        f"thread {names.get(number, number)}\n{''.join(traceback.format_stack(frame)[-FRAMES:])}"
        for number, frame in sys._current_frames().items()  # noqa: SLF001  # the documented way to see other threads
    ]
    for task in asyncio.all_tasks():
        stack = [(frame, frame.f_lineno) for frame in task.get_stack(limit=FRAMES)]
        code = getattr(task.get_coro(), "__qualname__", "")
        parts.append(f"task {code}\n{''.join(traceback.StackSummary.extract(stack, capture_locals=False).format())}")
    return "\n".join(parts)
