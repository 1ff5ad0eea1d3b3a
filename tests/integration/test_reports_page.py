"""docs/history.md and docs/reports.md: every SQL statement of the pages runs on a migrated database."""

import re
from pathlib import Path

import psycopg
import pytest

from sinks.clickhouse import connect
from tests.support.sink_databases import clickhouse_database, postgres_database

PAGES = [
    (Path(__file__).parents[2] / "docs" / name).read_text(encoding="utf-8") for name in ("history.md", "reports.md")
]
PAGE = "\n".join(PAGES)
STATEMENTS: list[tuple[str, str]] = re.findall(r"^```sql (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def of(database: str) -> list[str]:
    return [sql for name, sql in STATEMENTS if name == database]


def test_the_pages_name_a_database_for_every_statement() -> None:
    assert PAGE.count("```sql") == len(of("postgres")) + len(of("clickhouse"))
    assert of("postgres")
    assert of("clickhouse")


def test_postgresql_s_statements_run(postgres_url: str) -> None:
    with postgres_database(postgres_url) as url, psycopg.connect(url) as connection:
        for sql in of("postgres"):
            assert connection.execute(sql.encode()).fetchall() == []


def test_clickhouse_s_statements_run(clickhouse_url: str) -> None:
    with clickhouse_database(clickhouse_url) as url:
        client = connect(url)
        for sql in of("clickhouse"):
            assert client.query(sql).result_rows == []
        client.close()


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("select * from deliveries where tenant_id = 't' and message_id = 'm'", "message_id"),
        ("select * from messages where tenant_id = 't' and conversation_id = 'c' order by seq", "conversation_id_seq"),
        ("select * from messages where tenant_id = 't' and message_id = 'm'", "tenant_id_message_id"),
        (next(sql for sql in of("postgres") if "where status in ('PENDING', 'SENT')" in sql), "accepted_at"),
    ],
)
def test_the_questions_of_operations_have_an_index(postgres_url: str, sql: str, index: str) -> None:
    with postgres_database(postgres_url) as url, psycopg.connect(url) as connection:
        # The planner prefers both for an empty relation.
        connection.execute("set enable_seqscan = off; set enable_bitmapscan = off")
        plan = "\n".join(row[0] for row in connection.execute(f"explain {sql}".encode()).fetchall())
        scans = re.findall(r"Scan using (\w+)", plan)
        assert len(scans) >= 4  # each month, and what is in none
        assert all(index in name for name in scans)
        assert "Seq Scan" not in plan
        assert not re.search(r"\bSort  \(", plan)
