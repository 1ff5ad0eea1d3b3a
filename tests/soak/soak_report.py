"""A soak's report as text and as figures. In: a Report. Out: lines to print; what benchmarks/soak.json holds."""

from collections.abc import Iterator

from schemas.benchmark import Figure
from stack.servers import SERVERS
from tests.soak.judge import BYTES_A_ROW, MIB, MOST_MIB_A_MINUTE, growth, warm
from tests.soak.soak_run import Report

SHOWN = 40  # findings


def lines(report: Report) -> Iterator[str]:
    """The lines to print: phases, processes, findings."""
    yield ""
    yield "phase                seconds  messages  last one taken after"
    for phase in report.phases:
        last = report.last_seconds.get(phase.number)
        shown = "-" if phase.number not in report.last_seconds else "never" if last is None else f"{last:.2f} s"
        yield f"{phase.number + 1:5}  {phase.kind:12} {phase.seconds:8.0f} {phase.messages:9} {shown:>21}"
    yield ""
    judged = "judged" if report.phases[-1].round else "reported only: a run of a single round is too short to judge it"
    yield f"growth is MiB a minute, less {BYTES_A_ROW} bytes a row, in idle and steady phases; {judged}"
    yield "process        restarts   first MiB   last MiB     rows   growth"
    for name, process in report.samples[-1].processes.items():
        worker = report.samples[-1].workers.get(name)
        unique = [p.unique / MIB for s in report.samples if (p := s.processes.get(name)) is not None and p.unique]
        rows = "" if worker is None else str(worker.rows)
        ours = "" if name not in SERVERS else "  not ours"
        yield (
            f"{name:14} {process.restarts:8} {unique[0] if unique else 0:11.1f} {unique[-1] if unique else 0:10.1f} "
            f"{rows:>8} {_growth(report, name):8.2f}{ours}"
        )
    yield ""
    for source, verdict in report.verdicts.items():
        yield f"{source}: " + ", ".join(f"{name} {count}" for name, count in verdict.counts.items() if count)
    yield f"the application committed {report.committed} messages and aborted {report.aborted}"
    yield from (f"FOUND: {finding}" for finding in report.findings[:SHOWN])
    if len(report.findings) > SHOWN:
        yield f"and {len(report.findings) - SHOWN} findings more"
    if report.logs:
        yield f"logs: {report.logs}"
    if not report.findings:
        yield "OK: no process ended, no lag while nothing happened, every message once, none of an aborted transaction"


def figures(report: Report) -> dict[str, Figure]:
    """The run as figures."""
    last = [seconds for seconds in report.last_seconds.values() if seconds is not None]
    found = {
        "messages": Figure(sum(v.counts["acknowledged messages"] for v in report.verdicts.values()), "messages"),
        "committed in transactions": Figure(report.committed, "messages"),
        "aborted": Figure(report.aborted, "messages"),
        "findings": Figure(len(report.findings), "findings", 0, "lower"),
        "restarts": Figure(sum(p.restarts for p in report.samples[-1].processes.values()), "restarts", 0),
        "longest from a phase's last message to the provider": Figure(round(max(last, default=0.0), 1), "s"),
    }
    for name in report.samples[-1].processes:
        target = None if name in SERVERS else MOST_MIB_A_MINUTE
        found[f"growth: {name}"] = Figure(round(_growth(report, name), 2), "MiB a minute", target)
    return found


def _growth(report: Report, name: str) -> float:
    return growth(name, warm(report.samples, report.phases))
