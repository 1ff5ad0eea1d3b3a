"""The guard over the suite's logs sees what it is there for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.source_tree import REPOSITORY


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "sent", "text": "[m-1] ' + leaks.MARKS[0] + '"}',
        json.dumps({"text": leaks.MARKS[0]}),
        ascii(leaks.MARKS[0]),
        str(leaks.MARKS[0].encode()),
        "calling https://api.example.org/bot" + leaks.secrets_of_tests()[0] + "/sendMessage",
    ],
)
def test_a_text_and_a_secret_are_found_however_they_are_written(line: str) -> None:
    assert leaks.in_text(f"one\n{line}\nthree") != []
    assert leaks.in_text("one\nthree") == []


def test_every_kind_of_constant_is_taken_for_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "constants.py"
    path.write_text(
        'A_TOKEN = "11:assigned-one"\nX, SECRET = 1, "assigned-two"\nf(app_secrets="keyword-one, keyword-two")\n'
        'd = {"telegram_token": "77:in-a-dict", "name": "no-secret"}\nshort(token="tok")\n'
    )
    found = {"assigned-one", "assigned-two", "keyword-one", "keyword-two", "in-a-dict", "tok"}
    assert set(leaks._constants(path)) == found


def test_logs_of_processes_are_read_with_the_secrets_of_their_stack(tmp_path: Path) -> None:
    (tmp_path / "send").mkdir()
    (tmp_path / "state.json").write_text(json.dumps({"settings": {"telegram_token": "42:random-of-a-stack", "n": 1}}))
    (tmp_path / "send" / "send.log").write_text("all is well\n")
    (tmp_path / "send" / "0000.log").write_text(leaks.MARKS[0])
    assert leaks.in_files(tmp_path) == []
    (tmp_path / "send" / "send.log").write_text("posting to /bot42:random-of-a-stack/x\n")
    found = leaks.in_files(tmp_path)
    (tmp_path / "send" / "send.log").unlink()  # else the guard over this very run finds it
    assert found == ["send.log: 'random-of-a-stack' in: posting to /bot42:random-of-a-stack/x"]


def test_a_test_that_tells_a_text_fails(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.support import leaks\npytest_runtest_makereport = leaks.pytest_runtest_makereport\n"
    )
    telling = [f"logging.getLogger('x').warning({leaks.MARKS[0]!r})", f"print({leaks.MARKS[0]!r})", "print('nothing')"]
    tests = "".join(f"def test_{number}():\n    {line}\n" for number, line in enumerate(telling))
    (tmp_path / "test_telling.py").write_text("import logging\n" + tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert "holds a text or a secret" in ran.stdout
    assert ran.stdout.splitlines()[-1].startswith("3 passed, 2 errors"), "the error belongs to the teardown of the test"
