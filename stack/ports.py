"""Free ports of 127.0.0.1, below those the kernel gives to outgoing connections.

Enters: nothing. Leaves: port numbers. Guaranteed: no number is given twice by one process, nor one it was told of with `keep`; no
number is one an outgoing connection could get between the answer and the bind. Another process that binds the port in between is
possible and rare: its server then fails to start, and says so.
"""

import secrets
import socket
from pathlib import Path

FIRST, LAST = 12_000, 32_767  # Linux gives outgoing connections ports from 32768, unless it is told otherwise
TRIES = 500
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_given: set[int] = set()
_next = 0


class NoFreePort(OSError):
    """So many ports in a row were taken that something else must be wrong."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now and was not given by this process before. Raises NoFreePort."""
    global _next  # noqa: PLW0603  # where this process goes on looking
    last = _last()
    for _ in range(TRIES):
        # One after the other from a random place: two stacks that start at once meet less often than with a random place for each.
        _next = _next + 1 if FIRST <= _next < last else FIRST + secrets.randbelow(last - FIRST + 1)
        if _next not in _given and _is_free(_next):
            _given.add(_next)
            return _next
    raise NoFreePort(f"none of {TRIES} ports tried between {FIRST} and {last} is free on 127.0.0.1")


def keep(port: int) -> None:
    """Never gives this port: somebody else was promised it and has not bound it yet."""
    _given.add(port)


def answers(port: int) -> None:
    """Raises OSError unless something listens on the port; the cheap first half of a probe."""
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _last() -> int:
    """The last port below the kernel's own, when that leaves enough of them."""
    try:
        first_of_the_kernel = int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):  # not Linux
        return LAST
    return min(LAST, first_of_the_kernel - 1) if first_of_the_kernel > FIRST + TRIES else LAST
