"""The programs of a running stack as targets of Prometheus: <folder>/prometheus/targets.json, read by dashboards/prometheus/prometheus.yml.

Enters: the stack's state. Leaves: the file, in the format of Prometheus' file discovery (file_sd). Guaranteed: it names every program that
has probes, also one that is dead at the moment, so that Prometheus misses it; the file is replaced in one step; it holds addresses and
names only.
"""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from schemas import private_files
from stack.state import StackState

PROBES = "probes"  # the part of a program with /metrics


def targets_path(folder: Path) -> Path:
    return folder / "prometheus" / "targets.json"


def write_targets(folder: Path, state: StackState) -> None:
    """Writes the targets of the stack, unless the file names them already. Blocks for a small write; raises OSError."""
    text = json.dumps(_targets(folder.name, state), indent=1)
    path = targets_path(folder)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    private_files.make_folder(path.parent)
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def remove_targets(folder: Path) -> None:
    """Tells Prometheus that the stack is down on purpose: without targets, nothing is missed."""
    targets_path(folder).unlink(missing_ok=True)


def _targets(stack: str, state: StackState) -> list[dict[str, object]]:
    """One entry for each program: `program` is core, sinks or gateway, `service` its name in `chat4all status`. No metric of ours has a
    label of one of these names: Prometheus would rename it."""
    return [
        {
            "targets": [urlsplit(service.parts[PROBES]).netloc],
            "labels": {"stack": stack, "program": service.name.partition("-")[0], "service": service.name},
        }
        for service in state.services
        if PROBES in service.parts
    ]
