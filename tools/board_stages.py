"""The board Stages: turns, transactions, lag, restores and resources of every worker. Out: the board. No I/O."""

from grafana_foundation_sdk.builders import dashboard

from tools.board_parts import Panel, above, below, board, chart, row, series

RATE = "[$__rate_interval]"
GIB = 2**30


def stages() -> dashboard.Dashboard:
    return board(
        "stages",
        "Stages",
        "The workers: turns, transactions, lag, restores, tables, memory, disk. All tenants together.",
        [row("Turns"), *_turns(), row("Lag and takeover"), *_lag(), row("Tables and resources"), *_resources()],
    )


def _turns() -> list[Panel]:
    return [
        chart(
            "Turns and transactions",
            "Turns that were committed, a second. Each is one Kafka transaction, or a part of one with other turns.",
            "cps",
            series(f"sum by (stage) (rate(chat4all_turns_total{RATE}))", "{{stage}}"),
        ),
        chart(
            "Time of a turn",
            "Decision and commit: half (p50) and 99 % (p99) of the turns took at most this. The objective is 0.1 s.",
            "s",
            series(
                f"histogram_quantile(0.5, sum by (stage, le) (rate(chat4all_turn_seconds_bucket{RATE})))",
                "{{stage}} p50",
            ),
            series(
                f"histogram_quantile(0.99, sum by (stage, le) (rate(chat4all_turn_seconds_bucket{RATE})))",
                "{{stage}} p99",
            ),
            steps=above(0.1, 1),
        ),
        chart(
            "Records in and out",
            "Records that turns took and produced, a second, by stage.",
            "cps",
            series(f"sum by (stage) (rate(chat4all_records_total{RATE}))", "{{stage}} in"),
            series(f"sum by (stage) (rate(chat4all_outputs_total{RATE}))", "{{stage}} out"),
        ),
        chart(
            "Handed over, or through Kafka",
            "Outputs that the next stage of the same worker took within the turn, and those that went through Kafka because it was full.",
            "cps",
            series(f"sum by (topic) (rate(chat4all_handed_over_total{RATE}))", "{{topic}} handed over"),
            series(f"sum by (topic) (rate(chat4all_through_kafka_total{RATE}))", "{{topic}} through Kafka"),
        ),
    ]


def _lag() -> list[Panel]:
    return [
        chart(
            "Lag",
            "Records that are not committed yet, by stage and topic.",
            "short",
            series("chat4all:lag:records", "{{stage}} {{topic}}"),
            steps=above(1_000, 10_000),
        ),
        chart(
            "Partitions of a worker",
            "How the partitions are shared out. The sum of a stage must be the number of partitions of the topics.",
            "short",
            series("sum by (service, stage) (chat4all_partitions)", "{{service}} {{stage}}"),
        ),
        chart(
            "Takeover, p95",
            "Seconds to fence and restore the partitions that a worker takes over. The objective is 10 s.",
            "s",
            series(
                f"histogram_quantile(0.95, sum by (stage, le) (rate(chat4all_restore_seconds_bucket{RATE})))",
                "{{stage}}",
            ),
            steps=above(5, 10),
        ),
        chart(
            "Restored rows",
            "Changelog rows that restores read, a second.",
            "rowsps",
            series(f"sum by (stage) (rate(chat4all_restored_rows_total{RATE}))", "{{stage}}"),
        ),
        chart(
            "Starts of programs",
            "How often each program started again in the last hour. More than two are an alert.",
            "short",
            series('sum by (service) (changes(process_start_time_seconds{job="chat4all"}[1h]))', "{{service}}"),
            steps=above(1, 3),
        ),
        chart(
            "Lost records",
            "Records that Kafka deleted before a stage read them, in the last hour. Above 0 is data loss.",
            "short",
            series("sum by (stage, topic) (increase(chat4all_lost_records_total[1h]))", "{{stage}} {{topic}}"),
            steps=above(1, 1),
        ),
    ]


def _resources() -> list[Panel]:
    return [
        chart(
            "Rows of tables",
            "Rows that the workers keep, by table.",
            "short",
            series("sum by (stage, table) (chat4all_table_rows)", "{{stage}} {{table}}"),
        ),
        chart(
            "Oldest row of tables",
            "Age of the oldest row, where rows expire. It should not pass the table's time (docs/settings.md).",
            "s",
            series("max by (stage, table) (chat4all_table_oldest_seconds)", "{{stage}} {{table}}"),
        ),
        chart(
            "Memory",
            "Memory of each program (resident set).",
            "bytes",
            series('process_resident_memory_bytes{job="chat4all"}', "{{service}}"),
            steps=above(GIB, 2 * GIB),
        ),
        chart(
            "CPU",
            "Cores that each program uses. 1 is one core: a worker's decisions cannot use more.",
            "none",
            series('rate(process_cpu_seconds_total{job="chat4all"}[$__rate_interval])', "{{service}}"),
            steps=above(0.8, 0.95),
        ),
        chart(
            "Free bytes of the data folder",
            "Free bytes on the disk of CHAT4ALL_DATA_DIR. Disks of Kafka and of the databases are not in it.",
            "bytes",
            series("min by (service) (chat4all_data_free_bytes)", "{{service}}"),
            steps=below(5 * GIB, 20 * GIB),
        ),
        chart(
            "Connections of the gateway",
            "Open connections, and the bytes of webhook bodies that count against CHAT4ALL_GATEWAY_BODIES_BYTES.",
            "short",
            series('sum by (service) (chat4all_gateway_connections{program="gateway"})', "{{service}} connections"),
            series('sum by (service) (chat4all_gateway_body_bytes{program="gateway"})', "{{service}} bytes"),
        ),
    ]
