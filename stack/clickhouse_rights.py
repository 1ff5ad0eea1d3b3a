"""What SQL may do on the stack's ClickHouse: work on its own tables, and reach nothing else.

Enters: statements and settings of requests. Leaves: the same, or a refusal. Guaranteed: no statement reads or writes a file it names,
runs a program, or speaks to another server, however it is nested. Most of that are grants of ClickHouse itself, which has a source for
each kind of outside (FILE, URL, S3, REMOTE, MYSQL, ...) and asks at every use of it; nothing is granted on any. What no grant covers
in the engine without a server is found in the statement as the engine's own parser writes it out again (formatQuery): no comment,
no heredoc, one way to quote.
"""

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape

ENGINES = (
    "MergeTree",
    "ReplacingMergeTree",
    "SummingMergeTree",
    "AggregatingMergeTree",
    "CollapsingMergeTree",
    "VersionedCollapsingMergeTree",
    "Memory",
    "Log",
    "TinyLog",
    "StripeLog",
    "Null",
    "Set",
    "Join",
    "Buffer",
    "Merge",
    "View",
    "MaterializedView",
    "GenerateRandom",
)
# Of databases too. A grant is wanted only for engines that are sources: EmbeddedRocksDB takes a folder, ExecutablePool a program.
_ALLOWED_ENGINES = {*ENGINES, "Atomic"}
PRIVILEGES = (
    "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE TEMPORARY TABLE, CREATE VIEW, DROP, TRUNCATE, OPTIMIZE, KILL QUERY,"
    " SYSTEM MERGES"
)
# Settings that name a file or a server, or hide an expression in a text.
FIXED = (
    "additional_result_filter",
    "additional_table_filters",
    "dialect",
    "filter",
    "format_avro_schema_registry_url",
    "format_schema",
    "format_schema_source",
    "format_template_resultset",
    "format_template_row",
    "order",
    "parallel_replicas_custom_key",
    "select",
    "sort",
)
# Data after VALUES are literals: an expression there would pass by `reaches`.
PLAIN = ("input_format_values_deduce_templates_of_expressions", "input_format_values_interpret_expressions")
# Functions no grant covers: `file` as a scalar, `disk` in the settings of a table, and those that run what they are given.
REACHING = {"catboostevaluate", "disk", "eval", "executable", "file", "python"}
# Table functions whose columns are described in a text, which may hold an expression and be put together from pieces. `values` is one of
# them only where a table is named, `format` where a format is.
_DESCRIBED = {"input", "values", "format"}
_BEFORE_TABLES = {"from", "join", "describe", "desc", "table", "as", "function", "in", ",", "("}
# What may stand for the name of a function: some take one as an argument (arrayMap, APPLY), without brackets behind it.
_NAMED = {"word", "quoted"}
_TOKEN = re.compile(
    r"(?P<text>'(?:[^'\\]|\\.|'')*')|(?P<quoted>`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.|\"\")*\")|(?P<word>\w+)|(?P<other>\S)",
    re.DOTALL,
)


def users(proof: str = "<password></password>") -> str:
    """The one user, as ClickHouse's configuration has it; `proof` is the element that says how it proves who it is."""
    grants = [f"GRANT {PRIVILEGES} ON *.*", *(f"GRANT TABLE ENGINE ON {engine}" for engine in ENGINES)]
    queries = "".join(f"<query>{escape(grant)}</query>" for grant in grants)
    fixed = "".join(f"<{name}><const/></{name}>" for name in (*FIXED, *PLAIN))
    plain = "".join(f"<{name}>0</{name}>" for name in PLAIN)
    return (
        f"<profiles><default>{plain}<constraints>{fixed}</constraints></default></profiles><quotas><default/></quotas>"
        f"<users><default>{proof}<networks><ip>::/0</ip></networks>"
        f"<profile>default</profile><quota>default</quota><grants>{queries}</grants></default></users>"
    )


def _describes(function: str, before: str, kind_of_first: str) -> bool:
    if function == "values":
        return before in _BEFORE_TABLES
    return function in _DESCRIBED and (function == "input" or kind_of_first in {"word", "quoted"})


def reaches(normal: str, given: Iterable[str] = ()) -> str:
    """What in the statement reaches outside, as formatQuery wrote it, with the values of its parameters; empty when nothing does."""
    tokens = [(found.lastgroup or "", found[0]) for found in _TOKEN.finditer(normal)]
    following = [*tokens[1:], ("", ""), ("", "")]
    before = ""
    for (kind, token), (kind_next, after), (kind_after, third) in zip(tokens, following, following[1:], strict=False):
        word = token.strip('`"').lower()
        if kind in _NAMED and after == "(" and (word in REACHING or _describes(word, before, kind_after)):
            return f"{word}()"
        before = token.lower()
        if kind == "word" and f"{word} {after.lower()}" in {"into outfile", "from infile"} and kind_after == "text":
            return f"{token} {after}"
        if (
            kind == "word"
            and word == "engine"
            and after == "="
            and kind_after in _NAMED
            and third not in _ALLOWED_ENGINES
        ):
            return f"ENGINE = {third}"
        if (
            kind == "word"
            and word == "identifier"
            and after == "}"
            and REACHING & {each.strip().lower() for each in given}
        ):
            return "the name in a parameter"
        if kind == "word" and word == "apply" and kind_next in _NAMED and after.strip('`"').lower() in REACHING:
            return f"APPLY {after}"
    return _as_argument(normal)


def _as_argument(normal: str) -> str:
    """A function that reaches outside, named where a call has its arguments. formatQuery writes a space before the bracket of anything
    else: a list of columns, `IN (...)`."""
    calls: list[bool] = []
    before, end = "", 0
    for found in _TOKEN.finditer(normal):
        token = found[0]
        if token in {"(", "["}:
            touches = before not in {"", "(", "[", ","} and found.start() == end
            calls.append(touches or (before in {"(", "[", ","} and bool(calls) and calls[-1]))
        elif token in {")", "]"} and calls:
            calls.pop()
        elif calls and calls[-1] and before in {"(", "[", ","} and found.lastgroup in _NAMED:
            word, is_table = token.strip('`"').lower(), normal[found.end() : found.end() + 1] == "."
            if word in REACHING and not is_table:
                return f"{token} as an argument"
        before, end = token, found.end()
    return ""
