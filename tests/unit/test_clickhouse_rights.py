"""A part that reaches outside is found in a statement that the engine has printed; nothing else is."""

import pytest

from stack.clickhouse_rights import reaches


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SELECT file('/etc/passwd')", "file()"),
        ("SELECT `file`('/etc/passwd')", "file()"),
        ("WITH a AS (SELECT * FROM (SELECT length(file('x')) AS n)) SELECT n FROM a", "file()"),
        ("CREATE VIEW v AS SELECT file('x')", "file()"),
        ("SELECT *\nFROM eval('SELECT 1')", "eval()"),
        ("CREATE TABLE t (`a` String) ENGINE = MergeTree SETTINGS disk = disk(type = local, path = '/')", "disk()"),
        ("SELECT 1\nINTO OUTFILE '/tmp/x'\nFORMAT CSV", "INTO OUTFILE"),
        ("EXPLAIN SELECT 1 INTO OUTFILE '/tmp/x'", "INTO OUTFILE"),
        ("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", "FROM INFILE"),
        ("SELECT 'file(', 'INTO OUTFILE \\'x\\'', `into outfile`", ""),
        ("SELECT file, disk FROM eval WHERE python = 'a'", ""),
        ("INSERT INTO outfile FORMAT Values", ""),
        ("SELECT filesystemAvailable()", ""),
        ("SELECT 'it\\\\', file('x')", "file()"),
        ("SELECT *\nFROM values('a String DEFAULT file(\\'x\\')', 'y')", "values()"),
        ("SELECT * FROM numbers(1) AS n, values(concat('a', ' String'), 'y')", "values()"),
        ("INSERT INTO t (a) SELECT * FROM format(JSONEachRow, 'a String', '')", "format()"),
        ("INSERT INTO t SELECT * FROM input('a String') FORMAT CSV", "input()"),
        ("INSERT INTO t VALUES ('a'), ('b')", ""),
        ("INSERT INTO t (`a`) VALUES ('a')", ""),
        ("SELECT format('{}-{}', a, b) FROM t", ""),
        ("SELECT arrayMap(file, ['x'])", "file as an argument"),
        ("SELECT arrayMap((`file`), ['x'])", "`file` as an argument"),
        ("SELECT [arrayMap(file AS f, ['x'])]", "file as an argument"),
        ("SELECT arrayFilter(x -> 1, arrayMap(\n    file,\n    ['x']\n))", "file as an argument"),
        ("SELECT * APPLY file\nFROM t", "APPLY file"),
        ("SELECT * APPLY(`file`)\nFROM t", "`file` as an argument"),
        ("SELECT count(t.file), lower(file.t), concat('file', disk2) FROM t WHERE a IN (file, disk)", ""),
        ("INSERT INTO t (file, disk) SELECT 1", ""),
        ("CREATE TABLE t (file String, `disk` String) ENGINE = Log", ""),
        ("CREATE TABLE t (k String) ENGINE = EmbeddedRocksDB(0, '/x') PRIMARY KEY k", "ENGINE = EmbeddedRocksDB"),
        ("CREATE MATERIALIZED VIEW v (a String)\nENGINE = SummingMergeTree\nORDER BY a AS SELECT 1", ""),
        ("SELECT engine FROM system.tables WHERE engine = 'EmbeddedRocksDB'", ""),
        ("SELECT {f:Identifier}", ""),
    ],
)
def test_reaches(statement: str, found: str) -> None:
    assert reaches(statement) == found


def test_a_parameter_that_names_a_function_is_seen_where_it_is_a_name() -> None:
    assert reaches("SELECT arrayMap({f:Identifier}, ['x'])", ["file"]) == "the name in a parameter"
    assert reaches("SELECT arrayMap({f:Identifier}, ['x'])", ["upper"]) == ""
    assert reaches("SELECT {f:String}", ["file"]) == ""
