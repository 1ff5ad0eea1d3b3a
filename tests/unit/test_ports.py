"""Ports for servers: free, each returned once, below the range of outgoing connections."""

import socket

import pytest

from stack import ports


def test_ports_are_free_different_and_below_those_of_outgoing_connections() -> None:
    given = [ports.free_port() for _ in range(300)]
    assert len(set(given)) == 300
    assert all(ports.FIRST <= port < 32768 for port in given)
    for port in given[:20]:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_or_promised_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        port = ports.free_port()
        server.bind(("127.0.0.1", port))
        ports.keep(port + 1)
        # Another process does not know the ports of this one.
        monkeypatch.setattr(ports, "_given", ports._given - {port})
        monkeypatch.setattr(ports, "_next", port - 1)
        assert ports.free_port() > port + 1


def test_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_given", set(range(ports.FIRST, ports.LAST + 1)))
    with pytest.raises(ports.NoFreePort, match=r"none of 500 ports tried between 12000 and \d+ is free"):
        ports.free_port()
