"""A program that is forked from the process that has imported it runs as it would alone."""

import subprocess
import sys
from pathlib import Path

from stack.fork_server import Start


def test_a_package_that_was_imported_runs_without_a_warning(tmp_path: Path) -> None:
    log = tmp_path / "simulators.log"
    start = Start(name="simulators", argv=["simulators", "--help"], env={}, log=str(log), death_signal=15)
    subprocess.run(
        [sys.executable, "-m", "stack.fork_server", "simulators.__main__"], input=start.line(), check=True, timeout=60
    )
    text = log.read_text(encoding="utf-8")
    assert "usage: " in text.lower()
    assert "Warning" not in text
