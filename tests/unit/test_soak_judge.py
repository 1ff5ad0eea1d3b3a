"""The judge of a soak, with invented samples: each kind of finding is found, and a correct run has none."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from loadgen.evidence import Evidence, Name, ProducedMessage, ProviderCall
from loadgen.verdict import judge as judged
from tests.soak import judge, soak_report
from tests.soak.judge import BYTES_A_ROW, MIB
from tests.soak.soak_run import Report
from tests.soak.soak_scenario import Kind, Phase, phases
from tests.soak.stack_watch import Place, Process, Sample, Worker
from tests.support.builders import OBSERVED

RUNNING = {"send": Process(10, 0, 100 * MIB), "kafka": Process(11, 0, 400 * MIB)}
QUIET = Worker(health_lag=0, metrics_lag=0, rows=5)
DIED = (
    "2026-11-25 05:40:00 SEND DIED with 3; restarting it; log x/send.log ends: 05:39 \x1b[2mready\x1b[0m | 05:40 worker ends "
    "\x1b[36mreason\x1b[0m=\x1b[35m'partition 0 has lag and committed nothing for 10 s'\x1b[0m stage=send\n"
)


def sample(at: float = 0.0, phase: int = 0, **changes: Any) -> Sample:
    made = Sample(at, phase, RUNNING, {"send": QUIET}, {("send", "bindings", 1): Place(7, 7, 7)})
    return replace(made, **changes)


def series(
    minutes: int, megabytes: Callable[[float], float], rows: Callable[[float], int] = lambda _: 0
) -> list[Sample]:
    """A sample every 5 s of a run of so many minutes."""
    plan, found = phases(minutes), []
    for number in range(minutes * 12):
        minute = number / 12
        phase = next(p for p in plan if sum(q.seconds for q in plan[: p.number + 1]) > number * 5)
        processes: Mapping[str, Process] = {"send": Process(10, 0, round(megabytes(minute) * MIB))}
        workers = {"send": Worker(0, 0, rows(minute))}
        found.append(sample(number * 5.0, phase.number, processes=processes, workers=workers))
    return found


def test_the_phases_fill_the_time_in_turn() -> None:
    for minutes in (0.5, 2, 7, 20, 60):
        plan = phases(minutes)
        assert sum(phase.seconds for phase in plan) == pytest.approx(minutes * 60)
        assert [p.kind for p in plan[:4]] == [Kind.IDLE, Kind.STEADY, Kind.BURST, Kind.IDLE]
        assert plan[-1].kind == Kind.IDLE
        assert [p.number for p in plan] == list(range(len(plan)))
        assert max(phase.seconds for phase in plan) < 600, "no transaction stays open longer than its time-out"


def test_who_runs_on_has_not_ended() -> None:
    assert judge.ended(RUNNING, {**RUNNING, "send": Process(10, 0, 200 * MIB)}, "all is well\n") == []


def test_who_ended_is_told_with_its_reason() -> None:
    after = {**RUNNING, "send": Process(12, 2, MIB)}
    assert judge.ended(RUNNING, after, DIED * 2) == [
        "send ended 2 x: partition N has lag and committed nothing for 10 s"
    ]
    assert "another process" in judge.ended(RUNNING, after, "")[0]
    assert judge.ended(RUNNING, RUNNING, "2026-11-25 05:40:00 KAFKA DIED with -9; IT STAYS DEAD\n") == [
        "kafka ended 1 x: exit -9"
    ]
    assert judge.ended(RUNNING, {"send": RUNNING["send"]}, "") == ["kafka is gone from the stack"]


@pytest.mark.parametrize(
    ("changes", "open_transaction", "findings"),
    [
        ({}, False, 0),
        ({"workers": {"send": Worker(1, 0, 5)}}, False, 1),
        ({"workers": {"send": Worker(0, 3, 5)}}, False, 1),
        ({"workers": {"send": Worker(0, None, 5)}}, False, 1),
        ({"workers": {"send": None}}, False, 1),
        ({"places": {}}, False, 1),
        ({"places": {("send", "bindings", 1): Place(6, 7, 7)}}, False, 1),
        ({"places": {("send", "bindings", 1): Place(7, 7, 9)}}, False, 1),
        ({"places": {("send", "bindings", 1): Place(7, 7, 9)}}, True, 0),
        ({"places": {("send", "bindings", 1): Place(6, 7, 9)}}, True, 1),
    ],
)
def test_lag_is_found(changes: dict[str, Any], open_transaction: bool, findings: int) -> None:
    found = judge.lagging(phases(2)[0], sample(**changes), open_transaction=open_transaction)
    assert len(found) == findings


@pytest.mark.parametrize(
    ("megabytes", "rows", "grows"),
    [
        (lambda _: 100.0, lambda _: 0, False),
        (lambda minute: 100 + 0.5 * minute, lambda _: 0, False),
        (lambda minute: 100 + 1.5 * minute, lambda _: 0, True),
        (lambda minute: 100 + 60 * min(minute, 4), lambda _: 0, False),  # the first round only
        (lambda minute: 100 + (300 if int(minute) == 12 else 0), lambda _: 0, False),  # for a minute
        (lambda minute: 100 + 3 * minute, lambda minute: round(3 * minute * MIB / BYTES_A_ROW), False),
        (lambda minute: 100 + 3 * minute, lambda minute: round(minute * MIB / BYTES_A_ROW), True),
    ],
)
def test_growth_is_found(megabytes: Callable[[float], float], rows: Callable[[float], int], grows: bool) -> None:
    assert bool(judge.grown(series(20, megabytes, rows), phases(20))) is grows


def test_growth_of_a_single_round_is_not_judged() -> None:
    assert judge.grown(series(2, lambda minute: 100 + 50 * minute), phases(2)) == []
    assert judge.growth("send", series(2, lambda minute: 100 + 50 * minute)) == pytest.approx(50)


def test_a_server_may_grow() -> None:
    samples = [replace(s, processes={"kafka": s.processes["send"]}) for s in series(20, lambda minute: 100 * minute)]
    assert judge.grown(samples, phases(20)) == []


def test_an_aborted_message_is_never_sent_and_never_kept() -> None:
    assert judge.undone(["a", "b"], ["c", None], ["d"]) == []
    assert judge.undone(["a", "b"], ["b", None], ["a"]) == [
        "b of an aborted transaction was sent",
        "a of an aborted transaction is in PostgreSQL",
    ]


def test_how_long_the_last_message_of_a_phase_took() -> None:
    plan = [Phase(number, 0, Kind.STEADY, 10) for number in range(12)]
    produced = [
        ProducedMessage(f"rp{phase}-m{n}", "c", 0, n, at, ())
        for phase, n, at in ((1, 1, 500), (1, 2, 1000), (1, 1, 1400), (11, 3, 5000))
    ]
    calls = [
        ProviderCall("whatsapp", 1, 1100, "a", Name("c", "rp1-m1"), "w1", "accepted"),
        ProviderCall("whatsapp", 2, 1200, "a", Name("c", "rp1-m2"), None, "error"),
        ProviderCall("whatsapp", 3, 1500, "a", Name("c", "rp1-m2"), "w2", "accepted"),
    ]
    found = judge.last_seconds(produced, calls, plan, lambda phase: f"rp{phase.number}-")
    assert found == {1: 0.5, 11: None}
    assert judge.last_seconds([replace(produced[1], at=1600)], calls, plan, lambda _: "rp1-")[1] == 0, (
        "acknowledged later than the call"
    )


def test_the_report_tells_growth_findings_and_the_last_messages() -> None:
    samples, nothing = series(20, lambda minute: 100 + 1.5 * minute), judged(Evidence([], [], [], [], []), OBSERVED)
    made = Report(phases(20), samples, {"load": nothing}, {1: 0.25, 2: None}, 7, 3, ["send ended 2 x: so"] * 50)
    lines = list(soak_report.lines(made))
    assert sum(line.startswith("FOUND: send ended") for line in lines) == soak_report.SHOWN
    assert f"and {50 - soak_report.SHOWN} findings more" in lines
    assert any("0.25 s" in line for line in lines)
    assert any(line.endswith("never") for line in lines)
    figures = soak_report.figures(made)
    assert figures["growth: send"].value == pytest.approx(1.5)
    assert figures["findings"].value == 50
    assert list(soak_report.lines(replace(made, findings=[])))[-1].startswith("OK")
