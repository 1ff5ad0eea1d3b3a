"""One soak, from start to report: a stack of its own, the phases, an application during the load, a watch, and the findings.

In: minutes, a folder for the stack. Out: a Report. At the end the stack is down and its data are deleted; after a finding the logs stay,
and the report says where.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from cli.dev_stack import SIMULATED, calls_log, compose
from loadgen.evidence import Evidence, ProviderCall, gather
from loadgen.load_producer import Load
from loadgen.verdict import Verdict
from loadgen.verdict import judge as judged
from schemas.kafka_access import KafkaAccess
from schemas.settings import Settings
from stack import control
from tests.soak import judge
from tests.soak.application import TENANT, Application
from tests.soak.soak_scenario import RATES, Kind, Phase, phases
from tests.soak.stack_watch import Process, Sample, Watch
from tests.support.builders import OBSERVED

SAMPLES = 240  # in a run, but at most one in 2 s
END_SECONDS = 60.0  # limit for the last deliveries to end
CONVERSATIONS = 50
Say = Callable[[str], None]


@dataclass
class Report:
    """The result of a run. The run was correct if there are no `findings`."""

    phases: list[Phase]
    samples: list[Sample]
    verdicts: dict[str, Verdict]  # of the load, of the application
    # Phase -> seconds from its last message until a provider accepted it; None: never.
    last_seconds: dict[int, float | None]
    committed: int
    aborted: int
    findings: list[str]
    logs: Path | None = None


@dataclass
class _World:
    """A running stack, and the data of the run."""

    folder: Path
    kafka: KafkaAccess
    postgres_url: str
    watch: Watch
    application: Application
    run: str
    began: Mapping[str, Process] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @property
    def load_log(self) -> Path:
        return self.folder / "load" / "load.jsonl"

    @property
    def application_log(self) -> Path:
        return self.folder / "load" / "application.jsonl"

    def evidence(self) -> dict[str, Evidence]:
        calls = {channel: calls_log(self.folder, channel) for channel in SIMULATED}
        with psycopg.connect(self.postgres_url, connect_timeout=10) as connection:
            return {
                "load": gather(self.load_log, calls, connection),
                "application": gather(self.application_log, calls, connection, TENANT),
            }


def run(minutes: float, folder: Path, say: Say = print) -> Report:
    """Runs for so many minutes, and returns the report. Blocks. `say` gets a line for each phase."""
    plan = phases(minutes)
    try:
        state = control.start(folder, compose(folder))
        world = _world(folder, state.settings, max(2.0, minutes * 60 / SAMPLES))
        world.watch.start()
        try:
            _live(world, plan, say)
        finally:
            world.watch.stop()
        report = _report(world, plan)
        if report.findings:
            report.logs = _kept_logs(folder)
        return report
    finally:
        control.stop(folder)


def _world(folder: Path, settings: Mapping[str, str], every_seconds: float) -> _World:
    name = f"s{int(time.time()):x}"
    (folder / "load").mkdir()
    kafka = Settings.model_validate(dict(settings)).kafka
    world = _World(
        folder=folder,
        kafka=kafka,
        postgres_url=settings["postgres_url"],
        watch=Watch(folder, kafka, every_seconds),
        application=Application(kafka, name, folder / "load" / "application.jsonl"),
        run=name,
    )
    world.began = world.watch.look(kafka=False).processes
    return world


def _live(world: _World, plan: list[Phase], say: Say) -> None:
    """The phases, one after the other."""
    with ThreadPoolExecutor(1) as beside:
        for phase in plan:
            ends = time.monotonic() + phase.seconds
            world.watch.phase = phase.number
            say(f"phase {phase.number + 1} of {len(plan)}: {phase.kind}, {phase.seconds:.0f} s")

            def check(phase: Phase = phase) -> None:
                _look(world, phase, open_transaction=True)

            acting = beside.submit(world.application.act, phase, check)
            if phase.messages:
                _load(world, phase).run()
            time.sleep(max(0.0, ends - time.monotonic()))
            acting.result()
            _look(world, phase, open_transaction=False)


def _look(world: _World, phase: Phase, *, open_transaction: bool) -> None:
    if phase.kind == Kind.IDLE:
        world.findings += judge.lagging(phase, world.watch.look(), open_transaction=open_transaction)


def _load(world: _World, phase: Phase) -> Load:
    return Load(
        kafka=world.kafka,
        run_id=f"{world.run}p{phase.number}",
        seed=phase.number,
        count=phase.messages,
        rate=RATES[phase.kind],
        log=world.load_log,
        channels=tuple(SIMULATED),
        conversations=CONVERSATIONS,
        duplicate_share=0.05,
    )


def _report(world: _World, plan: list[Phase]) -> Report:
    evidence, verdicts = _committed(world)
    after = world.watch.look(kafka=False)
    samples = [*world.watch.samples, after]
    log = (world.folder / "supervisor.log").read_text(encoding="utf-8", errors="replace")
    findings = judge.ended(world.began, after.processes, log) + world.findings + judge.grown(samples, plan)
    for source, verdict in verdicts.items():
        findings += [
            f"{source}: {verdict.totals[kind]} {kind}, as {each[0]}" for kind, each in verdict.findings.items() if each
        ]
        if not verdict.counts["acknowledged messages"]:
            findings.append(f"{source}: nothing was acknowledged")
    aborted = world.application.aborted
    findings += judge.undone(aborted, _called(evidence["load"].calls), _archived(world, aborted))
    produced = [*evidence["load"].produced, *evidence["application"].produced]
    last = judge.last_seconds(produced, evidence["load"].calls, plan, lambda phase: f"{world.run}p{phase.number}-")
    return Report(plan, samples, verdicts, last, world.application.committed, len(aborted), findings)


def _called(calls: Sequence[ProviderCall]) -> Iterator[str | None]:
    return (call.name.message_id if call.name else None for call in calls)


def _committed(world: _World) -> tuple[dict[str, Evidence], dict[str, Verdict]]:
    """The evidence and verdicts when no delivery is missing any more, or after END_SECONDS."""
    end = time.monotonic() + END_SECONDS
    while True:
        evidence = world.evidence()
        verdicts = {source: judged(each, OBSERVED) for source, each in evidence.items()}
        if all(verdict.ok for verdict in verdicts.values()) or time.monotonic() > end:
            return evidence, verdicts
        time.sleep(1)


def _archived(world: _World, messages: list[str]) -> list[str]:
    """The messages of this list that PostgreSQL has."""
    with psycopg.connect(world.postgres_url, connect_timeout=10) as connection:
        found = connection.execute("select message_id from messages where message_id = any(%s)", (messages,))
        return [str(row[0]) for row in found]


def _kept_logs(folder: Path) -> Path:
    """A copy of every log, beside the stack's folder."""
    kept = folder.with_name(f"{folder.name}-logs")
    kept.mkdir(exist_ok=True)
    for path in (*folder.glob("*.log"), *folder.glob("*/*.log")):
        shutil.copy(path, kept / path.name)
    return kept
