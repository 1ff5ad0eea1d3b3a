"""No log of the whole suite holds a text that was sent, or a secret.

What enters: what pytest captured of each test (output and log lines, the exchange log among them), and the log files of every process
the tests started. What leaves: a failed test that says which line contains what. Texts of tests are recognised by their marks; secrets are
those of the started stacks, and every constant that a test or a case file calls a token or a secret.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

# In the texts of the builders, the load, the whole stack's tests and the contract cases.
MARKS = ("olá", "secret-words")
SECRET = re.compile(r"(?i)(^|_)(token|tokens|secret|secrets|secret_key|password|tracker_keys)$")
SHORTEST = 8  # shorter constants are words of their own
LONG = 16  # characters of a password that a stack made; one that is a word is in many lines
TESTS = Path(__file__).parent


def in_text(text: str, also: tuple[str, ...] = ()) -> list[str]:
    """The lines of a text that tell something, each after what it tells."""
    needles = dict.fromkeys((*_told_texts(), *secrets_of_tests(), *also))
    if not any(needle in text for needle in needles):
        return []
    return [f"{needle!r} in: {line[:300]}" for line in text.splitlines() for needle in needles if needle in line]


def in_files(folder: Path) -> list[str]:
    """The same for the logs of every process below a folder, with the secrets of its stacks."""
    also = tuple(secrets_of_stacks(folder))
    return [
        f"{path.name}: {found}"
        for path in log_files(folder)
        for found in in_text(path.read_text(encoding="utf-8", errors="replace"), also)[:10]
    ]


def log_files(folder: Path) -> Iterator[Path]:
    """Logs of processes: what is called <number>.log is a store's or a topic's data."""
    return (path for path in folder.rglob("*.log") if path.is_file() and not path.stem.isdigit())


def secrets_of_stacks(folder: Path) -> Iterator[str]:
    """What the state files of the stacks below a folder hold as secret."""
    for path in folder.rglob("state.json"):
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (ValueError, TypeError, KeyError):
            continue  # no stack's: some tests write bad ones
        yield from _secret_values(settings if isinstance(settings, dict) else {})


@cache
def _told_texts() -> tuple[str, ...]:
    """The marks, plain and as JSON, Python and PostgreSQL write them."""
    written = {
        form for mark in MARKS for form in (mark, json.dumps(mark)[1:-1], ascii(mark)[1:-1], repr(mark.encode())[2:-1])
    }
    return tuple(sorted(written))


@cache
def secrets_of_tests() -> tuple[str, ...]:
    """Constants of the tests that are called a token or a secret, and the secrets of the case files."""
    found = {secret for path in TESTS.rglob("*.py") for secret in _constants(path)}
    for path in TESTS.rglob("cases/*.json"):
        found |= set(json.loads(path.read_text(encoding="utf-8"))["secrets"])
    return tuple(sorted(secret for secret in found if len(secret) >= SHORTEST and not set(secret) & set(" {")))


def _constants(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named: list[tuple[str, ast.expr]] = []
        if isinstance(node, ast.Assign):
            named = [pair for target in node.targets for pair in _assigned(target, node.value)]
        elif isinstance(node, ast.keyword):
            named = [(node.arg or "", node.value)]
        elif isinstance(node, ast.Dict):
            keys = [key.value if isinstance(key, ast.Constant) else "" for key in node.keys]
            named = [(str(key), value) for key, value in zip(keys, node.values, strict=True)]
        for name, value in named:
            if SECRET.search(name):
                yield from _parts(value)


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, its in zip(target.elts, value.elts, strict=True):
            yield from _assigned(one, its)


def _parts(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield from (part for each in value.value.split(",") for part in (_alone(each),) if part)
    elif isinstance(value, ast.Tuple | ast.List):
        for element in value.elts:
            yield from _parts(element)


def _secret_values(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if SECRET.search(name) and isinstance(value, str):
            yield from (_alone(part) for part in value.split(",") if len(part) >= SHORTEST)
        elif (
            name.endswith("_url") and isinstance(value, str) and len(password := urlsplit(value).password or "") >= LONG
        ):
            yield password


def _alone(secret: str) -> str:
    """Without what stands beside it: a bot's id before, whom a client's token speaks for after."""
    return secret.strip().split("=")[0].rpartition(":")[2]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """A test fails when what it wrote contains a text or a secret, even if it passed."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.when != "teardown":
        return
    found = in_text("\n".join(content for _, content in report.sections))
    if found:
        report.outcome = "failed"
        report.longrepr = "a log of this test holds a text or a secret:\n" + "\n".join(found[:10])
