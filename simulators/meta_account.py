"""One simulated account of Meta's Graph API, shared by the simulators of WhatsApp and Instagram: its token, its secret, its webhooks.

What enters: an account and its secrets, requests of the control API. What leaves: signed webhooks, and the same error for every call while
the control API asks for it. Calls and their receipts are in the provider's own module.
"""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NotRequired, TypedDict

from simulators import graph_api
from simulators.graph_api import GraphRefused
from simulators.misbehaviour import Misbehaviour
from simulators.provider import Provider, keys_of
from simulators.provider_limits import NONE, ProviderLimits, TokenBuckets, Windows
from simulators.provider_log import Log
from simulators.webhook_sender import Notice, Webhooks

EARLY_WAIT_SECONDS = 1.0  # how long a call waits for the webhook that is sent before its answer


class Given(TypedDict):
    """The arguments of MetaProvider, for the subclasses that pass them on."""

    account: str
    token: str
    app_secret: str
    webhook_url: str
    misbehaviour: Misbehaviour
    seed: int
    log: Log
    limits: NotRequired[ProviderLimits]


class MetaProvider(Provider):
    """A provider whose webhooks are signed with the app's secret and repeated for `retry_hours`."""

    retry_hours: ClassVar[float]
    webhooks: Webhooks

    def __init__(
        self,
        *,
        account: str,
        token: str,
        app_secret: str,
        webhook_url: str,
        misbehaviour: Misbehaviour,
        seed: int,
        log: Log,
        limits: ProviderLimits = NONE,
    ) -> None:
        super().__init__(misbehaviour=misbehaviour, limits=limits, seed=seed, log=log)
        self.webhooks = Webhooks(
            url=webhook_url,
            pack=self._pack,
            log=log,
            clock=self.clock,
            schedule=self.schedule,
            retry_hours=self.retry_hours,
        )
        self.account = account
        self.windows = Windows()
        self._token = token
        self._app_secret = app_secret.encode()
        self._mark = f"{seed:x}"
        self._buckets = TokenBuckets()
        self._refusal: GraphRefused | None = None

    @abstractmethod
    def _pack(self, notices: Sequence[Notice]) -> tuple[bytes, Mapping[str, str]]:
        """One webhook body and its headers."""

    def _refuse_for_account(self) -> None:
        """Raises the error that /_control/account set for every call, if any."""
        if self._refusal is not None:
            raise self._refusal

    def _set_account(self, wanted: Mapping[str, Any]) -> object:
        """{"code", "subcode"}: every call of the account gets this error; {} ends it."""
        keys_of(("code", "subcode"), wanted)
        code = wanted.get("code")
        if code is not None:
            known_code(code)
        self._refusal = (
            None if code is None else GraphRefused(code, graph_api.title(code), subcode=wanted.get("subcode"))
        )
        return {"refuses": code}

    async def _verify(self, wanted: Mapping[str, Any]) -> object:
        """{"verify_token"}: sends Meta's verification request to our webhook, as Meta does when an app subscribes."""
        keys_of(("verify_token",), wanted)
        return await graph_api.verify(self.webhooks, str(wanted.get("verify_token", "")), str(time.time_ns()))


def known_code(code: object) -> int:
    """An error code of Meta; raises ValueError with the list of codes for any other value."""
    if not isinstance(code, int) or code not in graph_api.ERRORS:
        raise ValueError(f"code must be one of: {', '.join(map(str, graph_api.ERRORS))}")
    return code
