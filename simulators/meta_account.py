"""One simulated account of Meta's Graph API, as WhatsApp's and Instagram's simulators both are: its token, its secret, its webhooks.

What enters: an account and its secrets, the control API's wishes. What leaves: signed webhooks, and the refusal of every call while the
account is out of favour. The calls themselves, and what is told of them, are the provider's own file.
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

EARLY_PATIENCE_SECONDS = 1.0  # how long a call waits for the webhook that comes before its answer


class Given(TypedDict):
    """What MetaProvider is made of, for the subclasses that pass it on."""

    account: str
    token: str
    app_secret: str
    webhook_url: str
    misbehaviour: Misbehaviour
    seed: int
    log: Log
    limits: NotRequired[ProviderLimits]


class MetaProvider(Provider):
    """A provider whose webhooks are signed with the app's secret and repeated for `patience_hours`."""

    patience_hours: ClassVar[float]
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
            patience_hours=self.patience_hours,
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

    def _favoured(self) -> None:
        """Raises the refusal of every call that /_control/account asked for."""
        if self._refusal is not None:
            raise self._refusal

    def _set_account(self, wanted: Mapping[str, Any]) -> object:
        """{"code", "subcode"}: every call of the account is refused so; {} ends it."""
        keys_of(("code", "subcode"), wanted)
        code = wanted.get("code")
        if code is not None:
            known_code(code)
        self._refusal = (
            None if code is None else GraphRefused(code, graph_api.title(code), subcode=wanted.get("subcode"))
        )
        return {"refuses": code}

    async def _verify(self, wanted: Mapping[str, Any]) -> object:
        """{"verify_token"}: Meta's verification request to our webhook, as when it is subscribed."""
        keys_of(("verify_token",), wanted)
        return await graph_api.verify(self.webhooks, str(wanted.get("verify_token", "")), str(time.time_ns()))


def known_code(code: object) -> int:
    """An error code that Meta has; raises ValueError with those it has."""
    if not isinstance(code, int) or code not in graph_api.ERRORS:
        raise ValueError(f"code is none of: {', '.join(map(str, graph_api.ERRORS))}")
    return code
