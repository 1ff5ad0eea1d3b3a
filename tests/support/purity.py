"""Whether a decision is pure: it opens nothing, waits for nothing, and reads no clock and no chance.

`purely()` is put around a decision. The interpreter tells it of every call (sys.setprofile), so that no name under which a function was
imported hides it, and nothing that catches exceptions does; it says at the end what was called, and by whom. What C code does inside of
itself is not seen.
"""

import _socket
import asyncio
import datetime as dt
import gc
import io
import os
import random
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from confluent_kafka import cimpl

_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime")
# functions of C, by module
_FUNCTIONS: dict[str, frozenset[str]] = {
    "time": frozenset({"sleep", "localtime", "gmtime", "ctime", *_CLOCKS, *(f"{clock}_ns" for clock in _CLOCKS)}),
    "_io": frozenset({"open", "open_code"}),
    "io": frozenset({"open", "open_code"}),
    "_thread": frozenset({"start_new_thread", "start_joinable_thread"}),
    "_uuid": frozenset({"generate_time_safe"}),
    "builtins": frozenset({"input", "print"}),
    "posix": frozenset(dir(os)) - {"fspath", "getpid", "register_at_fork"},
    **{module.__name__: frozenset(dir(module)) for module in (_socket, select)},
}
# methods of classes of C and of whatever derives from them
_CLASSES = (random.Random, _socket.socket, io.IOBase, cimpl.Consumer, cimpl.Producer, cimpl._AdminClientImpl)
_IN_MEMORY = (io.BytesIO, io.StringIO)
_NOW = frozenset({"now", "utcnow", "today"})
# Most calls have a harmless name: this is asked at every call of a decision.
_NAMES = _NOW.union(
    *_FUNCTIONS.values(), *(dir(each) for each in (*_CLASSES, io.TextIOWrapper, io.BufferedWriter, io.FileIO))
) - set(dir(object))


def _code(function: Any) -> CodeType:
    code: CodeType = function.__code__
    return code


# by the identity of their code, which is slow to hash
_IN_PYTHON = {
    id(_code(socket.socket.__init__)): "socket.socket",
    id(_code(socket.create_connection)): "socket.create_connection",
    id(_code(subprocess.Popen.__init__)): "subprocess.Popen",
    id(_code(asyncio.sleep)): "asyncio.sleep",
    id(_code(asyncio.run)): "asyncio.run",
}


class Impure(AssertionError):
    """What a decision must not do, and where it did."""


@contextmanager
def purely() -> Iterator[None]:
    """Raises Impure at its end when what ran inside touched the world, whatever else it raised. Of this thread only."""
    found: list[str] = []

    def look(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            what = _impure(called) if called.__name__ in _NAMES else None
        elif event == "call":
            what = _IN_PYTHON.get(id(frame.f_code))
        else:
            return
        if what is not None:
            found.append(f"{what} called in {frame.f_code.co_filename}:{frame.f_lineno}, {frame.f_code.co_name}")

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # what ends somebody else's garbage is not the decision's doing
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
        if found:
            raise Impure("; ".join(found[:5]))


def _impure(called: Any) -> str | None:
    """The name of a function of C that touches the world."""
    name, owner = called.__name__, called.__self__
    if name in _FUNCTIONS.get(called.__module__ or "", ()):
        return f"{called.__module__}.{name}"
    if isinstance(owner, _CLASSES) and not isinstance(owner, _IN_MEMORY):
        return f"{type(owner).__name__}.{name}"
    if isinstance(owner, type) and issubclass(owner, dt.date) and name in _NOW:
        return f"{owner.__name__}.{name}"
    return None
