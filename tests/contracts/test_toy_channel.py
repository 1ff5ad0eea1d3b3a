"""A new channel needs a connector, its cases and its name: this test adds one to a copy of this repository and runs the tests there.

The copy has three differences: connectors/pigeon/, tests/contracts/cases/pigeon.json and one word in schemas/records.py. The command that
CONTRIBUTING.md names updates the pages in docs/.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source_tree import REPOSITORY

TOY = REPOSITORY / "tests" / "toy_channel"
FOLLOW = [
    "tests/contracts/test_connectors.py",
    "tests/contracts/test_registry.py",
    "tests/unit/test_schemas.py",
    "tests/unit/test_reference_pages.py",
    "tests/unit/test_pigeon_journey.py",
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of this repository as git would commit it now, with the toy channel."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607  # git of this machine
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tmp_path / name)
    folder = tmp_path / "connectors" / "pigeon"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(TOY / "pigeon.py", folder / "connector.py")
    shutil.copy(TOY / "pigeon.json", tmp_path / "tests" / "contracts" / "cases" / "pigeon.json")
    records = tmp_path / "schemas" / "records.py"
    text, count = re.subn(r'^(CHANNELS = \([^)]*")\)', r'\1, "pigeon")', records.read_text("utf-8"), flags=re.MULTILINE)
    assert count == 1
    records.write_text(text, encoding="utf-8")
    shutil.copy(TOY / "journey.py", tmp_path / "tests" / "unit" / "test_pigeon_journey.py")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)  # noqa: S607  # some tests list the files that git knows
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    return ended.stdout


def test_a_connector_its_cases_and_its_name_are_enough_for_a_new_channel(copy: Path) -> None:
    run(copy, "tools.reference_pages")
    assert "| `deliveries.pigeon` |" in (copy / "docs" / "topics.md").read_text(encoding="utf-8")
    wanted = "pigeon or topic or stage or page or declared or case_file"
    printed = run(copy, "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", wanted, *FOLLOW)
    passed = set(re.findall(r"^PASSED \S+::(\S+)", printed, re.MULTILINE))
    assert {"test_a_message_by_pigeon_is_delivered", "test_check_needs_no_connector[pigeon]"} <= passed
    assert "test_a_topic_is_well_formed[deliveries.pigeon]" in passed
    assert sum(name.startswith("test_case[pigeon-") for name in passed) == 7
