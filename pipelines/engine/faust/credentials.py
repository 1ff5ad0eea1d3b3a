"""A worker's credentials for Kafka, in the form of Faust and aiokafka.

Enters: a KafkaAccess. Leaves: Faust's credentials, None where Kafka asks for none. Guaranteed: the same checks of a broker's certificate
and name as librdkafka makes with the same access.
"""

import asyncio
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError
from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials

from schemas.bearer import NoToken
from schemas.kafka_access import KafkaAccess


class CommandTokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is untyped to us
    """A token from the configured command for each connection. The command runs in a thread; the event loop is not blocked."""

    def __init__(self, kafka: KafkaAccess) -> None:
        self._kafka = kafka

    async def token(self) -> str:
        """Raises KafkaConnectionError when the command gives no token; aiokafka then tries to connect again."""
        try:
            return (await asyncio.to_thread(self._kafka.token)).text
        except NoToken as error:
            raise KafkaConnectionError(str(error)) from error


def credentials(kafka: KafkaAccess) -> Any:
    """The value for Faust's setting `broker_credentials`."""
    context = kafka.ssl_context()
    if not kafka.uses_sasl:
        return None if context is None else SSLCredentials(context)
    if kafka.mechanism == "OAUTHBEARER":
        return OAuthCredentials(oauth_cb=CommandTokens(kafka), ssl_context=context)
    return SASLCredentials(username=kafka.user, password=kafka.password, ssl_context=context, mechanism=kafka.mechanism)
