"""One conversation's whole state on the terminal.

Enters: what the view /conversations/<id> answers. Leaves: tables. Guaranteed: what people wrote cannot control the terminal.
"""

from typing import Any

from rich.table import Table

from cli.message import shown
from cli.terminal import console
from pipelines.view_text import steps, utc


def draw_conversation(found: Any) -> None:
    """Prints the document."""
    console.print(shown(f"Conversation {found['conversation_id']} of tenant {found['tenant_id']}", style="bold"))
    facts = Table(show_header=False)
    facts.add_row("last sequence", str(found["seq"]))
    facts.add_row("home partition", f"{found['partition']}, held by {found['worker']}")
    if found["members"] is not None:
        facts.add_row("members", shown(", ".join(found["members"]["user_ids"])))
    facts.add_row("open lanes", str(found["lanes_number"]))
    facts.add_row("held messages", str(found["held_number"]))
    console.print(facts)
    if found["lanes"]:
        console.print(_lanes(found))
    if found["cursors"]:
        console.print(_cursors(found["cursors"]))
    for message in found["messages"]:
        console.print(_message(message, found["now"]))
    if found["before"] is not None:
        console.print(f"older messages: --before {found['before']}")


def _lanes(found: Any) -> Table:
    table = Table("to", "head", "waits for", "behind it", title="lanes", title_justify="left")
    for lane in found["lanes"]:
        head, to = lane["head"], lane.get("recipient", lane["address"])
        behind = [f"#{each['seq']}" for each in lane["behind"]]
        more = lane["behind_number"] - len(behind)
        table.add_row(
            shown(f"{to} ({lane['channel']}:{lane['address']})"),
            shown(f"#{head.get('seq', '?')} {head.get('message_id', '')} {head['delivery_id']}"),
            shown(_wait(head.get("outstanding"), found["now"])),
            " ".join(behind) + (f" and {more} more" if more > 0 else ""),
        )
    return table


def _cursors(cursors: Any) -> Table:
    columns = ("member", "delivered up to", "read up to", "newest", "unread")
    table = Table(*columns, title="cursors", title_justify="left")
    for each in cursors:
        numbers = (each["last_delivered_seq"], each["last_read_seq"], each["made_seq"], each["unread"])
        table.add_row(shown(each["member"]), *("not observable" if n is None else str(n) for n in numbers))
    return table


def _message(message: Any, now: int) -> Table:
    heading = f"#{message['seq']} {message['message_id']}  {message['direction'].lower()} {message['kind']}  {utc(message['accepted_at'])}"
    table = Table("to", "status", "timeline", title=shown(heading), title_justify="left")
    for each in message["deliveries"]:
        if each["status"] is None:
            table.add_row(each["delivery_id"], "row expired", "")
            continue
        why = f"\n{each['reason_code']}: {each['reason']}" if each["reason_code"] else ""
        line = "  ".join(f"{name} {utc(at) if after is None else f'+{after} ms'}" for name, at, after in steps(each))
        waits = f"\n{_wait(each['outstanding'], now)}" if each["outstanding"] else ""
        to = f"{each['recipient']} ({each['channel']}:{each['address']})\n{each['delivery_id']}"
        table.add_row(shown(to), shown(each["status"] + why), shown(line + waits))
    more = message["deliveries_number"] - len(message["deliveries"])
    if more > 0:
        table.add_row(f"and {more} more", "", "")
    return table


def _wait(outstanding: Any, now: int) -> str:
    if not outstanding:
        return "the turn that writes it"
    until = outstanding["until"]
    left = f", until {utc(until)}" if until else ""
    left += f" (in {(until - now) / 1000:.0f} s)" if until and until > now else ""
    return f"{outstanding['phase']}: {outstanding['why']}{left}"
