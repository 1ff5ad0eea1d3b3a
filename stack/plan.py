"""What a stack consists of, as data: the rooms to the right of this one compose it, the supervisor runs it.

Enters: names, command lines, settings. Leaves: the same as JSON and back. Guaranteed: nothing here knows what a stage or a provider
is; a plan holds secrets, so it travels through a pipe and never through a command line.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Process:
    """One of our own programs: a simulator, the gateway, a stage worker."""

    name: str
    argv: list[str]
    # Added to the environment of the supervisor.
    env: dict[str, str] = field(default_factory=dict)
    # Answers 200 when the program is ready.
    health: str
    # What people open, shown by `up` and `status`.
    url: str
    # Started again when it ends by itself, with a log line and a counter.
    restarts: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole stack, in the order of its start: servers, then the prepare commands, then the processes."""

    # Servers to start, names of stack.servers.SERVERS.
    servers: list[str]
    # Servers that exist already: name -> URL. Shown, never started.
    replaced: dict[str, str] = field(default_factory=dict)
    # Settings (schemas.settings names) for everybody; those of the started servers are added.
    settings: dict[str, Any] = field(default_factory=dict)
    # Commands that run once, to their end, when the servers answer: name -> command line.
    prepare: dict[str, list[str]] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    # Whether the data outlive `down`.
    keep_data: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        fields = json.loads(text)
        return cls(**{**fields, "processes": [Process(**process) for process in fields["processes"]]})
