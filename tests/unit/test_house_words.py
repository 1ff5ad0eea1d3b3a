"""The words of the house (docs/glossary.md): retired ones stay away, a name means one thing, log events can be searched for."""

import ast
import re
from collections import Counter
from collections.abc import Iterator

from tests.support.source_tree import REPOSITORY, ROOMS, Module, modules, tracked

# Word (as a pattern, whole, in any case) -> what we say instead.
RETIRED = {
    r"told": "says, reports, logs, returns: what happens",
    r"footings?": "topic identity",
    r"rehears\w+": "a load run",
    r"(the )?whole way": "end to end",
    r"deaths?": "a crash",
    r"last words": "the end reason",
    r"patience": "a time-out, or a retry",
    r"agendas?": "timers",
    r"tally": "quota, or count",
    r"gathers? company": "waits for more records",
    r"brake[sd]?": "crash-loop guard",
    r"settle[sd]?": "commit, write or end",
    r"nobody's": "of no worker",
}
RETIRED_PATTERN = re.compile(r"(?<![\w/-])(" + "|".join(RETIRED) + r")(?![\w/-])", re.IGNORECASE)
# Names of modules that went: engine/footing and so on. A new module called so would mean something else than before.
RETIRED_MODULES = {
    *(
        "footing",
        "roll",
        "sense",
        "ages",
        "agenda",
        "rocks",
        "patience",
        "apps",
        "produce",
        "shape",
        "faults",
        "exchange",
    ),
    *("exchange_log", "case", "watch", "rehearsal", "composition", "answer", "line", "link", "brake", "taken", "work"),
}
# In each of these the word is somebody else's, or the page speaks of the word.
SPEAKS_OF_THEM = {"CHANGELOG.md", "CONTRIBUTING.md", "tests/unit/test_house_words.py"}


def texts() -> Iterator[tuple[str, int, str]]:
    """(file, line number, line) of everything people read: code and pages, without records of measurements and what tools wrote."""
    for path in tracked():
        name = path.relative_to(REPOSITORY).as_posix()
        if name in SPEAKS_OF_THEM or path.suffix not in {".py", ".md", ".toml", ".yaml", ".sql"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield name, number, line


def test_retired_words_stay_away() -> None:
    breaches = [
        f"{name}:{number}: {found.group()}"
        for name, number, line in texts()
        for found in RETIRED_PATTERN.finditer(line)
    ]
    assert breaches == []


def test_retired_modules_stay_away() -> None:
    assert [module.name for module in modules() if module.path.stem in RETIRED_MODULES] == []


# The parts a channel has, one file each in its folder; and what Python and pytest look for by name.
REPEATED = {"connector", "webhook", "errors", "bodies", "__init__", "__main__", "conftest"}


def test_no_two_modules_have_one_name() -> None:
    counts = Counter(module.path.stem for module in modules() if module.path.stem not in REPEATED)
    assert [stem for stem, number in counts.items() if number > 1] == []
    parts = [module.name for module in modules(*ROOMS) if module.path.stem in REPEATED - {"__init__", "__main__"}]
    assert [name for name in parts if not re.fullmatch(r"connectors/\w+/\w+\.py", name)] == []


def test_a_public_class_has_its_name_alone() -> None:
    """Among the product's rooms. `State` is what a stage remembers of one partition, in each stage's module."""
    counts = Counter(
        node.name
        for module in modules(*ROOMS)
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name != "State"
    )
    assert [name for name, number in counts.items() if number > 1] == []


# --- log events ------------------------------------------------------------------------------------------------------

LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def events(module: Module) -> Iterator[tuple[int, ast.expr]]:
    """(line, first argument) of each call of a structlog logger, which the house calls `log`."""
    calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call) and node.args)
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS and ast.unparse(call.func.value) == "log":
            yield call.lineno, call.args[0]


def test_a_log_event_is_a_constant() -> None:
    """So that it can be searched for, alerted on and counted; what varies goes into its keys."""
    breaches = [
        f"{module.name}:{line}: {ast.unparse(event)}"
        for module in modules(*ROOMS)
        for line, event in events(module)
        if not isinstance(event, ast.Constant)
    ]
    assert breaches == []
