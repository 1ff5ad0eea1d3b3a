"""Free ports of 127.0.0.1.

Enters: nothing. Leaves: port numbers. Guaranteed: no number is given twice by one process. Another process may take a port between
the answer and the bind; its server then fails to start, and says so.
"""

import socket

_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now and was not given by this process before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def answers(port: int) -> None:
    """Raises OSError unless something listens on the port; the cheap first half of a probe."""
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
