"""A TLS proxy for the stack's servers whose wheels are built without TLS: `python -m stack.tls_front --certificate FILE FRONT ...`.

Enters: FRONT, which is name=port:target with two ports of 127.0.0.1; the certificate with its key. Leaves: a connection to the target for
each TLS connection; the bytes of both directions are copied. Guaranteed: it gives up root before it listens (`--user`); no unencrypted data
passes; PostgreSQL's clients get PostgreSQL's answer to their request for TLS before the handshake.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import ssl
import struct
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from schemas.tracebacks import log_plainly
from stack import unprivileged

CHUNK = 65_536
HANDSHAKE_SECONDS = 10.0
REQUEST = struct.Struct("!II")
TLS_REQUEST, GSS_REQUEST = 80_877_103, 80_877_104
WITH_REQUEST = "postgres"  # its clients first ask in plain text whether the server has TLS


class TlsFront(NamedTuple):
    """One server: its port with TLS, and its own port."""

    name: str
    port: int
    target: int


def front(text: str) -> TlsFront:
    name, _, ports = text.partition("=")
    port, _, target = ports.partition(":")
    return TlsFront(name, int(port), int(target))


async def serve(fronts: list[TlsFront], context: ssl.SSLContext) -> None:
    for each in fronts:
        if each.name == WITH_REQUEST:
            await asyncio.start_server(partial(_start_tls, context, each.target), "127.0.0.1", each.port)
        else:
            await asyncio.start_server(partial(_forward, each.target), "127.0.0.1", each.port, ssl=context)
    await asyncio.Event().wait()


async def _start_tls(
    context: ssl.SSLContext, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            while (code := await _request(reader)) == GSS_REQUEST:
                writer.write(b"N")
            if code != TLS_REQUEST:
                writer.close()
                return
            # Everything that is read from here on belongs to the handshake.
            cast("asyncio.ReadTransport", writer.transport).pause_reading()
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
    except (OSError, TimeoutError):
        writer.close()
        return
    await _forward(target, reader, writer)


async def _request(reader: asyncio.StreamReader) -> int:
    """The code of PostgreSQL's request. Raises ConnectionError when more bytes follow: a client waits for the answer, so the extra bytes
    would come from an attacker in between (CVE-2021-23214)."""
    received = b""
    while len(received) < REQUEST.size:
        chunk = await reader.read(REQUEST.size + 1 - len(received))
        if not chunk:
            raise ConnectionError("the client has disconnected")
        received += chunk
    if len(received) > REQUEST.size:
        raise ConnectionError("unencrypted data after the request for TLS")
    return int(REQUEST.unpack(received)[1])


async def _forward(target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        from_target, to_target = await asyncio.open_connection("127.0.0.1", target)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, to_target), _copy(from_target, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--user", type=int, help="user id to become when the certificate is read; this process is root")
    parser.add_argument("fronts", type=front, nargs="+")
    arguments = parser.parse_args()
    log_plainly()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(arguments.certificate)
    if arguments.user is not None:
        parent = os.getppid()
        unprivileged.drop(arguments.user)
        unprivileged.die_with_parent(parent, signal.SIGKILL)
    asyncio.run(serve(arguments.fronts, context))


if __name__ == "__main__":
    main()
