"""The Makefile's targets: each has a line in `make help`, and .PHONY names exactly those that make no file."""

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE)  # .venv/... are files


def test_phony_names_every_target_that_is_no_file() -> None:
    phony = " ".join(re.findall(r"^\.PHONY:(.*)", MAKEFILE, re.MULTILINE)).split()
    assert sorted(phony) == sorted(TARGETS)


def test_help_shows_every_target_with_its_text() -> None:
    printed = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout  # noqa: S607  # the make on PATH
    shown = [line.split(maxsplit=1) for line in printed.splitlines() if not line.startswith("make")]
    assert [words[0] for words in shown] == TARGETS
    assert all(len(words) == 2 for words in shown)
