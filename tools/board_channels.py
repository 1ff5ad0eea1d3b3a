"""The board Channels: the providers, what they answer and how fast, and the webhooks they call. Out: the board. No I/O."""

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
    listing,
    report,
    row,
    series,
)

RATE = "[$__rate_interval]"


def channels() -> dashboard.Dashboard:
    return board(
        "channels",
        "Channels",
        "The providers: calls, answers, times, refusals, receipts.",
        [
            row("Calls to providers (all tenants)"),
            *_calls(),
            row("Webhooks and polling (all tenants)"),
            *_webhooks(),
            row("Deliveries (of the chosen tenant, channel and account)"),
            *_deliveries(),
        ],
        [choice(TENANT), choice(CHANNEL), choice(ACCOUNT)],
    )


def _calls() -> list[Panel]:
    return [
        chart(
            "Calls",
            "Calls a second by channel and outcome. RetryLater: try again; Rejected: refused for good; Unknown: perhaps delivered.",
            "cps",
            series(f"sum by (channel, outcome) (rate(chat4all_call_seconds_count{RATE}))", "{{channel}} {{outcome}}"),
        ),
        chart(
            "Calls without success",
            "Share of the calls that ended with RetryLater or Unknown: the provider, or the way to it, does not work.",
            "percentunit",
            series("chat4all:calls_failing:ratio_rate5m", "{{channel}}"),
            steps=above(0.1, 0.5),
        ),
        chart(
            "Time of a call, p95",
            "95 % of the calls took at most this.",
            "s",
            series(
                f"histogram_quantile(0.95, sum by (channel, le) (rate(chat4all_call_seconds_bucket{RATE})))",
                "{{channel}}",
            ),
            steps=above(1, 2.5),
        ),
        chart(
            "Throttled, repeated, not known",
            "Events of stage send a second: throttled (the provider asks us to slow down), retry_later, unknown, resent (sent again after"
            " an unknown outcome: perhaps a duplicate), exhausted, expired.",
            "cps",
            series(
                'sum by (event) (rate(chat4all_events_total{stage="send",'
                f'event=~"throttled|retry_later|unknown|resent|exhausted|expired"}}{RATE}))',
                "{{event}}",
            ),
            steps=above(1, 10),
        ),
        chart(
            "Errors that we do not know",
            "Errors of providers that our tables do not list, in the last hour. The call log has them; report them to the developers.",
            "short",
            series("sum by (channel) (increase(chat4all_unknown_errors_total[1h]))", "{{channel}}"),
            steps=above(1, 100),
        ),
        chart(
            "Calls in flight",
            "Calls that are running or about to start. At CHAT4ALL_SEND_CONCURRENCY of each worker, deliveries wait.",
            "short",
            series("sum by (service) (chat4all_calls_in_flight)", "{{service}}"),
        ),
    ]


def _webhooks() -> list[Panel]:
    return [
        chart(
            "Webhook answers",
            "Our answers to providers, a second, by HTTP status. 5xx: the provider must send it again.",
            "reqps",
            series(f"sum by (channel, status) (rate(chat4all_webhooks_total{RATE}))", "{{channel}} {{status}}"),
        ),
        chart(
            "Time of an answer, p95",
            "95 % of the webhooks were answered within this, after Kafka had everything in them.",
            "s",
            series(
                f"histogram_quantile(0.95, sum by (channel, le) (rate(chat4all_webhook_seconds_bucket{RATE})))",
                "{{channel}}",
            ),
            steps=above(0.1, 0.25),
        ),
        chart(
            "What came in",
            "Items of webhooks a second, by kind: receipts, inbound messages, preferences, refused ones and others.",
            "cps",
            series(f"sum by (channel, kind) (rate(chat4all_webhook_items_total{RATE}))", "{{channel}} {{kind}}"),
        ),
        chart(
            "Refused and polled",
            "Requests that the gateway refused, by HTTP status, and its own requests for updates, by outcome.",
            "reqps",
            series(f"sum by (status) (rate(chat4all_gateway_refused_total{RATE}))", "refused {{status}}"),
            series(f"sum by (channel, outcome) (rate(chat4all_polls_total{RATE}))", "{{channel}} {{outcome}}"),
        ),
    ]


def _deliveries() -> list[Panel]:
    return [
        chart(
            "Deliveries by where they stand",
            "Deliveries by the minute they were accepted in, and where each stands now. Sent means SENT and no further.",
            "short",
            SqlTarget(
                f"""select toDateTime(minute) as time, sum(n.pending) as waiting, sum(n.sent) as only_sent,
                    sum(n.delivered) as only_delivered,
                    sum(n.read) as was_read, sum(n.failed) as has_failed, sum(n.expired) as has_expired,
                    sum(n.suppressed) as was_suppressed from deliveries_by_minute as n
                    where $__timeFilter(minute) and {FILTERS} group by minute order by time"""
            ),
        ),
        chart(
            "Accepted to sent, p95 by channel",
            "95 % of the deliveries of a minute took at most this.",
            "ms",
            SqlTarget(
                f"""select toDateTime(minute) as time, channel, p95 from (
                    select minute, channel, quantilesTDigestMerge(0.5, 0.95, 0.99)(accept_to_sent_ms)[2] as p95 from deliveries_by_minute
                    where $__timeFilter(minute) and {FILTERS} group by minute, channel
                ) where not isNaN(p95) order by time"""
            ),
            steps=above(500, 1000),
        ),
        listing(
            "Times of the steps",
            "How long deliveries took to be sent, delivered and read, by channel (report latency). In milliseconds.",
            "short",
            SqlTarget(report("latency"), "table"),
        ),
        listing(
            "How attempts ended",
            "Calls to providers by outcome and reason, for the deliveries accepted in the range (report retries).",
            "short",
            SqlTarget(report("retries"), "table"),
        ),
        listing(
            "Receipts",
            "How many sent deliveries a receipt confirmed, and how many can never be confirmed (report coverage).",
            "short",
            SqlTarget(report("coverage"), "table"),
        ),
        listing(
            "Stalled deliveries",
            "Sent, and no receipt for longer than the channel's time (docs/receipts.md).",
            "short",
            SqlTarget(
                f"""select tenant_id as tenant, channel, account, count() as n, min(sent_at) as oldest from stalled_deliveries
                    where {FILTERS} group by tenant, channel, account order by n desc limit 200""",
                "table",
            ),
        ),
    ]
