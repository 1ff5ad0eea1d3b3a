"""Exceptions in a form that is safe for logs: their types, frames and causes, without the data of users.

Enters: an exception, or a line of the standard library's logging. Leaves: text. Guaranteed: no value of a local variable; at most LONGEST
characters; the message of an exception only for our own exceptions, Kafka's and the system's, whose messages name things. Any other message
may contain a text, an address or a URL. It takes tens of microseconds per frame, and nothing while nothing is raised. Any thread may call
it.
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

LONGEST = 8000  # characters of an exception with its causes
LONGEST_SENTENCE = 500  # characters of one message
FRAMES = 40  # frames of one exception, the innermost ones
TOGETHER = 8  # exceptions in one text: the exception, its causes, and the members of groups
# Packages whose exceptions name things only. The exceptions of any other library may contain the values they were given.
SPEAKING = frozenset(
    {"schemas", "tables", "connectors", "sinks", "stack", "loadgen", "pipelines", "cli"}
    | {"aiokafka", "cimpl", "confluent_kafka"}
)
# Built-in exceptions whose messages are about code. Only these exact types, because a subclass may say more.
ABOUT_CODE = frozenset(
    {AttributeError, ImportError, IndexError, NameError, NotImplementedError, OverflowError, RecursionError}
    | {UnboundLocalError, ZeroDivisionError}
)
UNCAUGHT = logging.getLogger("uncaught")
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def described_error(error: BaseException) -> str:
    """An exception in one line: its type, and its message if that is safe."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == builtins.__name__ else f"{kind.__module__}.{kind.__qualname__}"
    sentence = " ".join(_sentence(error).split())[:LONGEST_SENTENCE]
    return f"{name}: {sentence}" if sentence else name


def unquoted(sentence: str) -> str:
    """One of our sentences with its quoted parts masked: a dead letter may contain a person's id, but a log may not."""
    return _QUOTED.sub("***", sentence)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and isinstance(error.errno, int):  # OSError accepts any object as its errno
        return f"[Errno {error.errno}] {os.strerror(error.errno)}"
    if type(error).__module__.partition(".")[0] in SPEAKING or type(error) in ABOUT_CODE:
        return str(error)
    state = getattr(error, "sqlstate", None)  # PostgreSQL's code; its message may contain rows
    return f"SQLSTATE {state}" if isinstance(state, str) else ""


def formatted(error: BaseException) -> str:
    """An exception with its frames (file, line, function and the line of code) and its causes, the first cause first."""
    parts = [part for each in _chain(error) for part in _frames(each)]
    text = "".join(parts).rstrip("\n")
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 4]}\n[{len(text) - LONGEST} characters left out]\n{text[-LONGEST * 3 // 4 :]}"


def _chain(error: BaseException) -> list[BaseException]:
    """The exception after its causes, in the order in which Python prints them; the members of a group before the group."""
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
    """A filter for the log handler of a process: removes from each line what may contain values.

    asyncio's lines about a task or a callback contain their arguments, so only their first words stay. An exception among the arguments of
    a line is written as by `described_error`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "asyncio":
            record.msg, record.args = record.getMessage().partition("\n")[0].partition("(")[0], ()
        if isinstance(record.args, tuple):
            record.args = tuple(map(_safe_value, record.args))
        elif isinstance(record.args, dict):
            record.args = {name: _safe_value(each) for name, each in record.args.items()}
        if isinstance(record.msg, BaseException):
            record.msg = described_error(record.msg)
        return True


def _safe_value(value: object) -> object:
    return _Described(described_error(value)) if isinstance(value, BaseException) else value


class _Described(str):
    """A description that `%r` shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class LogOutput(logging.StreamHandler[TextIO]):
    """A handler that writes to standard error. If a line cannot be written, it reports the line's logger, its place in the code and the
    error; the standard library would print the line's text and arguments."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.addFilter(Discreet())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the standard library's name
        error = sys.exc_info()[1]
        why = "" if error is None else f" ({described_error(error)})"
        with suppress(OSError, ValueError):  # standard error itself may be closed
            self.stream.write(f"a line of {record.name} could not be written: {record.filename}:{record.lineno}{why}\n")


class Plain(logging.Formatter):
    """The format of a process without structured logs: time, level, text, and exceptions as by `formatted`."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  # the standard library's name
        error = ei[1] if isinstance(ei, tuple) else None
        return formatted(error) if isinstance(error, BaseException) else ""


def log_plainly(redact: Callable[[str], str] = str) -> None:
    """Sets up logging for a process without structured logs: warnings and errors, on standard error, each line through `redact`."""
    output = LogOutput()
    output.setFormatter(Plain(redact))
    logging.basicConfig(level=logging.WARNING, handlers=[output], force=True)
    catch_all()


def catch_all() -> None:
    """Logs uncaught exceptions of the program, of threads and of object finalizers, and Python's warnings. Otherwise Python would print
    them to standard error with their messages and without a format."""
    logging.captureWarnings(capture=True)
    sys.excepthook = lambda _kind, error, _where: _uncaught("the program ends", error)
    threading.excepthook = lambda args: _uncaught("a thread ends", args.exc_value)
    sys.unraisablehook = lambda args: _uncaught("not raised", args.exc_value)


def _uncaught(what: str, error: BaseException | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    UNCAUGHT.critical(what, exc_info=error)


def where_all_stand() -> str:
    """The stack of every thread and of every task of the running loop, without values; a worker logs it at SIGUSR1. Call it on the event
    loop. Raises RuntimeError if none runs."""
    import asyncio  # noqa: PLC0415  # the supervisor of a stack does not need it

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
