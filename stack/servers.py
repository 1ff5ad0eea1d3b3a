"""The servers of the stack by name.

Enters: a folder. Leaves: a function for each server that makes its Service. Guaranteed: the module of a server, with its client library, is
imported only when that server is made, so that a supervisor starts quickly.
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


# In the order of their start and of `chat4all status`. cli/dev_stack.py chooses which of them a stack starts.
SERVERS: dict[str, Callable[..., Service]] = {
    name: _made_by(name) for name in ("kafka", "postgres", "valkey", "clickhouse", "s3")
}
