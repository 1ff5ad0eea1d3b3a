"""TLS for the stack's servers: one more service, and the URLs with which clients reach the others through it.

Enters: a folder, the settings of the servers without TLS. Leaves: a Service whose settings reach them with TLS and a CA file
(schemas/server_urls.py makes one URL of both). Kafka has TLS of its own (stack/kafka_listeners.py).
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from schemas import private_files
from stack.certificates import Certificates
from stack.ports import answers, free_port
from stack.programs import own_code
from stack.service import Service, as_nobody

# server -> the scheme of its URL with TLS; PostgreSQL has the same scheme without TLS
SCHEMES: Mapping[str, str] = {"postgres": "postgresql", "clickhouse": "https", "valkey": "rediss", "s3": "https"}


def service(folder: Path, settings: Mapping[str, str]) -> Service:
    """TLS for the servers whose URL is in `settings` (schemas.settings names). Makes the certificates in `folder`, if there are none."""
    folder = folder.resolve()
    certificates = folder / "certificates"
    ca, server = certificates / "ca.pem", certificates / "server.pem"
    if not server.exists():
        Certificates(certificates).issue("server")
    fronts, secured = [], {}
    for name, scheme in SCHEMES.items():
        url = settings.get(f"{name}_url", "")
        if not url:
            continue
        port, parts = free_port(), urlsplit(url)
        fronts.append((name, port, parts.port))
        user, at, _ = parts.netloc.rpartition("@")
        secured[f"{name}_url"] = urlunsplit((scheme, f"{user}{at}127.0.0.1:{port}", parts.path, "", ""))
        secured[f"{name}_ca_file"] = str(ca)
    argv = [sys.executable, "-m", "stack.tls_front", "--certificate", str(server)]
    for each in (folder / "data", folder / "tmp"):
        private_files.make_folder(each)
    rights = as_nobody(folder, *own_code(), certificates, drops_itself=True)
    argv += [f"--user={rights.user}"] if rights else []

    def probe() -> str:
        for _, port, _ in fronts:
            answers(port)
        return "TLS 1.3"

    return Service(
        name="tls",
        folder=folder,
        url=", ".join(f"{name} 127.0.0.1:{port}" for name, port, _ in fronts),
        steps=[[*argv, *(f"{name}={port}:{target}" for name, port, target in fronts)]],
        probe=probe,
        settings=secured,
        unprivileged=rights,
    )
