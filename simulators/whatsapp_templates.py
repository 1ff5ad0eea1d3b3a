"""Approved templates of a simulated WhatsApp account, and the errors for messages that do not match one.

What enters: templates to approve, templates as messages use them. What leaves: GraphRefused when they do not match. Guaranteed: name and
language together identify a template; the number of parameters of each component and their types must be those approved.
https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-message-templates
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulators.graph_api import GraphRefused
from simulators.provider import keys_of
from simulators.whatsapp_bodies import TemplateBody

STATES = {"approved": 0, "paused": 132015, "disabled": 132016}
CATEGORIES = ("utility", "marketing", "authentication")


@dataclass(frozen=True, slots=True)
class Approved:
    """One template. `parameters` has the number of parameters of each component: header, body, "button 0"."""

    parameters: Mapping[str, int] = field(default_factory=dict)
    header: str = "text"  # type of the header's parameter
    category: str = "utility"
    state: str = "approved"


class Templates:
    """Templates by (name, language). A few exist from the start; Meta gives every account `hello_world`."""

    def __init__(self) -> None:
        self._approved: dict[tuple[str, str], Approved] = {
            ("hello_world", "en_US"): Approved(),
            ("order_shipped", "en_US"): Approved({"body": 1}),
            ("order_shipped", "pt_BR"): Approved({"body": 1}),
            ("order_photo", "en_US"): Approved({"header": 1, "body": 1, "button 0": 1}, header="image"),
            ("season_sale", "en_US"): Approved({"body": 2}, category="marketing"),
        }

    def add(self, wanted: Mapping[str, Any]) -> object:
        """{"name", "language", "parameters": {"body": 2}, "category", "state"}; raises ValueError."""
        keys_of(("name", "language", "parameters", "header", "category", "state"), wanted)
        name, language = wanted.get("name"), wanted.get("language", "en_US")
        parameters, state = wanted.get("parameters", {}), wanted.get("state", "approved")
        category = wanted.get("category", "utility")
        if not isinstance(name, str) or not isinstance(language, str) or not isinstance(parameters, dict):
            raise ValueError('a template is {"name", "language", "parameters": {"body": 2}, "category", "state"}')  # noqa: TRY004  # answered with 400, as every ValueError
        if state not in STATES or category not in CATEGORIES:
            raise ValueError(f"state is one of {', '.join(STATES)}; category one of {', '.join(CATEGORIES)}")
        self._approved[name, language] = Approved(parameters, str(wanted.get("header", "text")), category, state)
        return {"templates": len(self._approved)}

    def check(self, asked: TemplateBody) -> None:
        """Raises GraphRefused unless the message's template is approved and its parameters match."""
        approved = self._approved.get((asked.name, asked.language))
        if approved is None:
            raise GraphRefused(132001, f"template name ({asked.name}) does not exist in {asked.language}")
        if STATES[approved.state]:
            raise GraphRefused(STATES[approved.state])
        for component in {*approved.parameters, *asked.parameters}:
            wanted, given = approved.parameters.get(component, 0), asked.parameters.get(component, ())
            if len(given) != wanted:
                details = f"{component}: {len(given)} localizable_params do not match the expected number of params ({wanted})"
                raise GraphRefused(132000, details)
            types = {approved.header} if component == "header" else {"text", "currency", "date_time", "payload"}
            if not set(given) <= types:
                raise GraphRefused(132012, f"{component}: Format mismatch, expected {', '.join(sorted(types)).upper()}")

    def category(self, asked: TemplateBody) -> str:
        approved = self._approved.get((asked.name, asked.language))
        return approved.category if approved is not None else "utility"
