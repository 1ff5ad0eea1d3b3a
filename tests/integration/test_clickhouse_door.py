"""The ClickHouse front accepts clients with the password, and no web pages; SQL reaches nothing outside, however it is written."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(clickhouse_url: str) -> Ask:
    """One plain request with the given headers; only the right Host is added."""
    parts = urlsplit(clickhouse_url)

    def asked(headers: dict[str, str], path: str = "/", body: bytes = b"SELECT 1", host: str = "") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", parts.port or 0, timeout=10)
        connection.putrequest("GET" if path == "/ping" else "POST", path, skip_host=True)
        for name, value in {"Host": host or parts.netloc.rpartition("@")[2], **headers}.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        said = answer.status, answer.read().decode()
        connection.close()
        return said

    return asked


@pytest.fixture
def right(clickhouse_url: str) -> dict[str, str]:
    return {"X-ClickHouse-User": "default", "X-ClickHouse-Key": urlsplit(clickhouse_url).password or ""}


@pytest.fixture
def client(clickhouse_url: str) -> Client:
    return clickhouse_connect.get_client(dsn=clickhouse_url)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"X-ClickHouse-Key": ""},
        {"X-ClickHouse-Key": "wrong"},
        {"X-ClickHouse-User": "admin"},
        {"Authorization": "Basic ZGVmYXVsdDo="},  # default and no password
        {"Authorization": "Basic not base64"},
        {"Authorization": "Bearer default"},
        {"X-ClickHouse-Key": "p\xe4ss"},
    ],
)
def test_nobody_comes_in_without_the_password(ask: Ask, wrong: dict[str, str]) -> None:
    status, said = ask(wrong)
    assert (status, said[:11]) == (403, "Code: 516. ")
    assert ask(wrong, "/?query=SELECT+1&user=default&password=")[0] == 403


def test_who_knows_the_password_comes_in(ask: Ask, right: dict[str, str], clickhouse_url: str) -> None:
    assert ask(right) == (200, "1\n")
    with pytest.raises(DatabaseError, match="AUTHENTICATION_FAILED"):
        clickhouse_connect.get_client(dsn=clickhouse_url.replace(right["X-ClickHouse-Key"], "0" * 32))
    assert ask({}, "/ping")[0] == 200  # says only that the server runs


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "localhost.:{port}"]
)
def test_another_host_is_refused_also_with_the_password(
    ask: Ask, right: dict[str, str], clickhouse_url: str, host: str
) -> None:
    host = host.format(port=urlsplit(clickhouse_url).port)
    for path in ("/", "/ping"):
        status, said = ask(right, path, host=host)
        assert (status, "Host must be one of" in said) == (403, True)
    assert ask(right, host=f"LOCALHOST:{urlsplit(clickhouse_url).port}")[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1"])
def test_a_page_of_a_browser_is_refused_also_with_the_password(ask: Ask, right: dict[str, str], origin: str) -> None:
    for path in ("/", "/ping"):
        assert ask({**right, "Origin": origin}, path)[0] == 403


NESTED = [
    "SELECT * FROM {}",
    "SELECT count() FROM (SELECT * FROM (SELECT * FROM {} LIMIT 1))",
    "WITH a AS (WITH b AS (SELECT * FROM {}) SELECT * FROM b) SELECT count() FROM a",
    "SELECT 1 WHERE 1 IN (SELECT count() FROM {})",
    "SELECT * FROM numbers(1) AS n CROSS JOIN {} AS t",
    "SELECT 1 UNION ALL SELECT count() FROM {}",
    "SELECT * FROM view(SELECT * FROM {})",
    "CREATE VIEW {name} AS SELECT * FROM {}",
    "CREATE TABLE {name} ENGINE = Memory AS SELECT * FROM {}",
    "CREATE TABLE {name} AS {}",
    "DESCRIBE TABLE {}",
    "/* file */ SELECT -- x\n * FROM {}",
]
SOURCES = [
    "file('/etc/passwd', 'LineAsString')",
    "`file`('/etc/passwd', 'LineAsString')",
    "url('http://127.0.0.1:1/', 'LineAsString', 'line String')",
    "s3('http://127.0.0.1:1/bucket/key', 'LineAsString', 'line String')",
    "remote('127.0.0.1:1', 'system.one')",
    "mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "sqlite('/etc/passwd', 't')",
    "executable('id', 'TSV', 'line String')",
    "filesystem('/etc')",
    "eval('SELECT 1')",
    "python(os)",
]
REFUSED = r"ACCESS_DENIED|SYNTAX_ERROR"  # some places do not allow a table function at all


@pytest.mark.parametrize("source", SOURCES)
def test_no_source_outside_is_read_however_deep(client: Client, unique: str, source: str) -> None:
    for nested in NESTED:
        with pytest.raises(DatabaseError, match=REFUSED):
            client.command(nested.replace("{}", source).replace("{name}", unique))
    with pytest.raises(DatabaseError, match="ACCESS_DENIED"):
        client.query(NESTED[0].replace("{}", source))
    assert client.command(f"EXISTS TABLE {unique}") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT file('/etc/passwd')",
        "SELECT length(`file`('/etc/passwd'))",
        "SELECT arrayMap(file, ['/etc/passwd'])",
        "SELECT arrayMap((`file`), ['/etc/passwd'])",
        "SELECT [arrayMap(file AS f, ['/etc/passwd'])]",
        "SELECT * APPLY file FROM (SELECT '/etc/passwd')",
        "SELECT COLUMNS('.') APPLY(`file`) FROM (SELECT '/etc/passwd')",
        "SELECT 1 SETTINGS select = 'file(\\'/etc/passwd\\')'",
        "CREATE TABLE {name} (a String) ENGINE = EmbeddedRocksDB(0, '{folder}/rocks') PRIMARY KEY a",
        "CREATE TABLE {name} (a String) ENGINE = ExecutablePool('{folder}/x', 'LineAsString')",
        "CREATE VIEW {name} AS SELECT file('/etc/passwd') AS line",
        "CREATE TABLE {name} (a String DEFAULT file('/etc/passwd')) ENGINE = Memory",
        "CREATE TABLE {name} (a String) ENGINE = File(CSV, '{folder}/table.csv')",
        "CREATE TABLE {name} (a String) ENGINE = URL('http://127.0.0.1:1/', CSV)",
        "CREATE TABLE {name} (a String) ENGINE = S3('http://127.0.0.1:1/bucket/key', CSV)",
        "CREATE TABLE {name} (a String) ENGINE = MySQL('127.0.0.1:1', 'd', 't', 'u', 'p')",
        "CREATE TABLE {name} (a String) ENGINE = Executable('id', CSV)",
        "CREATE TABLE {name} (a String) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '{folder}/disk/')",
        "CREATE DATABASE {name} ENGINE = Filesystem('/etc')",
        "CREATE DATABASE {name} ENGINE = MySQL('127.0.0.1:1', 'd', 'u', 'p')",
        "CREATE DICTIONARY {name} (a String) PRIMARY KEY a SOURCE(FILE(path '/etc/passwd' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)",
        "CREATE DICTIONARY {name} (a String) PRIMARY KEY a SOURCE(EXECUTABLE(command 'id' format 'TSV')) LAYOUT(FLAT()) LIFETIME(0)",
        "CREATE FUNCTION {name} AS x -> file(x)",
        "CREATE NAMED COLLECTION {name} AS url = 'http://127.0.0.1:1/'",
        "CREATE USER {name}",
        "GRANT ALL ON *.* TO default",
        "INSERT INTO FUNCTION file('{folder}/insert.csv', 'CSV', 'a String') SELECT 'x'",
        "INSERT INTO FUNCTION file('{folder}/insert.csv', 'CSV', 'a String') FORMAT CSV\nx",
        "SELECT 1 INTO OUTFILE '{folder}/out.csv'",
        "SELECT 1 INTO/**/OUTFILE $x${folder}/out.csv$x$ FORMAT CSV",
        "EXPLAIN SELECT 1 INTO OUTFILE '{folder}/out.csv'",
        "BACKUP DATABASE default TO File('{folder}/backup')",
        "ATTACH TABLE {name} FROM '{folder}' (a String) ENGINE = MergeTree ORDER BY a",
        "SELECT * FROM `/etc/passwd`",
        "SELECT * FROM files.`/etc/passwd`",
        "SELECT 1 SETTINGS dialect = 'kusto'",
        "SELECT 1 SETTINGS additional_result_filter = 'file(\\'/etc/passwd\\') != \\'\\''",
        "SELECT 1 FORMAT Template SETTINGS format_template_row = '/etc/passwd'",
        "SELECT * FROM format(JSONEachRow, 'a String, b String DEFAULT file(\\'/etc/passwd\\')', '{\"a\": \"x\"}')",
        "SELECT * FROM format(JSONEachRow, concat('a String, b String DEFAULT fi', 'le(\\'/etc/passwd\\')'), '{\"a\": \"x\"}')",
        "SELECT * FROM values('a String DEFAULT file(\\'/etc/passwd\\')', ('x'))",
        "SELECT 1; SELECT 2",
        "SET dialect = 'kusto'; FILE",
    ],
)
def test_no_statement_reaches_outside(
    ask: Ask, right: dict[str, str], unique: str, tmp_path: Path, statement: str
) -> None:
    tmp_path.chmod(0o777)
    sql = statement.replace("{name}", unique).replace("{folder}", str(tmp_path))
    status, said = ask(right, body=sql.encode())
    assert status in {400, 403, 404, 500}
    assert "root:" not in said
    assert [name for name in ("ACCESS", "SYNTAX", "CONSTRAINT", "UNKNOWN_", "DENIED") if name in said], said
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_read_into_a_table(client: Client, unique: str) -> None:
    client.command(f"CREATE TABLE {unique} (line String) ENGINE = Memory")
    for value in ("file('/etc/passwd')", "(SELECT file('/etc/passwd'))", "concat(file/**/('/etc/passwd'), 'x')"):
        with pytest.raises(DatabaseError):
            client.command(f"INSERT INTO {unique} VALUES ({value})")
    for attempt in (
        "FROM INFILE '/etc/passwd' FORMAT LineAsString",
        "FROM/**/INFILE '/etc/passwd' COMPRESSION 'none' FORMAT CSV",
    ):
        with pytest.raises(DatabaseError, match="ACCESS_DENIED"):
            client.command(f"INSERT INTO {unique} {attempt}")
    assert client.command(f"SELECT count() FROM {unique}") == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dialect", "prql"),
        ("additional_result_filter", "1"),
        ("format_schema", "/etc/passwd:x"),
        ("select", "file('/etc/passwd')"),
        ("filter", "file('/etc/passwd') = ''"),
        ("order", "file('/etc/passwd')"),
    ],
)
def test_settings_of_a_request_hide_no_way_out(ask: Ask, right: dict[str, str], name: str, value: str) -> None:
    status, said = ask(right, f"/?{name}={quote(value)}")
    assert (status, "SETTING_CONSTRAINT_VIOLATION" in said) == (400, True)


def test_a_parameter_names_no_function_that_reaches_outside(ask: Ask, right: dict[str, str]) -> None:
    query = quote("SELECT arrayMap({f:Identifier}, ['/etc/passwd'])")
    status, said = ask(right, f"/?param_f=file&query={query}", body=b"")
    assert (status, "ACCESS_DENIED" in said) == (403, True)
    assert ask(right, f"/?param_f=upper&query={query}", body=b"") == (200, "['/ETC/PASSWD']\n")
    query = quote("SELECT {f:String}")
    assert ask(right, f"/?param_f=file&query={query}", body=b"") == (200, "file\n")


def test_words_that_look_like_it_are_nobodys_business(client: Client, unique: str) -> None:
    client.command(
        f"CREATE TABLE {unique} (file String, disk UInt8, `into outfile` String) ENGINE = MergeTree ORDER BY file"
    )
    client.command(f"INSERT INTO {unique} VALUES ('file(1)', 1, 'INTO OUTFILE ''x'''), ('; SELECT 1', 2, '')")
    client.insert(unique, [["url('x')", 3, "FROM INFILE 'x'"]], column_names=["file", "disk", "into outfile"])
    asked = (
        f"SELECT file, disk, `into outfile` FROM {unique} WHERE file != 'file(''x'') INTO OUTFILE ''y''' ORDER BY disk"
    )
    assert [row[1] for row in client.query(asked).result_rows] == [1, 2, 3]
    assert json.loads(str(client.raw_query(f"SELECT count() AS n FROM {unique} FORMAT JSONEachRow").decode())) == {
        "n": 3
    }
