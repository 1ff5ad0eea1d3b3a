"""What a stack consists of, as data: the rooms to the right of this one compose it, the supervisor runs it.

Enters: names, command lines, settings. Leaves: the same as JSON and back. Guaranteed: nothing here knows what a stage or a provider
is; a plan holds secrets, so it travels through a pipe and never through a command line.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from stack.kafka_listeners import Locks


@dataclass(frozen=True, kw_only=True)
class Command:
    """One of our own programs that runs to its end."""

    name: str
    argv: list[str]
    # Added to the environment of the supervisor.
    env: dict[str, str] = field(default_factory=dict, repr=False)
    # Modules it needs, if it may be forked from a process that has imported them; argv is `python -m ...` then. See stack/forks.py.
    preload: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Process(Command):
    """One of our own programs that stays: the simulators, the gateway, a stage worker."""

    # Answers 200 when the program is ready.
    health: str
    # What people open, shown by `up` and `status`.
    url: str
    # Of a program that serves several things: what -> URL, shown in place of `url`.
    parts: dict[str, str] = field(default_factory=dict)
    # Started again when it ends by itself, with a log line and a counter.
    restarts: bool = False


@dataclass(frozen=True, kw_only=True)
class StackPlan:
    """A whole stack, in the order of its start: servers, then the prepare commands, then the processes."""

    # Servers to start, names of stack.servers.SERVERS.
    servers: list[str]
    # Servers that exist already: name -> URL. Shown, never started.
    replaced: dict[str, str] = field(default_factory=dict, repr=False)
    # Settings (schemas.settings names) for everybody; those of the started servers are added.
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    # They run once, one after the other, when the servers answer.
    prepare: list[Command] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    # How Kafka lets clients in: open, password or secured; secured also puts TLS in front of the other servers.
    locks: Locks = "open"
    # What each user of a secured Kafka may do, as plain data (stack/kafka_users.py).
    access: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    # Whether the data outlive `down`.
    keep_data: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StackPlan":
        fields = json.loads(text)
        prepare = [Command(**command) for command in fields["prepare"]]
        return cls(**{**fields, "prepare": prepare, "processes": [Process(**each) for each in fields["processes"]]})
