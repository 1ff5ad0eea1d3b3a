"""Every metric of the product, in one list. Labels have few values each; no id and no address is one.

Any thread may change a metric; nothing here blocks. docs/metrics.md lists them, and tests compare that list with this file and check that
the code uses each of them. The boards and the alerts in dashboards/ may use these metrics only, which a test checks.
"""

from prometheus_client import Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

TURNS = Counter("chat4all_turns_total", "Committed turns.", ["stage"])
# Time from the start of a decision to the end of its commit, by stage.
TURN_SECONDS = Histogram(
    "chat4all_turn_seconds", "Seconds for the decision and the commit of a turn.", ["stage"], buckets=_SECONDS
)
RECORDS = Counter("chat4all_records_total", "Source records that committed turns took.", ["stage"])
OUTPUTS = Counter(
    "chat4all_outputs_total",
    "Records that committed turns produced, without changelog rows and dead letters.",
    ["stage"],
)
HANDED_OVER = Counter(
    "chat4all_handed_over_total",
    "Outputs that the next stage of the same worker took within the turn (chaining).",
    ["topic"],
)
# Outputs that chaining could have handed over but that went through Kafka, by topic: the next stage was full or had lag.
THROUGH_KAFKA = Counter(
    "chat4all_through_kafka_total", "Outputs for a stage of the same worker that went through Kafka instead.", ["topic"]
)
DEAD_LETTERS = Counter("chat4all_dead_letters_total", "Records that became dead letters.", ["stage", "cause"])
# What happened in a stage, by the name of the event: duplicate, accepted, delivered and so on (docs/metrics.md).
EVENTS = Counter("chat4all_events_total", "Events in a stage, such as duplicate or accepted.", ["stage", "event"])
LOST = Counter(
    "chat4all_lost_records_total",
    "Records that Kafka deleted before the stage read them; above 0 is data loss.",
    ["stage", "topic"],
)
# Rows of one write to a database, by stage. The count is the number of PostgreSQL transactions, or of ClickHouse inserts.
SINK_ROWS = Histogram(
    "chat4all_sink_rows",
    "Rows in one PostgreSQL transaction or ClickHouse insert.",
    ["stage"],
    buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000),
)
SINK_SECONDS = Histogram(
    "chat4all_sink_seconds",
    "Seconds for one PostgreSQL transaction or ClickHouse insert, failed ones included.",
    ["stage"],
    buckets=_SECONDS,
)
PARTITIONS = Gauge("chat4all_partitions", "Partitions that this worker owns.", ["stage"])
TABLE_ROWS = Gauge("chat4all_table_rows", "Rows of a table on this worker.", ["stage", "table"])
TABLE_OLDEST_SECONDS = Gauge(
    "chat4all_table_oldest_seconds",
    "Age of the oldest row of a table whose rows expire, in seconds; 0 for an empty table.",
    ["stage", "table"],
)
LAG = Gauge(
    "chat4all_lag_records",
    "Lag: source records that this worker's partitions have not committed yet.",
    ["stage", "topic"],
)
RESTORE_SECONDS = Histogram(
    "chat4all_restore_seconds",
    "Seconds to fence and restore the partitions that the worker takes over.",
    ["stage"],
    buckets=_SECONDS,
)
RESTORED_ROWS = Counter("chat4all_restored_rows_total", "Changelog rows that restores read.", ["stage"])
# Free bytes of the disk of CHAT4ALL_DATA_DIR, for a process that is not root; read when the metrics are asked for. It has a label so that a
# gateway, which has no such folder, does not show 0.
DATA_FREE = Gauge("chat4all_data_free_bytes", "Free bytes of the disk that holds CHAT4ALL_DATA_DIR.", ["stage"])
WEBHOOKS = Counter("chat4all_webhooks_total", "Webhook requests, by HTTP status of our answer.", ["channel", "status"])
WEBHOOK_SECONDS = Histogram(
    "chat4all_webhook_seconds", "Seconds until our answer to a webhook request.", ["channel"], buckets=_SECONDS
)
# Items of webhook requests, by channel and kind: receipt; told_by_tracker, a receipt that went to status-updates
# directly; tracker_not_believed, a receipt whose tracker was not valid; implausible_time, one of the direct ones whose time
# was replaced by that of its arrival; inbound; preference; report, how far a client has read; notice; unrecognised; refused, an item that
# became a dead letter.
WEBHOOK_ITEMS = Counter(
    "chat4all_webhook_items_total",
    "Items of webhook requests: receipts, inbound messages and others.",
    ["channel", "kind"],
)
# Requests for new updates, where the gateway asks a provider instead of receiving webhooks. Outcome: updates, none, or why there was no
# answer (webhook_set, other_poller, refused, throttled, unavailable, unreadable); not_stored when Kafka did not take them.
POLLS = Counter("chat4all_polls_total", "Requests of the gateway for new updates, by outcome.", ["channel", "outcome"])
# Requests and connections that the gateway refused, by HTTP status. Its log gives the reasons, one line for each in ten seconds.
GATEWAY_REFUSED = Counter(
    "chat4all_gateway_refused_total", "Requests and connections that the gateway refused, by HTTP status.", ["status"]
)
GATEWAY_CONNECTIONS = Gauge("chat4all_gateway_connections", "Open connections of the gateway.")
# Bytes of webhook bodies that count against CHAT4ALL_GATEWAY_BODIES_BYTES; at that limit the oldest request is refused.
GATEWAY_BODY_BYTES = Gauge(
    "chat4all_gateway_body_bytes", "Bytes of webhook bodies that count against CHAT4ALL_GATEWAY_BODIES_BYTES."
)
CALL_SECONDS = Histogram(
    "chat4all_call_seconds", "Seconds for one call to a provider, by outcome.", ["channel", "outcome"], buckets=_SECONDS
)
# Calls in flight or about to start in this worker, by stage. At CHAT4ALL_SEND_CONCURRENCY, deliveries wait.
CALLS = Gauge("chat4all_calls_in_flight", "Calls in flight or about to start in this worker.", ["stage"])
# Errors of providers that our error tables do not list, by channel. The HTTP status decides then; the exchange log has the errors.
UNKNOWN_ERRORS = Counter(
    "chat4all_unknown_errors_total", "Errors of a provider that our error tables do not list.", ["channel"]
)


def exposition() -> bytes:
    """Every metric of this process in Prometheus' text format, as UTF-8. Does not block; any thread may call it."""
    return generate_latest()
