"""Writes tables of the docs: of settings, topics, limits, metrics and log events from the code, and of figures from benchmarks/.

`python -m tools.reference_pages` writes each table between its marks in a page. A test fails while a page has another table.
"""

import ast
import dataclasses
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from pydantic import SecretStr

from pipelines import kafka_acls
from schemas import metrics
from schemas.benchmark import FOLDER
from schemas.catalog import SCHEMAS, TOPICS, record_bytes
from schemas.causes import DESCRIPTIONS
from schemas.limits import UNLIMITED, described, limit_of, record_in
from schemas.objectives import OBJECTIVES
from schemas.records import Record
from schemas.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]

METRICS: Mapping[str, Any] = {
    name: value for name, value in vars(metrics).items() if isinstance(value, Counter | Gauge | Histogram)
}


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table. Markup characters in the cells are escaped."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in line) + " |" for line in lines
    )


def settings_table() -> str:
    return table(
        ("setting", "default", "meaning"),
        (
            (f"`CHAT4ALL_{name.upper()}`", _default(field.default), str(field.description))
            for name, field in Settings.model_fields.items()
        ),
    )


def _default(value: object) -> str:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    return "" if plain == "" else f"`{plain}`"


def topics_table() -> str:
    return table(
        ("topic", "key", "record", "partitions", "policy", "largest record", "producers", "consumers", "what"),
        (
            (
                f"`{topic.name}`",
                topic.key,
                ", ".join(topic.records),
                str(topic.partitions or "`CHAT4ALL_PARTITIONS`"),
                topic.policy if topic.retention_days is None else f"delete, {topic.retention_days} d",
                f"{record_bytes(topic.name):,}",
                ", ".join(topic.producers),
                ", ".join(topic.consumers) or "none",
                topic.about,
            )
            for topic in TOPICS.values()
        ),
    )


def schemas_table() -> str:
    return table(
        ("id", "schema", "record", "what"),
        (
            (str(s.id), f"`schemas/avro/{s.name}.v{s.version}.avsc`", s.record, s.definition["doc"])
            for s in sorted(SCHEMAS, key=lambda s: s.id)
        ),
    )


def causes_table() -> str:
    return table(("cause", "meaning"), ((f"`{code}`", text) for code, text in DESCRIPTIONS.items()))


def limits_table() -> str:
    """Each field with its limit and the records that have it. Fields whose type is the limit (an enum, a bool) are left out."""
    fields: dict[tuple[str, str], list[str]] = {}
    for cls in limited_classes():
        for field in dataclasses.fields(cls):
            limit = limit_of(cls.__name__, field.name)
            if limit is not None:
                fields.setdefault((field.name, described(limit)), []).append(cls.__name__)
    return table(
        ("field", "allowed", "of"),
        ((f"`{name}`", allowed, ", ".join(classes)) for (name, allowed), classes in fields.items()),
    )


def limited_classes() -> list[type[Any]]:
    """Every record class with limits, and the classes of their fields."""
    found: list[type[Any]] = [cls for cls in typing.get_args(Record) if cls.__name__ not in UNLIMITED]
    for cls in found:  # the list grows during the loop
        found += [
            inner for hint in typing.get_type_hints(cls).values() if (inner := record_in(hint)) and inner not in found
        ]
    return found


def metrics_table() -> str:
    return table(
        ("metric", "kind", "labels", "what"),
        (
            (
                f"`{exposed_name(metric)}`",
                metric._type,
                ", ".join(metric._labelnames),
                metric._documentation,
            )
            for metric in METRICS.values()
        ),
    )


def exposed_name(metric: Any) -> str:
    """The name in Prometheus: that of a counter ends in _total."""
    return f"{metric._name}_total" if isinstance(metric, Counter) else str(metric._name)


def events_table() -> str:
    return table(
        ("stage", "events"),
        ((stage, ", ".join(f"`{event}`" for event in sorted(events))) for stage, events in counted_events().items()),
    )


# call that counts an event -> position of the event's name in its arguments. The stages of the sinks count after their write.
COUNTS = {"decision.count": 0, "metrics.EVENTS.labels": 1}
SHARED = {"erasing": "route, match, send, track"}  # module -> the stages that it counts for


def counted_events() -> dict[str, set[str]]:
    """Stage -> the events that it counts: the literals in its calls of COUNTS; for a computed name, a description."""
    found: dict[str, set[str]] = {}
    for path in sorted((REPOSITORY / "pipelines").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            place = COUNTS.get(ast.unparse(call.func).removeprefix("turn."))
            if place is not None:
                names = _texts(call.args[place]) or {"the new status, in lower case"}
                stage = path.stem.partition("_")[0]  # match_threads.py: of match
                found.setdefault(SHARED.get(stage, stage), set()).update(names)
    return found


def _texts(node: ast.expr) -> set[str]:
    """The texts that an expression can have: a literal, or both branches of a conditional."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=one, orelse=other):
            return _texts(one) | _texts(other)
    return set()


LOGGING_ROOMS = ("pipelines", "connectors", "sinks")
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")


def log_events_table() -> str:
    """Every call of a structlog logger, which the house calls `log`: the event, its levels, its keys, and the modules that log it."""
    found: dict[str, tuple[set[str], set[str], set[str]]] = {}
    for room in LOGGING_ROOMS:
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match call:
                    case ast.Call(
                        func=ast.Attribute(value=ast.Name(id="log"), attr=level),
                        args=[ast.Constant(value=str(event)), *_],
                        keywords=keywords,
                    ) if level in LEVELS:
                        levels, keys, places = found.setdefault(event, (set(), set(), set()))
                        levels.add(level)
                        keys.update(keyword.arg for keyword in keywords if keyword.arg is not None)
                        places.add(f"`{path.relative_to(REPOSITORY).as_posix()}`")
    return table(
        ("event", "level", "keys", "logged by"),
        (
            (event, ", ".join(sorted(levels)), ", ".join(f"`{key}`" for key in sorted(keys)), ", ".join(sorted(places)))
            for event, (levels, keys, places) in sorted(found.items(), key=lambda item: item[0].lower())
        ),
    )


def objectives_table() -> str:
    return table(
        ("objective", "limit", "measured by", "what"),
        (
            (
                o.name,
                f"{o.share:.0%} within {o.seconds:g} s",
                f"`{o.measured_by if isinstance(o.measured_by, str) else exposed_name(o.measured_by)}`",
                o.about,
            )
            for o in OBJECTIVES
        ),
    )


def figures_table(benchmark: str) -> str:
    """The figures of benchmarks/<benchmark>.json."""
    figures = json.loads((FOLDER / f"{benchmark}.json").read_text(encoding="utf-8"))["figures"]
    return table(
        ("figure", "value", "target", "unit"),
        ((name.replace("_", " "), _plain(f["value"]), _plain(f["target"]), f["unit"]) for name, f in figures.items()),
    )


# goal for the product's speed -> file and name of the figure in benchmarks/ that shows whether it was reached
GOALS: Mapping[str, tuple[str, str]] = {
    "CPU of all processes at 100 messages/s": ("life", "at_100_cpu_ratio"),
    "accept to sent at 100 messages/s, p50": ("life", "at_100_accept_to_sent_p50"),
    "accept to sent at 100 messages/s, p95": ("life", "at_100_accept_to_sent_p95"),
    "deliveries a second at saturation": ("life", "saturation_rate_ratio"),
    "CPU a delivery at saturation": ("life", "saturation_cpu_a_delivery"),
    "CPU a delivery at saturation, beside the commit before": ("life", "saturation_cpu_ratio"),
    "transactions a second at 100 messages/s": ("life", "at_100_transactions"),
    "demo: accept to sent, p95": ("life", "demo_accept_to_sent_p95"),
    "the engine beside a loop by hand with transactions": ("engine", "ours_to_transactional_loop"),
    "the engine beside Kafka Streams, exactly_once_v2": ("engine", "ours_to_streams_exactly_once"),
    "a lone record through one stage, p95": ("engine", "lone_record_p95"),
    "track: memory of a delivery that has ended": ("decide", "track_ended"),
    "track: memory of a delivery that is open": ("decide", "track_open"),
    "the gateway beside a bare aiohttp handler": ("receipts", "gateway_to_bare"),
    "the gateway: statuses a CPU second": ("receipts", "gateway_statuses"),
    "cursors: share of core's CPU a delivery": ("receipts", "cursors_share"),
    "memory of open deliveries in RocksDB": ("receipts", "open_deliveries_memory"),
    "a receipt is posted until the view shows it, p95": ("receipts", "receipt_to_view_p95"),
    "archive's sink beside psycopg alone": ("sinks", "archive_sink_to_peer"),
    "archive, from Kafka's bytes on, beside psycopg alone": ("sinks", "archive_stage_to_peer"),
    "archive: events a CPU second": ("sinks", "archive_events_cpu"),
    "analyse's sink beside clickhouse-connect alone": ("sinks", "analyse_sink_to_peer"),
    "analyse, from Kafka's bytes on, beside clickhouse-connect alone": ("sinks", "analyse_stage_to_peer"),
    "analyse: events a CPU second": ("sinks", "analyse_events_cpu"),
    "the SLA report over 10,000,000 transitions, p95": ("sinks", "report_sla"),
    "percentiles of the roll-ups beside exact ones": ("sinks", "percentile_error"),
    "a page of 50 messages out of 5,000,000, p95": ("sinks", "history_page_p95"),
    "memory of worker core at full speed": ("sinks", "core_memory"),
    "memory of worker sinks at full speed": ("sinks", "sinks_memory"),
    "an idle stack": ("idle", "idle cpu"),
    "a broker was killed: longest pause while Kafka answered": (
        "crash_engine",
        "longest without progress: broker SIGKILL, while Kafka answered",
    ),
    "a worker was killed: longest pause": ("crash_engine", "longest without progress: SIGKILL"),
    "chat4all up": ("start", "up"),
    "chat4all demo": ("start", "demo"),
}


# what README shows -> the file of benchmarks/, and its figures, in the same unit
HIGHLIGHTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "accept to sent at 100 messages/s, p50 / p95, ms": (
        "life",
        ("at_100_accept_to_sent_p50", "at_100_accept_to_sent_p95"),
    ),
    "deliveries a second, end to end with receipts, at saturation": ("life", ("saturation_rate",)),
    "CPU of all processes for a delivery at saturation, ms": ("life", ("saturation_cpu_a_delivery",)),
    "engine on one core, records/s: tables in memory / in RocksDB": ("engine", ("ours_rate", "ours_rocksdb_rate")),
    "engine, times as fast as: Kafka Streams exactly_once_v2 / Quix Streams / Faust": (
        "engine",
        ("ours_to_streams_exactly_once", "ours_to_quix", "ours_to_faust"),
    ),
    "longest pause when a worker is killed, s": ("crash_engine", ("longest without progress: SIGKILL",)),
    "`chat4all up` / `chat4all demo`, s": ("start", ("up", "demo")),
}


def highlights_table() -> str:
    rows = []
    for what, (file, names) in HIGHLIGHTS.items():
        figures = json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))["figures"]
        shown_as = (
            " / ".join(_plain(figures[name][column]) or "-" for name in names) for column in ("value", "target")
        )
        rows.append((what, *shown_as, f"[{file}.json](benchmarks/{file}.json)"))
    return table(("figure", "value", "wanted", "file"), rows)


def goals_table() -> str:
    rows = []
    for what, (file, name) in GOALS.items():
        figure = json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))["figures"][name]
        value, target = figure["value"], figure["target"]
        reached = target is None or (value <= target if figure["better"] == "lower" else value >= target)
        rows.append((what, _plain(value), _plain(target), "yes" if reached else "**no**", figure["unit"], f"`{file}`"))
    return table(("figure", "value", "wanted", "reached", "unit", "file"), rows)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:,.10g}"


def access_table() -> str:
    """The ACLs by process. Resources with the same operations share a line."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for process, of_process in kafka_acls.rules().items():
        for rule in of_process:
            name = f"`{rule.name}*`" if rule.is_prefix else f"`{rule.name}`"
            grouped.setdefault((process, rule.resource.replace("_", " "), ", ".join(rule.operations)), []).append(name)
    return table(
        ("process", "resource", "operations", "names"), ((*key, ", ".join(names)) for key, names in grouped.items())
    )


# page -> mark -> table
PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README": {"figures": highlights_table},
    "settings": {"settings": settings_table},
    "limits": {"limits": limits_table},
    "topics": {"topics": topics_table, "schemas": schemas_table, "causes": causes_table},
    "providers": {"connectors": partial(figures_table, "connectors")},
    "gateway": {"attack": partial(figures_table, "attack")},
    "engine": {name: partial(figures_table, name) for name in ("engine", "crash_engine")},
    "performance": {"goals": goals_table}
    | {name: partial(figures_table, name) for name in ("life", "idle", "start", "decide", "receipts", "sinks")},
    "security": {"access": access_table},
    "logs": {"log events": log_events_table},
    "metrics": {"metrics": metrics_table, "events": events_table, "objectives": objectives_table},
}


def page(name: str) -> Path:
    return REPOSITORY / "README.md" if name == "README" else REPOSITORY / "docs" / f"{name}.md"


def shown(name: str, mark: str) -> str:
    """The table that a page has between its marks."""
    _, _, rest = page(name).read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    text, end, _ = rest.partition(f"\n<!-- end of {mark} -->")
    return text if end else ""


def write() -> None:
    for name, tables in PAGES.items():
        for mark, make in tables.items():
            text = page(name).read_text(encoding="utf-8")
            head, begin, rest = text.partition(f"<!-- {mark} -->\n")
            _, end, tail = rest.partition(f"<!-- end of {mark} -->")
            if not end:
                raise ValueError(f"{page(name).name} lacks the marks of {mark}")
            page(name).write_text(f"{head}{begin}{make()}\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    write()
