"""Ninety seconds of the crash harness: see tests/crash_engine."""

import pytest

from tests.crash_engine.crash_run import run
from tests.crash_engine.fault_injection import KINDS

SEED = 3  # its faults are of every kind, also in a run as short as this


@pytest.mark.timeout(480)
def test_nothing_is_lost_doubled_or_forgotten_whatever_dies() -> None:
    report = run(minutes=1.5, seed=SEED)
    print("\n".join(report.lines()))  # shown when the test failed
    assert report.verdict.findings == []
    assert report.verdict.messages > 50_000
    assert report.verdict.records > report.verdict.messages, "some came twice"
    assert {fault.kind for fault in report.faults} == set(KINDS)
