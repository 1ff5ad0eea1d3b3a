"""The board Stores: how PostgreSQL and ClickHouse are written, how far behind they are, what they hold. Out: the board. No I/O."""

from grafana_foundation_sdk.builders import dashboard

from tools.board_parts import (
    ACCOUNT,
    CHANNEL,
    FILTERS,
    TENANT,
    Panel,
    SqlTarget,
    above,
    board,
    chart,
    choice,
    figure,
    listing,
    report,
    row,
    series,
)

RATE = "[$__rate_interval]"


def stores() -> dashboard.Dashboard:
    return board(
        "stores",
        "Stores",
        "The sinks: rows, seconds, how far behind; bytes an event; dead letters; the audit balance.",
        [row("Writing"), *_writing(), row("What ClickHouse holds"), *_held(), row("Correctness"), *_correct()],
        [choice(TENANT), choice(CHANNEL), choice(ACCOUNT)],
    )


def _writing() -> list[Panel]:
    return [
        chart(
            "Rows written",
            "Rows a second, by stage: archive writes to PostgreSQL, analyse to ClickHouse.",
            "rowsps",
            series(f"sum by (stage) (rate(chat4all_sink_rows_sum{RATE}))", "{{stage}}"),
        ),
        chart(
            "Rows of one write",
            "Mean number of rows in one PostgreSQL transaction or ClickHouse insert. Small writes are normal while little happens.",
            "short",
            series(
                f"sum by (stage) (rate(chat4all_sink_rows_sum{RATE})) / sum by (stage) (rate(chat4all_sink_rows_count{RATE}))",
                "{{stage}}",
            ),
        ),
        chart(
            "Time of one write, p95",
            "95 % of the transactions and inserts took at most this, failed ones included.",
            "s",
            series(
                f"histogram_quantile(0.95, sum by (stage, le) (rate(chat4all_sink_seconds_bucket{RATE})))", "{{stage}}"
            ),
            steps=above(1, 10),
        ),
        chart(
            "Behind",
            "Seconds that a sink would need for its lag, at the speed of the last 5 minutes. No figure: it has no lag.",
            "s",
            series("chat4all:sink_behind:seconds", "{{stage}}"),
            steps=above(60, 300),
        ),
        chart(
            "Lag of the sinks",
            "Records that are not in the store yet.",
            "short",
            series('chat4all:lag:records{stage!="core"}', "{{stage}} {{topic}}"),
            steps=above(10_000, 100_000),
        ),
        chart(
            "From a transition to ClickHouse, p95",
            "95 % of the transitions were in ClickHouse within this, by the minute of the insert.",
            "ms",
            SqlTarget(
                f"""select toStartOfMinute(toDateTime(inserted_at)) as time,
                    quantileTDigest(0.95)(greatest(0, dateDiff('millisecond', observed_at, inserted_at))) as p95
                    from delivery_events where $__timeFilter(inserted_at) and accepted_at >= $__fromTime - interval 7 day and {FILTERS}
                    group by time order by time"""
            ),
            steps=above(60_000, 300_000),
        ),
    ]


PARTS = "from system.parts where active and database = currentDatabase()"


def _held() -> list[Panel]:
    return [
        figure(
            "Bytes an event",
            "Bytes on ClickHouse's disk for one row of delivery_events, with its indexes.",
            "bytes",
            SqlTarget(
                f"select sum(bytes_on_disk) / nullIf(sum(rows), 0) as bytes {PARTS} and table = 'delivery_events'",
                "table",
            ),
            above(200, 400),
            span=6,
        ),
        figure(
            "Bytes of all relations",
            "Bytes of all our relations on ClickHouse's disk.",
            "bytes",
            SqlTarget(f"select sum(bytes_on_disk) as bytes {PARTS}", "table"),
            span=6,
        ),
        figure(
            "Parts of the fullest partition",
            "Active parts in the partition that has most of them. ClickHouse refuses inserts at 3,000.",
            "short",
            SqlTarget(f"select max(n) as parts from (select count() as n {PARTS} group by table, partition)", "table"),
            above(100, 1000),
            span=6,
        ),
        figure(
            "Newest transition",
            "When the newest transition was inserted.",
            "dateTimeAsIso",
            SqlTarget(
                """select toUnixTimestamp64Milli(maxOrNull(inserted_at)) as newest from delivery_events
                    where accepted_at >= now() - interval 7 day""",
                "table",
            ),
            span=6,
        ),
        listing(
            "Relations",
            "Rows, bytes and bytes a row of each relation in ClickHouse.",
            "short",
            SqlTarget(
                f"""select table as relation, sum(rows) as n_rows, sum(bytes_on_disk) as bytes,
                    round(bytes / nullIf(n_rows, 0), 1) as bytes_a_row,
                    count() as parts, uniqExact(partition) as partitions {PARTS} group by relation order by bytes desc limit 100""",
                "table",
            ),
        ),
    ]


def _correct() -> list[Panel]:
    return [
        chart(
            "Audit balance",
            "Deliveries that route accepted minus deliveries that track introduced, over the last hour. 0, but for what is under way.",
            "short",
            series("chat4all:audit_difference:increase1h", "difference"),
            steps=above(10, 100),
        ),
        chart(
            "Conflicts in the history",
            "Events of stage archive in the last hour: conflict and message_id_reused (docs/history.md).",
            "short",
            series('sum by (event) (increase(chat4all_events_total{stage="archive"}[1h]))', "{{event}}"),
            steps=above(1, 10),
        ),
        listing(
            "Audit balance by tenant and channel",
            "Accepted = ended + in flight, for each tenant and channel (report audit). A difference that stays is an error.",
            "short",
            SqlTarget(report("audit"), "table"),
        ),
        listing(
            "Dead letters",
            "Records that were refused in the range, by stage and cause (report dead_letters)."
            " The records are in PostgreSQL and in the topic dead-letters.",
            "short",
            SqlTarget(report("dead_letters"), "table"),
        ),
    ]
