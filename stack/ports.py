"""Free ports of 127.0.0.1, below those that the kernel gives to outgoing connections.

Enters: nothing. Leaves: port numbers. Guaranteed: one process never returns a number twice, nor a number reserved with `keep`; an
outgoing connection cannot get a returned port before the server binds it. Another process may bind it in between. That is rare; the
server then fails to start with a clear error.
"""

import secrets
import socket
from pathlib import Path

FIRST, LAST = 12_000, 32_767  # Linux gives outgoing connections ports from 32768, by default
TRIES = 500
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_given: set[int] = set()
_next = 0


class NoFreePort(OSError):
    """All ports that were tried are in use."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now and that this process has not returned before. Not thread-safe. Raises NoFreePort."""
    global _next  # noqa: PLW0603  # where the search of this process continues
    last = _last()
    for _ in range(TRIES):
        # One after the other from a random start: two stacks that start at once collide less often than with random ports.
        _next = _next + 1 if FIRST <= _next < last else FIRST + secrets.randbelow(last - FIRST + 1)
        if _next not in _given and _is_free(_next):
            _given.add(_next)
            return _next
    raise NoFreePort(f"none of {TRIES} ports tried between {FIRST} and {last} is free on 127.0.0.1")


def keep(port: int) -> None:
    """Reserves the port: `free_port` never returns it. For a port of a service that does not listen yet."""
    _given.add(port)


def answers(port: int) -> None:
    """Raises OSError unless something listens on the port. A cheap first step of a probe; blocks one second at most."""
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
    """The last port below the kernel's range, if that leaves enough ports."""
    try:
        first_of_the_kernel = int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):  # not Linux
        return LAST
    return min(LAST, first_of_the_kernel - 1) if first_of_the_kernel > FIRST + TRIES else LAST
