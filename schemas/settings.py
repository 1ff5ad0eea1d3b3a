"""Every setting of the product. Where they come from is schemas/environment.py, the only reader of the environment.

A setting is CHAT4ALL_<NAME>; what the environment leaves out comes from the running development stack's state file, if there is
one (CHAT4ALL_STATE, else .chat4all/<stack>/state.json of the working directory). Each field says its unit and default;
docs/settings.md lists them and a test keeps that list complete.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from schemas import server_urls
from schemas.accounts import accounts_in
from schemas.client_tokens import tokens_in
from schemas.environment import OfChannels, SecretFiles, StateFile, Unreadable, choose_state, of_channel, state_file
from schemas.gateway_settings import GatewaySettings
from schemas.kafka_access import KafkaAccess, Mechanism, Protocol, WrongAccess
from schemas.secret_masking import MaskedText, SecretUrl
from schemas.tracker import keys_in

__all__ = ["MissingSetting", "Settings", "state_file", "use_state", "wrong"]


class MissingSetting(Exception):
    """A setting this part needs is not set; the sentence says which and what to set."""


class Settings(GatewaySettings):
    """All settings; empty URLs mean "not configured"."""

    model_config = SettingsConfigDict(env_prefix="CHAT4ALL_", frozen=True, extra="allow", hide_input_in_errors=True)

    # servers
    kafka_url: str = Field("", description="Kafka bootstrap servers, host:port[,host:port].")
    postgres_url: SecretUrl = Field("", description="PostgreSQL URL, postgresql://user:password@host:port/database.")
    clickhouse_url: SecretUrl = Field(
        "", description="ClickHouse URL, http://user:password@host:port/database; https:// where it has TLS."
    )
    valkey_url: SecretUrl = Field(
        "", description="Valkey or Redis URL, redis://host:port/0; rediss:// where it has TLS."
    )
    s3_url: str = Field("", description="S3 endpoint URL, http://host:port.")
    s3_access_key: str = Field("", description="S3 access key id.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="S3 secret access key.")

    # who we are to the servers, and whom we believe
    kafka_security_protocol: Protocol = Field(
        "PLAINTEXT", description="How Kafka is spoken to: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    kafka_sasl_mechanism: Mechanism = Field(
        "", description="How we say who we are: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER."
    )
    kafka_user: str = Field("", description="User of Kafka, for PLAIN and SCRAM.")
    kafka_password: SecretStr = Field(SecretStr(""), description="Password of the user of Kafka.")
    kafka_token_command: SecretStr = Field(
        SecretStr(""),
        description="Command that prints a token for OAUTHBEARER: the token alone, or JSON with access_token and expires_in.",
    )
    kafka_ca_file: str = Field(
        "", description="PEM file of the authorities that sign the brokers' certificates; empty: the system's."
    )
    kafka_certificate_file: str = Field(
        "", description="PEM file of our own certificate, where the brokers want one (mutual TLS)."
    )
    kafka_key_file: str = Field(
        "", description="PEM file of its key, without a password; empty: in the certificate's file."
    )
    postgres_password: SecretStr = Field(
        SecretStr(""), description="Password for CHAT4ALL_POSTGRES_URL, instead of one in it."
    )
    postgres_ca_file: str = Field(
        "",
        description="PEM file of the authorities that sign PostgreSQL's certificate; with it TLS is demanded (verify-full).",
    )
    clickhouse_password: SecretStr = Field(
        SecretStr(""), description="Password for CHAT4ALL_CLICKHOUSE_URL, instead of one in it."
    )
    clickhouse_ca_file: str = Field("", description="PEM file of the authorities that sign ClickHouse's certificate.")
    valkey_password: SecretStr = Field(
        SecretStr(""), description="Password for CHAT4ALL_VALKEY_URL, instead of one in it."
    )
    valkey_ca_file: str = Field("", description="PEM file of the authorities that sign Valkey's certificate.")
    s3_ca_file: str = Field("", description="PEM file of the authorities that sign the S3 endpoint's certificate.")

    # topics and tables
    partitions: int = Field(12, ge=1, le=1000, description="Partitions of every conversation topic; fixed at creation.")
    replication_factor: int = Field(1, ge=1, description="Replicas of topics that workers create.")
    dedupe_days: float = Field(7.0, gt=0, description="How long a message id is remembered, days.")
    binding_days: float = Field(7.0, gt=0, description="How long a provider id is remembered for receipts, days.")
    schedule_days: float = Field(
        35.0, gt=0, description="How far ahead not_before and expires_at of a message may be, days."
    )
    orphan_seconds: float = Field(86_400.0, gt=0, description="How long a receipt waits for its binding, seconds.")
    state_days: float = Field(7.0, gt=0, description="How long track remembers a delivery, days.")

    # workers
    web_host: str = Field(
        "127.0.0.1", description="Address the web views of a worker listen on; another than loopback wants web_token."
    )
    web_port: int = Field(6066, ge=0, le=65535, description="Port of a worker's web views; 0 picks a free one.")
    web_url: str = Field(
        "", description="URL where other workers reach this one's web views; empty: web_host, else the machine's name."
    )
    web_names: str = Field(
        "",
        description="Further names under which a worker's web views are reached, comma-separated; others are refused.",
    )
    web_token: SecretStr = Field(
        SecretStr(""),
        description="Bearer tokens that may read a worker's web views, texts and addresses masked; comma-separated, newest first.",
    )
    web_full_token: SecretStr = Field(
        SecretStr(""),
        description="The same with texts and addresses; without a token these are masked, on loopback too.",
    )
    probe_host: str = Field("127.0.0.1", description="Address a worker's /health and /metrics listen on.")
    probe_port: int = Field(
        6067, ge=0, le=65535, description="Port of a worker's /health and /metrics; 0 picks a free one."
    )
    store: Literal["memory", "rocksdb"] = Field(
        "memory", description="Where tables are kept: memory, or rocksdb (on disk, in data_dir)."
    )
    data_dir: str = Field(".chat4all/data", description="Folder for what a worker keeps on disk.")
    log_format: str = Field("console", pattern="^(console|json)$", description="console or json.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Lowest level that is logged.")
    exchange_log: Literal["all", "failures", "none"] = Field(
        "all", description="Which calls to providers get a log line, redacted: all, failures or none."
    )
    session_timeout_seconds: float = Field(
        6.0, ge=1, description="Kafka group session time-out; a dead worker is replaced after it."
    )

    commit_rest_ms: int = Field(
        15,
        ge=0,
        le=1000,
        description="Rest of a worker between two Kafka transactions, milliseconds: more is fewer transactions and a longer wait.",
    )
    stuck_seconds: float = Field(
        120.0, ge=10, description="A worker with lag that commits nothing for so long ends, seconds."
    )
    poison_limit: int = Field(
        20,
        ge=0,
        description="Records in a row on which a stage's code may fail before the stage stops; 0 never stops it.",
    )

    # turns of core
    core_gather_ms: int = Field(
        20,
        ge=0,
        le=500,
        description="While records come all the time, Kafka gathers so long before it answers a fetch of core, ms; 0: never.",
    )
    core_linger_ms: int = Field(
        0,
        ge=0,
        description="Least distance of two turns of a partition of core, ms; after a longer silence none waits.",
    )
    core_turn_records: int = Field(1000, ge=1, description="Records a turn of core takes of a partition.")

    # sending
    send_concurrency: int = Field(
        500,
        ge=1,
        le=10_000,
        description="Calls in flight of a worker, all its partitions together; a tenant has at most seven eighths of them.",
    )
    send_account_concurrency: int = Field(
        250,
        ge=1,
        le=256,
        description="Calls in flight of a worker to one account of a channel; its connections end at 256.",
    )
    send_outstanding: int = Field(
        20_000,
        ge=1,
        description="Deliveries per partition, besides those for later, above which send takes no further ones; a tenant may hold half.",
    )
    send_scheduled: int = Field(
        100_000,
        ge=0,
        description="Deliveries per partition that may wait for a later time; a tenant may hold half, more are refused.",
    )
    send_scheduled_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1_000_000,
        description="Bytes of the deliveries per partition that may wait for a later time; those to send may have as many again.",
    )
    send_timeout_seconds: float = Field(10.0, gt=0, description="Time-out of one provider call, seconds.")
    send_attempts: int = Field(8, ge=1, description="Attempts before a delivery that may be retried is given up.")
    unknown_hold_seconds: float = Field(
        60.0, gt=0, description="How long an unknown outcome waits for evidence, seconds."
    )

    # sinks
    archive_linger_ms: int = Field(
        250,
        ge=0,
        le=10_000,
        description="Least distance of PostgreSQL transactions of a worker, all its partitions in one, ms.",
    )
    analyse_linger_ms: int = Field(
        1000,
        ge=0,
        le=10_000,
        description="Least distance of ClickHouse inserts of a worker, ms. Its partitions take turns: a report is older by this for "
        "each partition with something to insert.",
    )

    # tenants
    accounts: str = Field(
        "",
        description="Accounts that belong to one tenant each, channel:account=tenant, comma-separated; a channel's configured account "
        "that is not listed is shared by all.",
    )

    # WhatsApp Cloud API
    whatsapp_url: str = Field("https://graph.facebook.com", description="Base URL of the Graph API.")
    whatsapp_version: str = Field("v23.0", pattern=r"^v\d+\.\d+$", description="Graph API version in the path.")
    whatsapp_account: str = Field("", description="Phone number id messages are sent from.")
    whatsapp_token: SecretStr = Field(SecretStr(""), description="System user access token.")
    whatsapp_app_secrets: SecretStr = Field(
        SecretStr(""), description="App secrets that sign webhooks, comma-separated, newest first."
    )
    whatsapp_verify_token: SecretStr = Field(SecretStr(""), description="Token of the webhook verification request.")

    # Telegram Bot API
    telegram_url: str = Field("https://api.telegram.org", description="Base URL of the Bot API.")
    telegram_token: SecretStr = Field(SecretStr(""), description="Bot token, <digits>:<secret>.")
    telegram_webhook_secret: SecretStr = Field(SecretStr(""), description="secret_token given to setWebhook.")

    # Instagram Messaging API
    instagram_url: str = Field(
        "https://graph.instagram.com",
        description="Base URL: graph.instagram.com with a token of Instagram Login, graph.facebook.com with a Page's.",
    )
    instagram_version: str = Field("v23.0", pattern=r"^v\d+\.\d+$", description="Graph API version in the path.")
    instagram_account: str = Field("", description="Id of our professional account, as webhooks name it (entry.id).")
    instagram_token: SecretStr = Field(SecretStr(""), description="Access token of the account, or of its Page.")
    instagram_app_secrets: SecretStr = Field(
        SecretStr(""),
        description="App secrets that sign webhooks, comma-separated; an app of Instagram Login has one of its own.",
    )
    instagram_verify_token: SecretStr = Field(SecretStr(""), description="Token of the webhook verification request.")

    # trackers
    tracker_keys: SecretStr = Field(
        SecretStr(""),
        description="One or two keys that sign what providers hand back in receipts, comma-separated, newest first; 32 bytes or more each.",
    )

    # our own clients
    internal_account: str = Field(
        "", description="Name of our account on the internal channel; empty: no such channel."
    )
    internal_tokens: SecretStr = Field(
        SecretStr(""),
        description="Bearer tokens that may post receipts and messages of our clients, each with the tenant and the people it speaks for: "
        "token=tenant:person|person, comma-separated; * is every tenant, or every person.",
    )

    @field_validator("tracker_keys")
    @classmethod
    def _tracker_keys_are_long_enough(cls, text: SecretStr) -> SecretStr:
        keys_in(text.get_secret_value())
        return text

    @field_validator("web_token", "web_full_token")
    @classmethod
    def _web_tokens_cannot_be_guessed(cls, text: SecretStr) -> SecretStr:
        if any(len(token.strip()) < 16 for token in text.get_secret_value().split(",") if token.strip()):
            raise ValueError("a token has 16 characters or more: `openssl rand -hex 16` makes one")
        return text

    @field_validator("accounts")
    @classmethod
    def _accounts_are_told_apart(cls, text: str) -> str:
        accounts_in(text)
        return text

    @field_validator("internal_tokens")
    @classmethod
    def _tokens_say_whom_they_speak_for(cls, tokens: SecretStr) -> SecretStr:
        tokens_in(tokens.get_secret_value())
        return tokens

    @model_validator(mode="after")
    def _tokens_are_of_the_accounts_tenant(self) -> Self:
        owner = accounts_in(self.accounts).listed.get(("internal", self.internal_account))
        tenants = {each.tenant for each in tokens_in(self.internal_tokens.get_secret_value())}
        if owner is not None and tenants - {None, owner}:
            raise ValueError(
                f"a token of CHAT4ALL_INTERNAL_TOKENS names another tenant than {owner}, whose account CHAT4ALL_INTERNAL_ACCOUNT is"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _own_and_channels(cls, given: Any) -> Any:
        """A channel's setting without a field here is kept as a secret text; any other name is left out. Servers' URLs get what belongs
        into them."""
        if not isinstance(given, dict):
            return given
        unread = [str(value) for value in given.values() if isinstance(value, Unreadable)]
        if unread:
            raise _refused("; ".join(unread))
        own = {name: value for name, value in given.items() if name in cls.model_fields}
        try:
            own |= server_urls.complete({name: _plain(value) for name, value in own.items()})
        except server_urls.WrongUrl as error:
            raise _refused(str(error)) from None
        return own | {
            name: SecretStr(_plain(value)) for name, value in given.items() if name not in own and of_channel(name)
        }

    @model_validator(mode="after")
    def _kafka_can_be_reached(self) -> Self:
        try:
            self.kafka.check()
        except WrongAccess as error:
            raise _refused(str(error)) from None
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings' signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings' signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files, channels = SecretFiles(settings_cls), OfChannels(settings_cls)
        return init_settings, files, env_settings, channels, StateFile(settings_cls)

    @property
    def kafka(self) -> KafkaAccess:
        """Where Kafka is and who we are to it."""
        settings = self
        return KafkaAccess(
            url=",".join(broker.strip() for broker in settings.kafka_url.split(",")),
            protocol=settings.kafka_security_protocol,
            mechanism=settings.kafka_sasl_mechanism,
            user=settings.kafka_user,
            password=MaskedText(settings.kafka_password.get_secret_value()),
            ca_file=settings.kafka_ca_file,
            certificate_file=settings.kafka_certificate_file,
            key_file=settings.kafka_key_file,
            token_command=MaskedText(settings.kafka_token_command.get_secret_value()),
        )

    def text(self, name: str) -> str:
        """A setting by name, a channel's without a field here too; empty when it is not set."""
        return str(_plain(getattr(self, name, "")))

    def missing(self, *names: str) -> list[str]:
        """Those among `names` that are empty."""
        return [name for name in names if not self.text(name)]

    def require(self, *names: str) -> None:
        """Raises MissingSetting with one line that names every empty setting among `names`."""
        empty = self.missing(*names)
        if empty:
            wanted = ", ".join(f"CHAT4ALL_{name.upper()}" for name in empty)
            raise MissingSetting(f"not configured: set {wanted}, or start the development stack with `chat4all up`")


def wrong(error: ValidationError) -> str:
    """What is wrong with the settings, for a person: one line that names each."""
    found = [
        f"CHAT4ALL_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" if each["loc"] else each["msg"]
        for each in error.errors()
    ]
    return "; ".join(found)


def _refused(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("settings", "{sentence}", {"sentence": sentence})


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def use_state(path: Path) -> Settings:
    """The settings with the stack of that state file; child processes find the same one."""
    choose_state(path)
    return Settings()
