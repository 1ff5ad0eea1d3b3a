"""The servers of the stack by name.

Enters: a folder. Leaves: how to make each Service. Guaranteed: a server's module, with its client library, is imported when that
server is made and not before; so a supervisor is up at once.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from stack.service import Service


def _made_by(module: str) -> Callable[..., Service]:
    def make(folder: Path, **more: Any) -> Service:
        service: Service = import_module(f"stack.{module}_server").service(folder, **more)
        return service

    return make


# In the order they are shown; each is started when its setting <name>_url is empty.
SERVERS: dict[str, Callable[..., Service]] = {
    name: _made_by(name) for name in ("kafka", "postgres", "valkey", "clickhouse", "s3")
}
