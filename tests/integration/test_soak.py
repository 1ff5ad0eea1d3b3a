"""Seventy-five seconds of the soak: see tests/soak. Memory is reported and not judged in so short a run."""

from pathlib import Path

import pytest

from tests.soak import soak_report
from tests.soak.soak_run import run


@pytest.mark.timeout(600)
def test_nothing_ends_nothing_lags_and_every_committed_message_arrives_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT4ALL_STUCK_SECONDS", "10")  # the idle phases are longer
    found = run(1.25, tmp_path / "stack")
    print("\n".join(soak_report.lines(found)))  # shown when the test failed
    assert found.findings == []
    assert min(found.committed, found.aborted) > 0
    assert found.verdicts["load"].counts["acknowledged messages"] > 500
