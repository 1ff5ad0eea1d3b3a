"""Full-text search in a real PostgreSQL: Portuguese, English and plain words, phrases, exclusions, snippets, bounds."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from sinks.history_pages import Page, TooSlow, WrongQuestion
from sinks.history_search import LONGEST, WORDS, search
from tests.support.sink_databases import postgres_database

Connection = psycopg.Connection[Any]
NOW = datetime.now(UTC)
TEXTS = {
    "consulta": "Olá João, sua consulta é amanhã às 9h no Hospital São José",
    "consultas": "As consultas de hoje foram canceladas",
    "running": "We were running late for the boxes",
    "dia": "bom dia",
    "acao": "acao sem acento: joao e maria",
    "html": '<b onclick="x()">consulta</b> & <img src=x onerror=y>',
    "control": "wire \x1b[31mred\x1b[0m \x01marked\x02 wire",
    "nul": "a NUL \x00 inside \u2400 word",
    "emoji": "parabéns 🎉🎉 aniversário",
    "product": "código ABC-123 pronto",
    "the": "the a de o",
}


@pytest.fixture(scope="module")
def texts(postgres_url: str) -> Iterator[Connection]:
    with postgres_database(postgres_url) as url, psycopg.connect(url, autocommit=True) as connection:
        for n in range(5):
            connection.execute(
                "select create_month((date_trunc('month', %s at time zone 'UTC') - %s * interval '1 month')::date)",
                (NOW, n),
            )
        for n, (name, text) in enumerate(TEXTS.items()):
            add(connection, name, text, NOW - timedelta(hours=n))
        add(connection, "old", "consulta antiga", NOW - timedelta(days=100))
        add(connection, "theirs", "consulta de outro", NOW, tenant="other")
        for n in range(40):
            add(connection, f"serie-{n:02}", f"serie numero {n}", NOW - timedelta(days=2 * n), conversation="serie")
        yield connection


def add(
    connection: Connection, name: str, text: str, at: datetime, *, tenant: str = "acme", conversation: str = "c1"
) -> None:
    connection.execute(
        "insert into messages (tenant_id, message_id, conversation_id, home_partition, seq, direction, sender, kind, text, metadata,"
        " requested_at, accepted_at) values (%s, %s, %s, 0, 1, 'OUTBOUND', 'app', 'text', %s, '{}', %s, %s)",
        (tenant, name, conversation, text.replace("\u2400", "\u2400\u2400").replace("\x00", "\u24000"), at, at),
    )


def names(found: Page[Any]) -> set[str]:
    return {message.message_id for message in found.items}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("consulta", {"consulta", "consultas", "html"}),  # one stem in Portuguese
        ("CONSULTAS", {"consulta", "consultas", "html"}),
        ("joao", {"consulta", "acao"}),
        ("João", {"consulta", "acao"}),
        ("JOÃO josé", {"consulta"}),
        ("amanha", {"consulta"}),
        ("ação", {"acao"}),
        ("run", {"running"}),  # one stem in English
        ("box", {"running"}),
        ("running consulta", set()),
        ("running or amanhã", {"running", "consulta"}),
        ('"bom dia"', {"dia"}),
        ('"dia bom"', set()),  # the word lists of the languages follow each other; a phrase stays within one
        ('"sua consulta"', {"consulta"}),
        ('"consulta sua"', set()),
        ("consulta -amanhã", {"consultas", "html"}),
        ('"consultas"', {"consultas"}),
        ('"consult"', set()),
        ("consult", {"consulta", "consultas", "html"}),
        ("consulta -consultas", set()),  # excluded in the language in which it matches
        ('consulta -"sua consulta"', {"consultas", "html"}),
        ('consulta -"consulta sua"', {"consulta", "consultas", "html"}),
        ("ABC-123", {"product"}),
        ("abc", {"product"}),
        ("the", {"the", "running"}),  # a word without meaning is found as it stands
        ("parabens 🎉", {"emoji"}),
        ("inside", {"nul"}),
        ("nothinglikethis", set()),
        ("'; drop table messages; --", set()),
        ("a:* & !b | (c", set()),
    ],
)
def test_words_are_found_as_in_a_web_search(texts: Connection, question: str, expected: set[str]) -> None:
    assert names(search(texts, "acme", question)) == expected


def test_a_search_is_of_one_tenant_one_conversation_and_one_time(texts: Connection) -> None:
    assert names(search(texts, "other", "consulta")) == {"theirs"}
    assert names(search(texts, "acme", "consulta", conversation_id="serie")) == set()
    assert names(search(texts, "acme", "serie", conversation_id="serie", limit=500)) == {
        f"serie-{n:02}" for n in range(40)
    }
    everything = names(search(texts, "acme", "consulta", since=0))
    assert everything == {"consulta", "consultas", "html", "old"}
    until = int((NOW - timedelta(minutes=30)).timestamp() * 1000)
    assert names(search(texts, "acme", "consulta", until=until)) == {"consultas", "html"}
    assert names(search(texts, "acme", "antiga", since=until, until=until - 1)) == set()


def test_pages_go_over_the_months_newest_first_and_back(texts: Connection) -> None:
    pages = [search(texts, "acme", "serie", limit=7)]
    while (after := pages[-1].after) is not None:
        pages.append(search(texts, "acme", "serie", limit=7, cursor=after))
    assert [m.message_id for page in pages for m in page.items] == [f"serie-{n:02}" for n in range(40)]
    assert search(texts, "acme", "serie", limit=7, cursor=pages[3].before).items == pages[2].items
    with pytest.raises(WrongQuestion, match="not of this list"):
        search(texts, "acme", "numero", limit=7, cursor=pages[0].after)


@pytest.mark.parametrize(
    ("question", "message_id", "matches"),
    [
        ("joao consultas", "consulta", ["João", "consulta"]),
        ("boxes", "running", ["boxes"]),
        ("consulta", "html", ["consulta"]),
        ("marked", "control", ["marked"]),
        ("inside", "nul", ["inside"]),
    ],
)
def test_a_snippet_is_in_parts_and_holds_no_markup_of_ours(
    texts: Connection, question: str, message_id: str, matches: list[str]
) -> None:
    [snippet] = [m.snippet for m in search(texts, "acme", question).items if m.message_id == message_id]
    assert [part.text for part in snippet if part.match] == matches
    assert not any("\x01" in part.text or "\x02" in part.text for part in snippet)
    words = "".join(part.text for part in snippet).split()
    assert set(words) <= {*TEXTS[message_id].replace("\x01", " ").replace("\x02", " ").split(), "...", "consulta"}


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("", "write at least one word"),
        ("-consulta", "write at least one word"),
        ("consulta or -dia", "write at least one word"),
        ("🎉 !!!", "write at least one word"),
        ("x" * (LONGEST + 1), f"at most {LONGEST} characters, not {LONGEST + 1}"),
        ("a " * (WORDS + 1), f"at most {WORDS} words"),
    ],
)
def test_a_search_without_a_word_or_with_too_many_is_refused(texts: Connection, question: str, sentence: str) -> None:
    with pytest.raises(WrongQuestion, match=sentence):
        search(texts, "acme", question)


def test_a_search_that_takes_too_long_says_how_to_ask_for_less(texts: Connection) -> None:
    with texts.transaction(force_rollback=True):
        texts.execute("lock table messages in access exclusive mode")
        with (
            psycopg.connect(texts.info.dsn, password=texts.info.password, autocommit=True) as other,
            pytest.raises(
                TooSlow, match=r"longer than 0\.2 s: name a conversation, a shorter time range or less frequent words$"
            ),
        ):
            search(other, "acme", "consulta", seconds=0.2)
