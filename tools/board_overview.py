"""The board Overview: is everything well, and if not, where to look. Out: the board. No I/O."""

from grafana_foundation_sdk.builders import dashboard

from schemas.objectives import OBJECTIVES
from tools.board_parts import (
    ACCOUNT,
    CHANNEL,
    FILTERS,
    TENANT,
    Panel,
    SqlTarget,
    above,
    below,
    board,
    chart,
    choice,
    figure,
    listing,
    now,
    report,
    row,
    series,
)

LIMIT_MS = round(1000 * next(each.seconds for each in OBJECTIVES if each.name == "accept_to_sent"))
BURN = above(1, 14.4)  # 1: the error budget lasts exactly its 30 days; 14.4: alert ObjectiveBurnsFast


def overview() -> dashboard.Dashboard:
    panels = [row("Now"), *_now(), row("Flow"), *_flow(), row("By tenant"), *_by_tenant()]
    return board(
        "overview",
        "Overview",
        "Is everything well? Rate, success, time to send, backlog, error budgets, alerts.",
        panels,
        [choice(TENANT), choice(CHANNEL), choice(ACCOUNT)],
    )


def _now() -> list[Panel]:
    return [
        figure(
            "Accepted",
            "Deliveries that stage route accepted, a second, over the last 5 minutes.",
            "cps",
            series("chat4all:accepted:rate5m"),
        ),
        figure(
            "Success",
            "Of the deliveries that were sent or failed in the last 5 minutes: the share that was sent.",
            "percentunit",
            series("chat4all:success:ratio_rate5m"),
            below(0.95, 0.99),
        ),
        figure(
            "Accepted to sent, p95",
            "95 % of the deliveries of the range took at most this, from the acceptance by route to the acceptance by the provider."
            " From ClickHouse: the newest minute is missing while the sinks are behind.",
            "ms",
            SqlTarget(
                f"""select if(isNaN(p95), null, p95) as p95_ms from (
                    select quantilesTDigestMerge(0.5, 0.95, 0.99)(accept_to_sent_ms)[2] as p95 from deliveries_by_minute
                    where $__timeFilter(minute) and {FILTERS})""",
                "table",
            ),
            above(500, 1000),
        ),
        figure(
            "Backlog",
            "Records that wait in Kafka for core: lag of all its topics together.",
            "short",
            series('sum(chat4all:lag:records{stage="core"})'),
            above(1_000, 10_000),
        ),
        figure(
            "Burn of accepted to sent",
            "How fast the error budget of the objective accept_to_sent is used, over the last hour. 1: it would last exactly 30 days.",
            "none",
            series('chat4all:objective_burn:rate1h{objective="accept_to_sent"}'),
            BURN,
        ),
        figure(
            "Programs down",
            "Workers and gateways that Prometheus should reach and does not.",
            "short",
            series('count(up{job="chat4all"} == 0) or vector(0)'),
            above(1, 1),
        ),
        listing(
            "Alerts that fire",
            "What is wrong at this moment. The name of an alert is its section in docs/operations.md.",
            "short",
            now('ALERTS{alertstate="firing"}'),
            span=24,
        ),
    ]


def _flow() -> list[Panel]:
    return [
        chart(
            "What happens to deliveries",
            "Deliveries a second: accepted by route; sent, delivered, read, failed and so on as track published it. It follows the live"
            " metrics, of all tenants together.",
            "cps",
            series("chat4all:accepted:rate5m", "accepted"),
            series("chat4all:transitions:rate5m", "{{event}}"),
        ),
        chart(
            "Success",
            "Of the deliveries that were sent or failed: the share that was sent.",
            "percentunit",
            series("chat4all:success:ratio_rate5m", "sent"),
            steps=below(0.95, 0.99),
        ),
        chart(
            "Accepted to sent",
            "Time from the acceptance by route to the acceptance by the provider, by the minute of the acceptance.",
            "ms",
            SqlTarget(
                f"""select toDateTime(minute) as time, times[1] as p50, times[2] as p95, times[3] as p99 from (
                    select minute, quantilesTDigestMerge(0.5, 0.95, 0.99)(accept_to_sent_ms) as times from deliveries_by_minute
                    where $__timeFilter(minute) and {FILTERS} group by minute
                ) where not isNaN(times[1]) order by time"""
            ),
            steps=above(500, 1000),
        ),
        chart(
            "Backlog",
            "Records that wait in Kafka, by stage and topic. It should come back to 0.",
            "short",
            series("chat4all:lag:records", "{{stage}} {{topic}}"),
            steps=above(1_000, 10_000),
        ),
        chart(
            "Burn of the objectives",
            "How fast each error budget is used, over the last hour. 1: it lasts exactly 30 days. 14.4 or more is an emergency.",
            "none",
            series("chat4all:objective_burn:rate1h", "{{objective}}"),
            steps=BURN,
        ),
        chart(
            "Dead letters",
            "Records that a stage refused, a second. Each cause is explained in docs/topics.md.",
            "cps",
            series(
                "sum by (stage, cause) (rate(chat4all_dead_letters_total[$__rate_interval]))", "{{stage}} {{cause}}"
            ),
            steps=above(0.1, 1),
        ),
    ]


def _by_tenant() -> list[Panel]:
    return [
        listing(
            "Deliveries by tenant and channel",
            "Where the deliveries stand that were accepted in the range, from the roll-up by minute.",
            "short",
            SqlTarget(
                f"""select tenant_id as tenant, channel, sum(accepted) as n_accepted, sum(sent + delivered + read) as n_sent,
                    sum(delivered + read) as n_delivered, sum(read) as n_read, sum(pending) as n_pending, sum(failed) as n_failed,
                    sum(expired) as n_expired, sum(suppressed) as n_suppressed, sum(resends) as n_resends
                    from deliveries_by_minute where $__timeFilter(minute) and {FILTERS}
                    group by tenant, channel order by n_failed desc, n_accepted desc limit 500""",
                "table",
            ),
        ),
        chart(
            "Error budget, by ClickHouse",
            "Share of the sent deliveries that took longer than the objective accept_to_sent allows, by minute."
            " Scheduled and throttled ones do not count.",
            "percentunit",
            SqlTarget(
                f"""select toDateTime(minute) as time, 1 - arraySum(arrayMap((limit, n) -> if(limit <= {LIMIT_MS}, n, 0),
                    mapKeys(taken), mapValues(taken))) / arraySum(mapValues(taken)) as late from (
                    select minute, sumMap(sla_sent_le_ms) as taken from deliveries_by_minute
                    where $__timeFilter(minute) and {FILTERS} group by minute
                ) where length(taken) > 0 order by time"""
            ),
            steps=above(0.01, 0.144),
            span=24,
        ),
        listing(
            "The slowest deliveries",
            "Deliveries that took longest, and where the time went, in milliseconds (report breaches). No text, no address.",
            "short",
            SqlTarget(report("breaches", objective_ms=LIMIT_MS, worst_n=50), "table"),
        ),
        listing(
            "Where the time goes",
            "Parts of the time of the deliveries of the range, in milliseconds (report waterfall): waiting in the lane, pacing, attempts,"
            " the provider, the receipt, and what no part explains.",
            "short",
            SqlTarget(report("waterfall"), "table"),
        ),
    ]
