"""A stack as data: cli/dev_stack.py (or a test) makes the plan, the supervisor runs it.

Enters: names, command lines, settings. Leaves: the same as JSON and back. Guaranteed: nothing here knows stages or providers. A plan
holds secrets, so it is sent through a pipe and never in a command line.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from stack.kafka_listeners import Locks


@dataclass(frozen=True, kw_only=True)
class Command:
    """One of our own programs that runs and ends, such as `prepare`."""

    name: str
    argv: list[str]
    # Variables in addition to the supervisor's environment.
    env: dict[str, str] = field(default_factory=dict, repr=False)
    # Modules to import before the start. If there are any, the program is forked from a process that has imported them (stack/forks.py),
    # and argv must be `python -m ...`.
    preload: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Process(Command):
    """One of our own programs that keeps running: the simulators, the gateway, a worker."""

    # URL that answers 200 when the program is ready.
    health: str
    # URL for people, shown by `up` and `status`.
    url: str
    # For a program with several URLs: name -> URL, shown in place of `url`.
    parts: dict[str, str] = field(default_factory=dict)
    # Whether the supervisor starts it again when it ends by itself, with a log line and a counter.
    restarts: bool = False


@dataclass(frozen=True, kw_only=True)
class StackPlan:
    """A whole stack, in the order of its start: servers, then the prepare commands, then the processes."""

    # Servers to start, names of stack.servers.SERVERS.
    servers: list[str]
    # Servers that exist already: name -> URL. Shown, never started.
    replaced: dict[str, str] = field(default_factory=dict, repr=False)
    # Settings (schemas.settings names) for all programs; the supervisor adds those of the started servers.
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    # Commands to run once, one after the other, when the servers answer.
    prepare: list[Command] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    # Access to Kafka: open, password or secured. With secured, the other servers get TLS as well.
    locks: Locks = "open"
    # The rights of each user of a secured Kafka, as plain data (stack/kafka_users.py).
    access: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    # Whether the data stay after `down`.
    keep_data: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StackPlan":
        fields = json.loads(text)
        prepare = [Command(**command) for command in fields["prepare"]]
        return cls(**{**fields, "prepare": prepare, "processes": [Process(**each) for each in fields["processes"]]})
