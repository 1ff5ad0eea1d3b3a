"""Judges a finished World: what the stages hold and have published is what the reference says, and no receipt was lost on the way.

In: a world after `run`. Out: an AssertionError that names the delivery or the member.
"""

from schemas.records import SIGNALS, Status
from tables.cursors import cursor_key
from tests.support.receipt_facts import Made
from tests.support.receipt_reference import Reference
from tests.support.receipt_world import STALLED_MS, World


def judge(world: World) -> None:
    for of, facts in world.facts.items():
        reference = Reference(facts)
        _judge_deliveries(world, reference)
        for member in {made.member for made in reference.made.values()}:
            _judge_member(world, of, member, reference)
    _judge_way(world)
    _judge_stalled(world)


def _judge_deliveries(world: World, reference: Reference) -> None:
    for n, made in reference.made.items():
        state = world.watch.states[made.delivery_id]
        found = (str(state.status), (state.sent_at, state.delivered_at, state.read_at))
        assert found == (reference.status(n), reference.times(n)), f"{made} {state}"
        attempts = (state.ready_at, state.first_dispatched_at, state.throttles)
        assert attempts == reference.attempts(n), f"{made} {state}"
        assert state.not_before == (made.due or None), f"{made} {state}"


def _judge_member(world: World, of: tuple[str, str], member: str, reference: Reference) -> None:
    (home,) = {talk.home for talk in world.talks if (talk.tenant, talk.name) == of}
    row = world.workers[home].desk.rows("cursors").get(cursor_key(*of, member).encode())
    expected = reference.cursor(member)
    if row is None:
        assert not reference.deliveries(member), f"{member} of {of} has no cursor"
        return
    assert (row.last_delivered_seq, row.last_read_seq, row.unread) == expected, f"{member} of {of}: {row}"
    published = world.watch.cursors.get((*of, member))
    now = (0, 0) if published is None else (published.last_delivered_seq, published.last_read_seq)
    assert tuple(each or 0 for each in now) == tuple(each or 0 for each in expected[:2]), (
        f"{member} of {of}: {published}"
    )
    assert published is None or now == expected[:2], f"{member} of {of}: {published}"


def _judge_way(world: World) -> None:
    """Every message became its deliveries, every call that was accepted is SENT, and every receipt that can be matched was learned once."""
    made = [fact for facts in world.facts.values() for fact in facts if isinstance(fact, Made)]
    assert len({each.delivery_id for each in made}) == len(made) == len(world.watch.states)
    expected = {
        (receipt.provider_message_id.split("-")[1], receipt.event_id)
        for receipt, _ in world.arrived
        if receipt.account != "of-others" and (receipt.callback_data or receipt.provider_message_id in world.bound)
    }
    assert world.said - {pair for pair in world.said if pair[1].startswith("odd ")} == expected | world.early
    statuses = {state.status for state in world.watch.states.values()}
    assert Status.PENDING not in statuses, "every call ends"
    assert set(world.causes) <= {"wrong_tenant", "wrong_partition", "attempts_exhausted"}, world.causes


def _judge_stalled(world: World) -> None:
    """Every channel's time is over: exactly what is SENT, and may still be reported, is stalled."""
    sent = {
        state.delivery_id
        for state in world.watch.states.values()
        if state.status is Status.SENT and state.channel in STALLED_MS and state.kind not in SIGNALS
    }
    assert {key.decode() for worker in world.workers for key in worker.desk.rows("stalled")} == sent
    assert not any(worker.desk.rows("awaiting") for worker in world.workers)
