"""Full-text search of messages in PostgreSQL: Portuguese, English and plain words, with and without accents.

Enters: a connection of psycopg, the tenant, and words as in a web search: `"a phrase"`, `-without`, `or`. Leaves: a page of messages, the
newest first, each with a snippet in parts, so that no reader has to trust markup in a text. Guaranteed: only reads, and only rows of the
tenant; times are Unix milliseconds; texts are the original ones; bounded time. All functions block and use the caller's connection.

A word matches when it is equal without accents and capitals, or has the same stem in Portuguese or in English. What is in quotation marks
matches as it is written, without accents and capitals. PostgreSQL finds no words inside a tag of HTML or of a `<script>`. Months
are read one after the other, the newest first, and only as many as the page needs.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from sinks.history_pages import DEFAULT_LIMIT, Listing, Page, WrongQuestion, bounded, limit_time, page, time_of
from sinks.storable_text import held, key, original, storable

SECONDS = 5.0
DAYS = 90
LONGEST = 500  # characters of a question
WORDS = 32  # terms of a question
_DAY_MS = 86_400_000
_PLAIN = "public.plain_unaccent"
_CONFIGURATIONS = (_PLAIN, "public.portuguese_unaccent", "public.english_unaccent")
_BEGIN, _END = "\x01", "\x02"
_TERM = re.compile(r'(-?)"([^"]*)"?|(\S+)')
_OPTIONS = f'StartSel="{_BEGIN}", StopSel="{_END}", MaxWords=30, MinWords=12, MaxFragments=2, FragmentDelimiter=" ... "'
_SHORT = (
    240  # characters of a text that is shown as a whole; of a longer one, parts without the small words at their ends
)
_WHOLE = f'StartSel="{_BEGIN}", StopSel="{_END}", HighlightAll=true'
_SELECT = """
    select conversation_id, message_id, seq, direction, sender, kind, accepted_at, left(text, 20000) as text from messages
"""
_NARROWER = "name a conversation, a shorter time range or less frequent words"


@dataclass(frozen=True, slots=True)
class SnippetPart:
    """A piece of a snippet; `match`: it is a word that was looked for."""

    text: str
    match: bool


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """A message that has the words. `snippet` is the part of the text around them; it is not escaped for any markup."""

    conversation_id: str
    message_id: str
    seq: int
    direction: str
    sender: str
    kind: str
    accepted_at: int
    snippet: tuple[SnippetPart, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """A word or a phrase. `excluded`: a message must not have it. `exact`: as it is written, and all words in this order."""

    text: str
    excluded: bool = False
    exact: bool = False


def terms(question: str) -> list[list[Term]]:
    """The question as alternatives, each a list of terms that must all hold. Raises WrongQuestion when an alternative has no word that a
    message must have, and for a question that is too long. Pure."""
    if len(question) > LONGEST:
        raise WrongQuestion(f"a search has at most {LONGEST} characters, not {len(question)}")
    alternatives: list[list[Term]] = [[]]
    for minus, phrase, word in _TERM.findall(storable(question)):
        if word.lower() == "or" and alternatives[-1]:
            alternatives.append([])
            continue
        excluded = bool(minus) if phrase else word.startswith("-")
        text = phrase or word.removeprefix("-").replace('"', " ")
        if re.search(r"\w", text):
            # A word with a dash in it is several words.
            alternatives[-1].append(Term(text, excluded, bool(phrase) or len(re.findall(r"\w+", text)) > 1))
    if len(alternatives) > 1 and not alternatives[-1]:
        alternatives.pop()  # "word or"
    if sum(map(len, alternatives)) > WORDS:
        raise WrongQuestion(f"a search has at most {WORDS} words and phrases")
    if not all(any(not term.excluded for term in alternative) for alternative in alternatives):
        raise WrongQuestion("write at least one word that the messages must have; -word only takes messages away")
    return alternatives


def search(  # each is a part of the question
    connection: psycopg.Connection[Any],
    tenant_id: str,
    question: str,
    *,
    conversation_id: str | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    seconds: float = SECONDS,
) -> Page[FoundMessage]:
    """Messages accepted in [since, until) (Unix ms; default: the last 90 days before `until`, which is now) that have the words, the newest
    first. Words after the first 20,000 characters of a text are not found. Raises WrongQuestion; and TooSlow when it takes longer than
    `seconds`."""
    now = time.time_ns() // 1_000_000
    end = until if until is not None else now + _DAY_MS  # a clock may be ahead of ours
    begin = since if since is not None else (now if until is None else until) - DAYS * _DAY_MS
    values: dict[str, Any] = {"tenant": key(tenant_id)}
    conditions = ["tenant_id = %(tenant)s"]
    if conversation_id is not None:
        conditions.append("conversation_id = %(conversation)s")
        values["conversation"] = key(conversation_id)
    alternatives = terms(question)
    matching, words = _matching(alternatives)
    values |= words
    # A time that the caller did not give is not a part of the question, so that a cursor is good for the next minutes, too.
    listing = Listing(
        f"search since {since} until {until}",
        _SELECT,
        ("accepted_at", "conversation_id", "message_id"),
        (*conditions, *matching),
        descending=True,
        by_index=False,
    )
    deadline = time.monotonic() + seconds

    def months(descending: bool) -> Iterator[tuple[datetime, datetime]]:  # as `page` calls it
        for month in sorted(_months(begin, end), reverse=descending):
            limit_time(connection, deadline - time.monotonic())
            yield month

    def ask() -> Page[FoundMessage]:
        found = page(connection, listing, values, dict, limit=limit, cursor=cursor, spans=months)
        limit_time(connection, deadline - time.monotonic())
        snippets = _snippets(connection, [row.pop("text") for row in found.items], alternatives)
        items = (FoundMessage(**row, snippet=snippet) for row, snippet in zip(found.items, snippets, strict=True))
        return Page(tuple(items), found.after, found.before)

    return bounded(connection, seconds, ask, _NARROWER)


def _months(begin: int, end: int) -> Iterator[tuple[datetime, datetime]]:
    """[begin, end) (Unix ms), cut where a month begins in UTC, in order."""
    first, last = time_of(held(begin)), time_of(held(end))
    while first < last:
        following = datetime(first.year + first.month // 12, first.month % 12 + 1, 1, tzinfo=UTC)
        yield first, min(following, last)
        first = following


def _queries(alternatives: list[list[Term]]) -> tuple[list[list[str]], dict[str, str]]:
    """Each term as a tsquery in SQL, and the parameters. Any of the three configurations may fulfil it; an exact one must be fulfilled by
    the plain words."""
    values: dict[str, str] = {}
    queries = []
    for alternative in alternatives:
        names = [f"term_{len(values) + n}" for n in range(len(alternative))]
        values |= {name: f'"{term.text}"' for name, term in zip(names, alternative, strict=True)}
        queries.append(
            [
                f"({' || '.join(_query(each, name) for each in _CONFIGURATIONS[: 1 if term.exact else None])})"
                for name, term in zip(names, alternative, strict=True)
            ]
        )
    return queries, values


def _query(configuration: str, name: str) -> str:
    return f"websearch_to_tsquery('{configuration}'::regconfig, %({name})s)"


def _matching(alternatives: list[list[Term]]) -> tuple[list[str], dict[str, str]]:
    """The conditions of a message that matches, and their parameters. The first one is what the index answers. The word list of a text is
    three lists in a row, plain words first, so that stems look like words, and a phrase might reach from one list into the next: a second
    condition checks what is exact in the plain words alone."""
    queries, values = _queries(alternatives)
    wide, exact = [], []
    names = iter(values)
    for alternative, of in zip(alternatives, queries, strict=True):
        words = " && ".join(
            f"!!{query}" if term.excluded else query
            for term, query in zip(alternative, of, strict=True)
            if not (term.excluded and term.exact)
        )
        wide.append(f"({words})")
        checks = [f"search_words(text) @@ ({words})"]
        for term, name in zip(alternative, names, strict=False):
            if term.exact:
                found = f"to_tsvector('{_PLAIN}'::regconfig, left(text, 20000)) @@ {_query(_PLAIN, name)}"
                checks.append(f"{'not ' if term.excluded else ''}({found})")
        exact.append(" and ".join(checks))
    conditions = [f"search_words(text) @@ ({' || '.join(wide)})"]
    if any(term.exact for alternative in alternatives for term in alternative):
        conditions.append("(" + " or ".join(f"({each})" for each in exact) + ")")
    return conditions, values


def _snippets(
    connection: psycopg.Connection[Any], texts: list[str], alternatives: list[list[Term]]
) -> list[tuple[SnippetPart, ...]]:
    """The part of each text around the words that were looked for. One query for all; PostgreSQL marks with one configuration at a time, so
    the first that marks something is taken."""
    wanted = [[term for term in alternative if not term.excluded] for alternative in alternatives]
    queries, values = _queries(wanted)
    query = " || ".join(each for of in queries for each in of)
    options = f"case when length(body) <= {_SHORT} then %(whole)s else %(options)s end"
    marked = [f"ts_headline('{each}'::regconfig, body, ({query}), {options})" for each in _CONFIGURATIONS[::-1]]
    sql = f"select {', '.join(marked)} from unnest(%(texts)s::text[]) with ordinality as given (body, n) order by n"  # noqa: S608  # of our own parts
    clean = [re.sub(f"[{_BEGIN}{_END}]", " ", storable(text)) for text in texts]
    asked = {**values, "texts": clean, "options": _OPTIONS, "whole": _WHOLE}
    return [
        _parts(next((text for text in row if _BEGIN in text), row[0]))
        for row in connection.execute(sql.encode(), asked)
    ]


def _parts(marked: str) -> tuple[SnippetPart, ...]:
    pieces = re.split(f"({_BEGIN}[^{_END}]*{_END})", marked)
    return tuple(
        SnippetPart(original(piece.strip(_BEGIN + _END)), piece.startswith(_BEGIN)) for piece in pieces if piece
    )
