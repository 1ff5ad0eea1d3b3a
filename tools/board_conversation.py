"""The board One conversation: its deliveries, transitions and attempts, by ids only. Out: the board. No I/O.

No text and no address is in ClickHouse, so none is on the board.
"""

from grafana_foundation_sdk.builders import dashboard

from tools.board_parts import TENANT, SqlTarget, above, board, choice, listing, row

OF_IT = """conversation_id = ${conversation:singlequote}
    and (${tenant:singlequote} = '' or tenant_id = ${tenant:singlequote}) and $__timeFilter(accepted_at)"""


def conversation() -> dashboard.Dashboard:
    panels = [
        row("What was accepted"),
        listing(
            "Deliveries",
            "Every delivery of the conversation that was accepted in the range: where it stands and when it got there. Newest first.",
            "short",
            SqlTarget(
                f"""select seq, message_id, delivery_id, channel, account, kind, status, cause, reason_code, attempts, resends, throttles,
                    accepted_at, not_before, first_dispatched_at, sent_at, delivered_at, read_at, failed_at, stalled_at
                    from deliveries final where {OF_IT} order by seq desc, delivery_id limit 500""",
                "table",
            ),
        ),
        row("What happened"),
        listing(
            "Transitions",
            "Every change of every delivery, oldest first.",
            "short",
            SqlTarget(
                f"""select observed_at, occurred_at, seq, delivery_id, version, previous_status, status, reported, cause, anomaly, attempt,
                    reason_code from delivery_events where {OF_IT} order by observed_at, delivery_id, version limit 2000""",
                "table",
            ),
        ),
        listing(
            "Attempts",
            "Every call to a provider that ended, with its outcome and its milliseconds; and every decision to send again after an unknown"
            " outcome (resent).",
            "short",
            SqlTarget(
                f"""select ended_at, delivery_id, channel, account, attempt, class, reason_code, throttled, resent, dispatched_at,
                    call_ms, retry_at from attempts where {OF_IT} order by ended_at, delivery_id, version limit 2000""",
                "table",
            ),
            above(2500, 10_000),
        ),
        listing(
            "What people wrote",
            "Messages of people in this conversation: ids and times only.",
            "short",
            SqlTarget(
                f"""select accepted_at, received_at, seq, message_id, channel, account, kind from inbound_events
                    where {OF_IT} order by accepted_at, seq limit 500""",
                "table",
            ),
        ),
    ]
    asked = dashboard.TextBoxVariable("conversation").label("conversation id")
    about = "The deliveries, transitions and attempts of one conversation. Ids and times only: no text, no address."
    return (
        board("conversation", "One conversation", about, panels, [choice(TENANT), asked])
        .time("now-7d", "now")
        .refresh("")
    )
