"""Every metric of the product, one typed list; dashboards may use only these (tested). Labels are few and bounded."""

from prometheus_client import Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Counter: turns that committed, by stage.
TURNS = Counter("chat4all_turns_total", "Turns that committed.", ["stage"])
# Time: from the start of a decision to its commit, by stage.
TURN_SECONDS = Histogram("chat4all_turn_seconds", "Decision and commit of a turn.", ["stage"], buckets=_SECONDS)
# Counter: source records taken, by stage.
RECORDS = Counter("chat4all_records_total", "Source records taken by committed turns.", ["stage"])
# Counter: records produced, by stage, without changelogs and dead letters.
OUTPUTS = Counter("chat4all_outputs_total", "Records produced by committed turns.", ["stage"])
# Counter: outputs that the next stage of the same worker took within the turn, by topic.
HANDED_OVER = Counter("chat4all_handed_over_total", "Outputs handed over within a turn.", ["topic"])
# Counter: outputs that could have been handed over and took the way through Kafka, by topic: the next stage was full, or behind.
THROUGH_KAFKA = Counter(
    "chat4all_through_kafka_total", "Outputs for a stage of the same worker that went through Kafka.", ["topic"]
)
# Counter: refused records, by stage and cause (schemas/causes.py).
DEAD_LETTERS = Counter("chat4all_dead_letters_total", "Records sent to dead-letters.", ["stage", "cause"])
# Counter: what happened inside a stage, by its name: duplicates, rerouted, accepted, delivered and so on.
EVENTS = Counter("chat4all_events_total", "What happened inside a stage.", ["stage", "event"])
# Counter: offsets of a source topic that Kafka deleted before they were read, by stage and topic; anything above 0 is loss.
LOST = Counter("chat4all_lost_records_total", "Records deleted by Kafka before they were read.", ["stage", "topic"])
# Size: rows of one write to a database, by stage; its count is the number of PostgreSQL transactions, or of ClickHouse inserts.
SINK_ROWS = Histogram(
    "chat4all_sink_rows",
    "Rows of one PostgreSQL transaction or ClickHouse insert.",
    ["stage"],
    buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000),
)
# Time: one write to a database, also one that failed, by stage.
SINK_SECONDS = Histogram(
    "chat4all_sink_seconds", "One PostgreSQL transaction or ClickHouse insert.", ["stage"], buckets=_SECONDS
)
# Gauge: partitions this worker owns, by stage.
PARTITIONS = Gauge("chat4all_partitions", "Partitions this worker owns.", ["stage"])
# Gauge: rows a table holds on this worker, by stage and table.
TABLE_ROWS = Gauge("chat4all_table_rows", "Rows a table holds on this worker.", ["stage", "table"])
# Gauge: age of the oldest row of a table that expires, in seconds, by stage and table.
TABLE_OLDEST_SECONDS = Gauge("chat4all_table_oldest_seconds", "Age of a table's oldest row.", ["stage", "table"])
# Gauge: records of a source topic that this worker's partitions have not committed yet, by stage and topic.
LAG = Gauge("chat4all_lag_records", "Records not committed yet.", ["stage", "topic"])
# Time: one restore of tables, by stage.
RESTORE_SECONDS = Histogram(
    "chat4all_restore_seconds", "Fence and restore of the partitions taken over.", ["stage"], buckets=_SECONDS
)
# Counter: changelog rows read by restores, by stage.
RESTORED_ROWS = Counter("chat4all_restored_rows_total", "Changelog rows read by restores.", ["stage"])
# Counter: webhook requests, by channel and HTTP status of our answer.
WEBHOOKS = Counter("chat4all_webhooks_total", "Webhook requests.", ["channel", "status"])
# Time: our answer to a webhook request, by channel.
WEBHOOK_SECONDS = Histogram("chat4all_webhook_seconds", "Answer to a webhook request.", ["channel"], buckets=_SECONDS)
# Counter: items of webhook requests, by channel and kind (receipt, told_by_tracker: of these straight to
# status-updates, tracker_not_believed, inbound, notice, unrecognised, refused: a dead letter).
WEBHOOK_ITEMS = Counter("chat4all_webhook_items_total", "Items of webhook requests.", ["channel", "kind"])
# Counter: requests and connections that the gateway refused, by HTTP status; its log says what for, in one line of a kind in ten seconds.
GATEWAY_REFUSED = Counter("chat4all_gateway_refused_total", "Requests and connections refused.", ["status"])
# Gauge: connections that are open at the gateway.
GATEWAY_CONNECTIONS = Gauge("chat4all_gateway_connections", "Connections open at the gateway.")
# Gauge: bytes of webhook bodies in the room that all requests share; at its bound, bodies give way.
GATEWAY_BODY_BYTES = Gauge("chat4all_gateway_body_bytes", "Bytes of webhook bodies in the shared room.")
# Time: one call to a provider, by channel and outcome.
CALL_SECONDS = Histogram("chat4all_call_seconds", "One call to a provider.", ["channel", "outcome"], buckets=_SECONDS)
# Gauge: calls in flight or about to start in this worker, by stage; at the bound, deliveries wait for a call.
CALLS = Gauge("chat4all_calls_in_flight", "Calls in flight in this worker.", ["stage"])
# Counter: errors of providers that our tables do not know and that fell back to their HTTP status, by channel; the exchange log has them.
UNKNOWN_ERRORS = Counter("chat4all_unknown_errors_total", "Error codes of a provider that we do not know.", ["channel"])


def exposition() -> bytes:
    """Every metric of this process in Prometheus' text format."""
    return generate_latest()
