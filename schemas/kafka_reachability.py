"""Whether Kafka lets us in, and if not, why: what librdkafka tells beside its calls, which only time out.

What enters: a client made with `reach.settings`. What leaves: metadata, or Unreached with one sentence. Guaranteed: a wrong password, a
token that cannot be had and a certificate that is not believed are told at once, not when the time is over.
"""

import re
import time
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import KafkaError, KafkaException

from schemas import access_errors, bearer
from schemas.kafka_access import KafkaAccess

TRY_SECONDS = 1.0  # after which what was told meanwhile is looked at
_NOT_LET_IN = frozenset({"_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM"})
_NOT_BELIEVED = "_SSL"
_BROKER = re.compile(r"^\w+://([^/\s]+)/")


class Unreached(Exception):
    """Kafka does not answer, or does not let us in; one sentence."""


class KafkaReachability:
    """What one client was told."""

    def __init__(self, kafka: KafkaAccess) -> None:
        self._kafka = kafka
        self._told: dict[str, str] = {}  # name of an error -> what it says

    def settings(self, client: str, **more: Any) -> dict[str, Any]:
        """Of a client that tells here what happens to it. Blocks while a token is asked for, without which none can be made; raises
        Unreached."""
        if self._kafka.mechanism == "OAUTHBEARER":
            try:
                self._kafka.token()
            except bearer.NoToken as error:
                raise Unreached(f"no token for Kafka at {self._kafka}: {error}") from error
        return {**self._kafka.settings(client, **more), "error_cb": self._note}

    def _note(self, error: KafkaError) -> None:
        self._told[error.name()] = error.str()

    def metadata(self, client: Any, seconds: float) -> Any:
        """Of all topics. Raises Unreached."""
        end = time.monotonic() + seconds
        while True:
            try:
                return client.list_topics(timeout=min(TRY_SECONDS, max(0.1, end - time.monotonic())))
            except KafkaException as error:
                client.poll(0)  # calls `_note`
                if (why := self.why()) or time.monotonic() >= end:
                    raise Unreached(why or self._silent(error)) from error

    def why(self) -> str:
        """Why Kafka does not let us in; empty when nothing was told that says so."""
        for name, text in self._told.items():
            if name in _NOT_LET_IN:
                return self._not_let_in(text)
        if _NOT_BELIEVED in self._told:
            return self._not_believed(self._told[_NOT_BELIEVED])
        passing = self._told.get("_TRANSPORT", "")
        if "alert certificate required" in passing or "alert bad certificate" in passing:
            return f"Kafka at {self._kafka} wants a certificate of ours that it believes; look at CHAT4ALL_KAFKA_CERTIFICATE_FILE"
        if "PLAINTEXT broker listener" in passing:
            return f"Kafka at {self._kafka} speaks no TLS on this port; look at CHAT4ALL_KAFKA_SECURITY_PROTOCOL"
        return ""

    def _not_let_in(self, text: str) -> str:
        kafka = self._kafka
        if "mechanism" in text.lower() and "invalid credentials" not in text.lower():
            return f"Kafka at {kafka} does not take {kafka.mechanism}; look at CHAT4ALL_KAFKA_SASL_MECHANISM"
        if kafka.mechanism == "OAUTHBEARER":
            return f"Kafka at {kafka} takes no token of ours; look at CHAT4ALL_KAFKA_TOKEN_COMMAND: {text}"
        return access_errors.password(self._server(text))

    def _not_believed(self, text: str) -> str:
        return (
            access_errors.certificate(self._server(text), self._kafka.ssl_context())
            or f"Kafka at {self._kafka}: {text}"
        )

    def _server(self, text: str = "") -> access_errors.Server:
        """The broker an error is about, else the first one."""
        found = _BROKER.search(text)
        parts = urlsplit(f"//{found[1] if found else self._kafka.url.split(',')[0].strip()}")
        host, port = parts.hostname or "localhost", parts.port or 9092
        return access_errors.Server("Kafka", "KAFKA", host, port, self._kafka.user, self._kafka.ca_file)

    def _silent(self, error: KafkaException) -> str:
        """What is said of a Kafka that gives no reason: one that hangs up wants to be spoken to in another way."""
        texts = [text for name, text in self._told.items() if name != "_ALL_BROKERS_DOWN"]
        server = self._server()
        if not texts and access_errors.listens(server):
            return f"{server.place} hangs up on {self._kafka.protocol}; look at CHAT4ALL_KAFKA_SECURITY_PROTOCOL"
        return f"Kafka at {self._kafka} cannot be reached ({[*texts, error.args[0].str()][0]}): set CHAT4ALL_KAFKA_URL"
