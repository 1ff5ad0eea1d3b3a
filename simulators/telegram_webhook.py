"""The rules of getUpdates, setWebhook, deleteWebhook and getWebhookInfo of a simulated bot.

What enters: the fields of those calls. What leaves: their results, or TelegramRefused in the server's wording. Guaranteed: a webhook of
the public API is HTTPS on one of four ports; a self-hosted server accepts any URL.
https://core.telegram.org/bots/api#setwebhook
"""

import re
from typing import Any
from urllib.parse import urlsplit

import orjson

from simulators.clock import Clock
from simulators.telegram_fields import Fields, TelegramRefused, bad, too_fast
from simulators.telegram_updates import DEFAULT_KINDS, KINDS, Updates

PORTS = frozenset({80, 88, 443, 8443})
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}", re.ASCII)


class WebhookMethods:
    """The four methods of one bot."""

    def __init__(self, updates: Updates, clock: Clock, *, is_local: bool) -> None:
        self._updates = updates
        self._clock = clock
        self._is_local = is_local
        self._set_at = -1_000_000

    async def manage(self, method: str, fields: Fields) -> object:
        """The result of one method, in lower case; getUpdates may wait up to 50 s. Raises TelegramRefused."""
        match method:
            case "getupdates":
                return await self._get(fields)
            case "setwebhook" if fields.text("url"):
                return self._set(fields)
            case "setwebhook" | "deletewebhook":
                if fields.flag("drop_pending_updates"):
                    self._updates.drop_pending()
                self._updates.set_webhook("", "", 40, None)
                return True
            case "getwebhookinfo":
                return self._info()
        raise TelegramRefused(404, "Not Found: method not found")

    async def _get(self, fields: Fields) -> object:
        kinds = self._kinds(fields)
        if kinds is not None:
            self._updates.kinds = kinds
        limit = fields.whole("limit", 100)
        timeout = min(max(fields.whole("timeout"), 0), 50)
        found = await self._updates.fetch(fields.whole("offset"), limit if 1 <= limit <= 100 else 100, timeout)
        return orjson.Fragment(b"[" + b",".join(found) + b"]")

    def _set(self, fields: Fields) -> bool:
        if self._clock.now() - self._set_at < 1000:
            raise too_fast(1)
        url = fields.text("url")
        self._check_url(url)
        secret = fields.text("secret_token")
        if secret and not _SECRET.fullmatch(secret):
            raise bad(
                "secret token contains unallowed characters" if len(secret) <= 256 else "secret token is too long"
            )
        connections = fields.whole("max_connections", 40)
        most = 100_000 if self._is_local else 100
        if fields.flag("drop_pending_updates"):
            self._updates.drop_pending()
        self._updates.set_webhook(url, secret, min(max(connections, 1), most), self._kinds(fields))
        self._set_at = self._clock.now()
        return True

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise bad("bad webhook: invalid webhook URL specified") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise bad("bad webhook: invalid webhook URL specified")
        if self._is_local:
            return
        if parts.scheme != "https":
            raise bad("bad webhook: An HTTPS URL must be provided for webhook")
        if port not in PORTS:
            raise bad("bad webhook: Webhook can be set up only on ports 80, 88, 443 or 8443")

    def _kinds(self, fields: Fields) -> frozenset[str] | None:
        """allowed_updates. Missing: unchanged (None). Empty: the default. Unknown names are ignored, as in the server."""
        given: Any = fields.nested("allowed_updates")
        if given is None:
            return None
        if not isinstance(given, list):
            raise bad("can't parse allowed updates JSON object")
        return frozenset(each for each in given if each in KINDS) or DEFAULT_KINDS

    def _info(self) -> dict[str, Any]:
        updates = self._updates
        info: dict[str, Any] = {
            "url": updates.url,
            "has_custom_certificate": False,
            "pending_update_count": updates.pending,
        }
        if not updates.url:
            return info
        info |= {"max_connections": updates.max_connections, "ip_address": "127.0.0.1"}
        if updates.kinds != DEFAULT_KINDS:
            info["allowed_updates"] = sorted(updates.kinds)
        if updates.last_error is not None:
            info |= {"last_error_date": updates.last_error[0], "last_error_message": updates.last_error[1]}
        return info
