"""TLS in front of the servers of the stack whose wheels are built without it: `python -m stack.tls_front --certificate FILE FRONT ...`.

Enters: FRONT is name=port:target, ports of 127.0.0.1; the certificate with its key. Leaves: what comes over TLS goes on to the target,
and back. Guaranteed: root's rights are gone before it listens (`--user`); nothing that is not encrypted passes; PostgreSQL's clients are
spoken to as PostgreSQL does before its handshake.
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
WITH_REQUEST = "postgres"  # its clients ask in plain text first whether there is TLS


class TlsFront(NamedTuple):
    """One server: where it is reached with TLS, and where it is."""

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
            await asyncio.start_server(partial(_asked, context, each.target), "127.0.0.1", each.port)
        else:
            await asyncio.start_server(partial(_passed, each.target), "127.0.0.1", each.port, ssl=context)
    await asyncio.Event().wait()


async def _asked(
    context: ssl.SSLContext, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            while (code := await _request(reader)) == GSS_REQUEST:
                writer.write(b"N")
            if code != TLS_REQUEST:
                writer.close()
                return
            # what comes from here on belongs to the handshake, and not to what was encrypted
            cast("asyncio.ReadTransport", writer.transport).pause_reading()
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
    except (OSError, TimeoutError):
        writer.close()
        return
    await _passed(target, reader, writer)


async def _request(reader: asyncio.StreamReader) -> int:
    """Raises ConnectionError when more than a request is there: a client waits for its answer, and who is between us would add words of
    his own (CVE-2021-23214)."""
    received = b""
    while len(received) < REQUEST.size:
        chunk = await reader.read(REQUEST.size + 1 - len(received))
        if not chunk:
            raise ConnectionError("the client has gone")
        received += chunk
    if len(received) > REQUEST.size:
        raise ConnectionError("unencrypted data after the request for TLS")
    return int(REQUEST.unpack(received)[1])


async def _passed(target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        from_target, to_target = await asyncio.open_connection("127.0.0.1", target)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copied(reader, to_target), _copied(from_target, writer))


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
