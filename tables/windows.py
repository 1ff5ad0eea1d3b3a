"""Table `windows` of stage send: until when an account may write freely to a person who wrote to it. Key: `person_key`.

A partition has the windows of the people in its conversations. A window only ever moves on: an older record changes nothing.
"""

from dataclasses import dataclass

from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class ServiceWindow:
    """The window that a person's latest message opened. Times are Unix milliseconds."""

    tenant_id: str  # of the conversation that brought it here
    opened_at: int  # when the person wrote
    closes_at: int  # when it closes; the row is deleted then


WINDOWS = JsonLayout("windows", ServiceWindow, time="closes_at")
