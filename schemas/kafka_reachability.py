"""Whether Kafka accepts our client, and if not, the reason, which librdkafka gives to a callback while its calls only time out.

Enters: a client that was made with `KafkaReachability.settings`. Leaves: metadata, or Unreached with one sentence. Guaranteed: a wrong
password, a missing token and a certificate that is not trusted are reported within about a second, not after the whole time-out.
"""

import re
import time
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import KafkaError, KafkaException

from schemas import access_errors, bearer
from schemas.kafka_access import KafkaAccess

TRY_SECONDS = 1.0  # time-out of one try; after each, the reported errors are examined
_REFUSED = frozenset({"_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM"})
_NOT_TRUSTED = "_SSL"
_BROKER = re.compile(r"^\w+://([^/\s]+)/")


class Unreached(Exception):
    """Kafka does not answer, or refuses our client. The text is one sentence without a secret."""


class KafkaReachability:
    """The errors that librdkafka reported to one client. For one thread: librdkafka calls back within `metadata`."""

    def __init__(self, kafka: KafkaAccess) -> None:
        self._kafka = kafka
        self._errors: dict[str, str] = {}  # name of an error -> its text

    def settings(self, client: str, **more: Any) -> dict[str, Any]:
        """Configuration of a client that reports its errors here. With OAUTHBEARER it runs the token command, so it blocks; raises
        Unreached if there is no token."""
        if self._kafka.mechanism == "OAUTHBEARER":
            try:
                self._kafka.token()
            except bearer.NoToken as error:
                raise Unreached(f"no token for Kafka at {self._kafka}: {error}") from error
        return {**self._kafka.settings(client, **more), "error_cb": self._note}

    def _note(self, error: KafkaError) -> None:
        self._errors[error.name()] = error.str()

    def metadata(self, client: Any, seconds: float) -> Any:
        """Metadata of all topics. Blocks, for about `seconds` at most. Raises Unreached."""
        end = time.monotonic() + seconds
        while True:
            try:
                return client.list_topics(timeout=min(TRY_SECONDS, max(0.1, end - time.monotonic())))
            except KafkaException as error:
                client.poll(0)  # calls `_note`
                if (why := self.why()) or time.monotonic() >= end:
                    raise Unreached(why or self._silent(error)) from error

    def why(self) -> str:
        """Why Kafka refuses our client; empty if no reported error says so. May block for some seconds: it looks at the certificate."""
        for name, text in self._errors.items():
            if name in _REFUSED:
                return self._refused(text)
        if _NOT_TRUSTED in self._errors:
            return self._not_trusted(self._errors[_NOT_TRUSTED])
        passing = self._errors.get("_TRANSPORT", "")
        if "alert certificate required" in passing or "alert bad certificate" in passing:
            return f"Kafka at {self._kafka} requires a client certificate that it trusts; look at CHAT4ALL_KAFKA_CERTIFICATE_FILE"
        if "PLAINTEXT broker listener" in passing:
            return f"Kafka at {self._kafka} does not use TLS on this port; look at CHAT4ALL_KAFKA_SECURITY_PROTOCOL"
        return ""

    def _refused(self, text: str) -> str:
        kafka = self._kafka
        if "mechanism" in text.lower() and "invalid credentials" not in text.lower():
            return f"Kafka at {kafka} does not accept {kafka.mechanism}; look at CHAT4ALL_KAFKA_SASL_MECHANISM"
        if kafka.mechanism == "OAUTHBEARER":
            return f"Kafka at {kafka} does not accept our token; look at CHAT4ALL_KAFKA_TOKEN_COMMAND: {text}"
        return access_errors.password(self._server(text))

    def _not_trusted(self, text: str) -> str:
        return (
            access_errors.certificate(self._server(text), self._kafka.ssl_context())
            or f"Kafka at {self._kafka}: {text}"
        )

    def _server(self, text: str = "") -> access_errors.Server:
        """The broker that an error names, else the first one of the setting."""
        found = _BROKER.search(text)
        parts = urlsplit(f"//{found[1] if found else self._kafka.url.split(',')[0].strip()}")
        host, port = parts.hostname or "localhost", parts.port or 9092
        return access_errors.Server("Kafka", "KAFKA", host, port, self._kafka.user, self._kafka.ca_file)

    def _silent(self, error: KafkaException) -> str:
        """The error when Kafka gives no reason. If it accepts connections and closes them, it expects another security protocol."""
        texts = [text for name, text in self._errors.items() if name != "_ALL_BROKERS_DOWN"]
        server = self._server()
        if not texts and access_errors.listens(server):
            return f"{server.place} closes {self._kafka.protocol} connections; look at CHAT4ALL_KAFKA_SECURITY_PROTOCOL"
        return f"Kafka at {self._kafka} cannot be reached ({[*texts, error.args[0].str()][0]}): set CHAT4ALL_KAFKA_URL"
