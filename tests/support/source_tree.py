"""The repository's own Python as syntax trees, for the rules of the house.

In: the working folder, without what git ignores. Out: modules with their room, lines, tree, imports and comments.
"""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# A room may import the rooms of a lower floor, never its neighbours.
FLOORS = (("schemas",), ("tables", "connectors", "sinks", "stack", "simulators", "loadgen"), ("pipelines",), ("cli",))
ROOMS = tuple(room for floor in FLOORS for room in floor)
OUTSIDE = ("tests", "benchmarks", "tools")  # may import every room; nothing imports them
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One Python file. `room` is its top folder, tests and benchmarks included."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return self.path.relative_to(REPOSITORY).as_posix()

    @property
    def room(self) -> str:
        return self.path.relative_to(REPOSITORY).parts[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, dotted name) of everything imported, wherever in the file."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                package = "." * node.level + (node.module or "")
                yield from ((node.lineno, f"{package}.{alias.name}") for alias in node.names)

    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def comments(self) -> Iterator[tuple[int, str]]:
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string

    def texts(self) -> set[str]:
        """Every string literal, the constant parts of f-strings too; docstrings as well."""
        nodes = ast.walk(self.tree)
        return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}

    def attributes(self) -> set[str]:
        return {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}


@cache
def tracked() -> tuple[Path, ...]:
    """Files that belong to the repository: known to git, or new and not ignored."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return tuple(path for name in sorted(set(names)) if (path := REPOSITORY / name).is_file())


@cache
def modules(*rooms: str) -> tuple[Module, ...]:
    """Modules of these rooms; of all rooms, the tests and the benchmarks when none is named."""
    wanted = rooms or (*ROOMS, *OUTSIDE)
    found = (Module(path, path.read_text(encoding="utf-8")) for path in tracked() if path.suffix == ".py")
    return tuple(module for module in found if module.room in wanted)


def top(dotted: str) -> str:
    return dotted.split(".", maxsplit=1)[0]


def is_library(dotted: str) -> bool:
    return top(dotted) not in {*ROOMS, *OUTSIDE} and top(dotted) not in sys.stdlib_module_names
