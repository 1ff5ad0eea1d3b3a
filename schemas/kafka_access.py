"""How to reach Kafka: addresses, authentication and TLS, as the configuration of every Kafka client.

Enters: the settings CHAT4ALL_KAFKA_*. Leaves: librdkafka's configuration as a dict, aiokafka's as an SSL context. Guaranteed: a combination
that cannot work is refused in one sentence before a client is made; clients always check the certificate and the name of a broker; no repr
contains a secret, that of the dicts included.
"""

import logging
import shlex
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from schemas import bearer
from schemas.secret_masking import MaskedText

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
MECHANISMS: tuple[Mechanism, ...] = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_LOGGER = logging.getLogger("librdkafka")
LOCAL = "chat4all"  # start of every client's name


class WrongAccess(ValueError):
    """Kafka settings that contradict each other or are not valid. The text is one sentence without a secret."""


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """How to reach one Kafka cluster. Immutable; `str` gives its bootstrap servers."""

    url: str
    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism = ""
    user: str = ""
    password: MaskedText = field(default=MaskedText(""))
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    token_command: MaskedText = field(default=MaskedText(""))

    def __str__(self) -> str:
        return self.url

    @property
    def is_encrypted(self) -> bool:
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def uses_sasl(self) -> bool:
        """Whether clients have to authenticate with SASL."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def settings(self, client: str, **more: Any) -> dict[str, Any]:
        """Configuration of a confluent-kafka client called `chat4all-<client>`. `more` has Kafka's names with `_` in place of `.`.

        librdkafka writes nothing to standard error itself, because such lines would have another format and would not be masked: its
        callbacks and exceptions report failures, and a logger gets fatal errors, which no log level suppresses."""
        named = {name.replace("_", "."): value for name, value in more.items()}
        own = {"bootstrap.servers": self.url, "client.id": f"{LOCAL}-{client}", "log_level": 0, "logger": _LOGGER}
        return own | self._secured() | named

    def ssl_context(self) -> ssl.SSLContext | None:
        """The SSL context of an aiokafka client; None without TLS. Reads the files, so it blocks. Raises OSError or ValueError for files
        that `check` would refuse."""
        if not self.is_encrypted:
            return None
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.certificate_file:
            # An empty password makes OpenSSL refuse an encrypted key. Without one, OpenSSL would ask for it at the terminal.
            context.load_cert_chain(self.certificate_file, self.key_file or None, password="")
        return context

    def token(self) -> bearer.BearerToken:
        """A new token of the command. Blocks; raises bearer.NoToken."""
        return bearer.token(shlex.split(self.token_command))

    def check(self) -> None:
        """Raises WrongAccess if no client could be made from these settings. Reads the files, so it blocks; does not connect to Kafka."""
        for wrong in (self._wrong_url(), self._wrong_mechanism(), self._wrong_files()):
            if wrong:
                raise WrongAccess(wrong)
        if not self.is_encrypted:
            return
        try:
            self.ssl_context()
        except (ssl.SSLError, ValueError) as error:
            what = "CHAT4ALL_KAFKA_CA_FILE, CHAT4ALL_KAFKA_CERTIFICATE_FILE or CHAT4ALL_KAFKA_KEY_FILE"
            reason = getattr(error, "reason", "") or "not PEM"
            raise WrongAccess(f"{what} is not valid ({reason}): it must be PEM, the key without a password") from None

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _secured(self) -> dict[str, Any]:
        if self.protocol == "PLAINTEXT":
            return {}
        found: dict[str, Any] = {"security.protocol": self.protocol}
        if self.is_encrypted:
            found["ssl.endpoint.identification.algorithm"] = "https"
            files = (
                ("ssl.ca.location", self.ca_file),
                ("ssl.certificate.location", self.certificate_file),
                ("ssl.key.location", self.key_file or self.certificate_file),
            )
            found |= {name: file for name, file in files if file}
        if self.uses_sasl:
            found["sasl.mechanisms"] = self.mechanism
            if self.mechanism == "OAUTHBEARER":
                found["oauth_cb"] = self._token_callback()
            else:
                found |= {"sasl.username": self.user, "sasl.password": self.password}
        return found

    def _token_callback(self) -> Callable[[str], tuple[str, float, str, dict[str, str]]]:
        def new_token(_: str) -> tuple[str, float, str, dict[str, str]]:
            token = self.token()
            return token.text, token.expires_at, token.subject, {}

        return new_token

    def _wrong_url(self) -> str:
        wrong = any(not _is_broker(each.strip()) for each in self.url.split(",")) if self.url else False
        return "CHAT4ALL_KAFKA_URL: write host:port[,host:port], without a scheme and without a user" if wrong else ""

    def _wrong_mechanism(self) -> str:
        setting = f"CHAT4ALL_KAFKA_SECURITY_PROTOCOL={self.protocol}"
        values = {"USER": self.user, "PASSWORD": self.password, "TOKEN_COMMAND": self.token_command}
        given = [name for name, value in values.items() if value]
        if not self.uses_sasl:
            given = ["SASL_MECHANISM"] * bool(self.mechanism) + given
            return (
                f"CHAT4ALL_KAFKA_{given[0]} is set, but {setting} has no authentication: set SASL_SSL" if given else ""
            )
        if not self.mechanism:
            return f"{setting} needs CHAT4ALL_KAFKA_SASL_MECHANISM, one of {', '.join(MECHANISMS)}"
        setting = f"CHAT4ALL_KAFKA_SASL_MECHANISM={self.mechanism}"
        wanted = ("TOKEN_COMMAND",) if self.mechanism == "OAUTHBEARER" else ("USER", "PASSWORD")
        missing = [f"CHAT4ALL_KAFKA_{name}" for name in wanted if name not in given]
        if missing:
            return f"{setting} needs {' and '.join(missing)}"
        unused = [f"CHAT4ALL_KAFKA_{name}" for name in given if name not in wanted]
        if unused:
            return f"{setting} does not use {' and '.join(unused)}: remove the settings that are wrong"
        return self._wrong_command()

    def _wrong_command(self) -> str:
        try:
            shlex.split(self.token_command)
        except ValueError as error:  # its text names the kind of error and contains nothing of the command
            return f"CHAT4ALL_KAFKA_TOKEN_COMMAND is not a valid command line: {error}"
        return ""

    def _wrong_files(self) -> str:
        files = {"CA_FILE": self.ca_file, "CERTIFICATE_FILE": self.certificate_file, "KEY_FILE": self.key_file}
        given = [name for name, file in files.items() if file]
        if given and not self.is_encrypted:
            setting = f"CHAT4ALL_KAFKA_SECURITY_PROTOCOL={self.protocol}"
            return f"CHAT4ALL_KAFKA_{given[0]} is set, but {setting} does not use TLS: set SSL or SASL_SSL"
        if self.key_file and not self.certificate_file:
            return "CHAT4ALL_KAFKA_KEY_FILE needs CHAT4ALL_KAFKA_CERTIFICATE_FILE"
        for name in given:
            if reason := unreadable(files[name]):
                return f"CHAT4ALL_KAFKA_{name}: {files[name]} cannot be read: {reason}"
        return ""


def _is_broker(text: str) -> bool:
    parts = urlsplit(f"//{text}")
    try:
        return bool(parts.hostname) and parts.netloc == text and "@" not in text and parts.port != 0
    except ValueError:  # the port is not a number
        return False


def unreadable(file: str) -> str:
    """Why a file cannot be read; empty if it can. Blocks for a moment; raises nothing."""
    try:
        with Path(file).open("rb"):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__
