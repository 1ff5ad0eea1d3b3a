"""The result of a benchmark: benchmarks/<name>.json, which is committed. Every figure in README and docs comes from such a file.

{date, commit, command, machine, figures: {name: {value, unit, target, better}}}; `target` is null if there is none, `better` is "higher" or
"lower".
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.table import Table

from schemas.environment import foreign

FOLDER = Path(__file__).parent.parent / "benchmarks"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `target` is the value to reach, None if there is none. `better` says whether a higher or a lower value is
    better; if it is None, the unit decides: lower for times and sizes, higher for rates and ratios."""

    value: float
    unit: str
    target: float | None = None
    better: Literal["higher", "lower"] | None = None

    @property
    def direction(self) -> Literal["higher", "lower"]:
        less = self.unit.split()[0].rstrip(",") in {"microseconds", "ms", "s", "bytes", "MiB", "GB"}
        return self.better or ("lower" if less else "higher")


def write(name: str, command: str, figures: Mapping[str, Figure]) -> Path:
    """Writes benchmarks/<name>.json for the commit that is checked out, and returns its path. Runs git and writes a file, so it blocks."""
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "command": command,
        "machine": _machine(),
        "figures": {key: asdict(figure) | {"better": figure.direction} for key, figure in figures.items()},
    }
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def table(figures: Mapping[str, Figure]) -> Table:
    """The figures as a table for the terminal; those that miss their target are red."""
    shown = Table("figure", box=None, pad_edge=False)
    shown.add_column("value", justify="right")
    shown.add_column("unit")
    shown.add_column("target", justify="right")
    for name, figure in figures.items():
        target = "" if figure.target is None else _plain(figure.target)
        shown.add_row(name, _plain(figure.value), figure.unit, target, style=None if _reached(figure) else "red")
    return shown


def _plain(value: float) -> str:
    return f"{value:,.10g}"


def _reached(figure: Figure) -> bool:
    if figure.target is None:
        return True
    return figure.value <= figure.target if figure.direction == "lower" else figure.value >= figure.target


def _commit() -> str:
    """The commit that is measured. Changed results of benchmarks do not count as changes."""
    changed = _git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/*.json")
    return (_git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FOLDER.parent, env=foreign())  # noqa: S603  # fixed words
    return done.stdout.strip()


def _machine() -> str:
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {_memory_gib()} GiB, {platform.system()} {platform.machine()}, {python}"


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
