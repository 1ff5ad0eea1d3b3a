"""Every setting of the product, as one frozen class. schemas/environment.py reads the environment; nothing else does.

A setting is CHAT4ALL_<NAME>. If the environment does not set it, it comes from the state file of the running development stack, if there is
one (CHAT4ALL_STATE, else .chat4all/<stack>/state.json of the working directory), and else it has its default. Each field states its unit.
docs/settings.md lists all of them, and a test compares that list with this file.
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
from schemas.opt_out_settings import OptOutSettings
from schemas.secret_masking import MaskedText, SecretUrl
from schemas.tracker import keys_in

__all__ = ["MissingSetting", "Settings", "state_file", "use_state", "wrong"]


class MissingSetting(Exception):
    """A setting that this program needs is not set. The text says which one, and what to set."""


class Settings(GatewaySettings, OptOutSettings):
    """All settings; an empty URL means "not configured".

    `Settings()` reads the environment and files, so it blocks for a moment; it raises pydantic's ValidationError, which `wrong` puts into
    one line. The object is immutable: any thread may use it. It never changes in a running process; a rebalance does not read it again.
    """

    model_config = SettingsConfigDict(env_prefix="CHAT4ALL_", frozen=True, extra="allow", hide_input_in_errors=True)

    # servers
    kafka_url: str = Field("", description="Kafka bootstrap servers, host:port[,host:port].")
    postgres_url: SecretUrl = Field("", description="PostgreSQL URL, postgresql://user:password@host:port/database.")
    clickhouse_url: SecretUrl = Field(
        "", description="ClickHouse URL, http://user:password@host:port/database; https:// with TLS."
    )
    valkey_url: SecretUrl = Field("", description="Valkey or Redis URL, redis://host:port/0; rediss:// with TLS.")
    s3_url: str = Field("", description="S3 endpoint URL, http://host:port.")
    s3_access_key: str = Field("", description="S3 access key id.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="S3 secret access key.")

    # authentication and TLS of the servers
    kafka_security_protocol: Protocol = Field(
        "PLAINTEXT", description="Kafka's security protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    kafka_sasl_mechanism: Mechanism = Field(
        "", description="SASL mechanism for Kafka: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER."
    )
    kafka_user: str = Field("", description="Kafka user, for PLAIN and SCRAM.")
    kafka_password: SecretStr = Field(SecretStr(""), description="Password of the Kafka user.")
    kafka_token_command: SecretStr = Field(
        SecretStr(""),
        description="Command that prints a token for OAUTHBEARER: the token alone, or JSON with access_token and expires_in.",
    )
    kafka_ca_file: str = Field(
        "", description="PEM file of the authorities for the brokers' certificates; empty: the system's."
    )
    kafka_certificate_file: str = Field(
        "", description="PEM file of our own certificate, if the brokers require one (mutual TLS)."
    )
    kafka_key_file: str = Field(
        "", description="PEM file of our certificate's key, without a password; empty: it is in the same file."
    )
    postgres_password: SecretStr = Field(
        SecretStr(""), description="Password for CHAT4ALL_POSTGRES_URL, if the URL has none."
    )
    postgres_ca_file: str = Field(
        "",
        description="PEM file of the authorities that sign PostgreSQL's certificate; setting it requires TLS (verify-full).",
    )
    clickhouse_password: SecretStr = Field(
        SecretStr(""), description="Password for CHAT4ALL_CLICKHOUSE_URL, if the URL has none."
    )
    clickhouse_ca_file: str = Field("", description="PEM file of the authorities that sign ClickHouse's certificate.")
    valkey_password: SecretStr = Field(
        SecretStr(""), description="Password for CHAT4ALL_VALKEY_URL, if the URL has none."
    )
    valkey_ca_file: str = Field("", description="PEM file of the authorities that sign Valkey's certificate.")
    s3_ca_file: str = Field("", description="PEM file of the authorities that sign the S3 endpoint's certificate.")

    # topics and tables
    partitions: int = Field(
        12, ge=1, le=1000, description="Partitions of every conversation topic; cannot change later."
    )
    replication_factor: int = Field(1, ge=1, description="Replicas of the topics that workers create.")
    dedupe_days: float = Field(7.0, gt=0, description="How long a message id is remembered, in days.")
    binding_days: float = Field(7.0, gt=0, description="How long a provider's id is remembered for receipts, in days.")
    schedule_days: float = Field(
        35.0, gt=0, description="How far in the future not_before and expires_at of a message may be, in days."
    )
    orphan_seconds: float = Field(86_400.0, gt=0, description="How long a receipt waits for its binding, in seconds.")
    state_days: float = Field(
        7.0, gt=0, description="How long track remembers a delivery after its last update, in days."
    )

    # workers
    web_host: str = Field(
        "127.0.0.1", description="Address a worker's web views listen on; any address but loopback requires web_token."
    )
    web_port: int = Field(6066, ge=0, le=65535, description="Port of a worker's web views; 0: any free port.")
    web_url: str = Field(
        "", description="URL of this worker's web views for other workers; empty: web_host, else the machine's name."
    )
    web_names: str = Field(
        "",
        description="Further host names under which a worker's web views may be requested, comma-separated; others are refused.",
    )
    web_token: SecretStr = Field(
        SecretStr(""),
        description="Bearer tokens that may read a worker's web views with texts and addresses masked; comma-separated, newest first.",
    )
    web_full_token: SecretStr = Field(
        SecretStr(""),
        description="Bearer tokens that may also read texts and addresses; without such a token they are masked, on loopback too.",
    )
    probe_host: str = Field("127.0.0.1", description="Address a worker's /health and /metrics listen on.")
    probe_port: int = Field(
        6067, ge=0, le=65535, description="Port of a worker's /health and /metrics; 0: any free port."
    )
    store: Literal["memory", "rocksdb"] = Field(
        "memory", description="Where tables are kept: memory, or rocksdb (on disk, in data_dir)."
    )
    data_dir: str = Field(".chat4all/data", description="Folder for the files of a worker.")
    log_format: str = Field("console", pattern="^(console|json)$", description="Log format: console or json.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Lowest level that is logged.")
    exchange_log: Literal["all", "failures", "none"] = Field(
        "all", description="Which calls to providers get a log line, redacted: all, failures or none."
    )
    session_timeout_seconds: float = Field(
        6.0, ge=1, description="Time after which the Kafka group drops a silent worker, in seconds."
    )
    commit_rest_ms: int = Field(
        15,
        ge=0,
        le=1000,
        description="Pause of a worker between two Kafka transactions, in ms; a longer one means fewer transactions and higher latency.",
    )
    stuck_seconds: float = Field(
        120.0, ge=10, description="A worker that has lag and commits nothing for this long ends, in seconds."
    )
    poison_limit: int = Field(
        20,
        ge=0,
        description="Number of records in a row on which a stage's code may fail before the stage stops; 0: it never stops.",
    )

    # turns of core
    core_gather_ms: int = Field(
        20,
        ge=0,
        le=500,
        description="Under steady load, how long Kafka waits for more records before it answers a fetch of core, in ms; 0: not at all.",
    )
    core_linger_ms: int = Field(
        0,
        ge=0,
        description="How long a partition of core waits after a transaction before its next turn, in ms; a full turn does not wait.",
    )
    core_turn_records: int = Field(1000, ge=1, description="Records that one turn of core takes at most.")

    # sending
    send_concurrency: int = Field(
        500,
        ge=1,
        le=10_000,
        description="Calls in flight of a worker at most, all its partitions together; one tenant may have seven eighths of them.",
    )
    send_account_concurrency: int = Field(
        250,
        ge=1,
        le=256,
        description="Calls in flight of a worker to one account of a channel at most; there are 256 connections at most.",
    )
    send_outstanding: int = Field(
        20_000,
        ge=1,
        description="Deliveries per partition, without scheduled ones, at which send takes no further ones; one tenant may have half.",
    )
    send_scheduled: int = Field(
        100_000,
        ge=0,
        description="Scheduled deliveries per partition at most; one tenant may have half; further ones are refused.",
    )
    send_scheduled_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1_000_000,
        description="Bytes of the scheduled deliveries per partition at most; the other deliveries may have the same number of bytes.",
    )
    send_timeout_seconds: float = Field(10.0, gt=0, description="Time-out of one call to a provider, in seconds.")
    send_attempts: int = Field(8, ge=1, description="Attempts after which a delivery that fails is given up.")
    unknown_hold_seconds: float = Field(
        60.0, gt=0, description="How long a delivery with an unknown outcome waits for evidence, in seconds."
    )

    # sinks
    archive_linger_ms: int = Field(
        250,
        ge=0,
        le=10_000,
        description="Shortest interval between two PostgreSQL transactions of a worker, in ms; one holds all its partitions.",
    )
    analyse_linger_ms: int = Field(
        1000,
        ge=0,
        le=10_000,
        description="Shortest interval between two ClickHouse inserts of a worker, in ms. Its partitions insert one after the other: each "
        "partition with new rows delays reports by this interval.",
    )

    # tenants
    accounts: str = Field(
        "",
        description="Accounts that belong to one tenant each, channel:account=tenant, comma-separated; all tenants share the configured "
        "account of a channel if it is not listed.",
    )

    # WhatsApp Cloud API
    whatsapp_url: str = Field("https://graph.facebook.com", description="Base URL of the Graph API.")
    whatsapp_version: str = Field("v23.0", pattern=r"^v\d+\.\d+$", description="Graph API version in the path.")
    whatsapp_account: str = Field("", description="Id of the phone number that sends messages.")
    whatsapp_token: SecretStr = Field(SecretStr(""), description="System user access token.")
    whatsapp_app_secrets: SecretStr = Field(
        SecretStr(""), description="App secrets that sign webhooks, comma-separated, newest first."
    )
    whatsapp_verify_token: SecretStr = Field(SecretStr(""), description="Token in the webhook verification request.")

    # Telegram Bot API
    telegram_url: str = Field("https://api.telegram.org", description="Base URL of the Bot API.")
    telegram_token: SecretStr = Field(SecretStr(""), description="Bot token, <digits>:<secret>.")
    telegram_webhook_secret: SecretStr = Field(SecretStr(""), description="The secret_token given to setWebhook.")
    telegram_polling: bool = Field(False, description="The gateway asks Telegram for updates; no webhook is needed.")

    # Instagram Messaging API
    instagram_url: str = Field(
        "https://graph.instagram.com",
        description="Base URL: graph.instagram.com with a token of Instagram Login, graph.facebook.com with a token of a Page.",
    )
    instagram_version: str = Field("v23.0", pattern=r"^v\d+\.\d+$", description="Graph API version in the path.")
    instagram_account: str = Field("", description="Id of our professional account, as in webhooks (entry.id).")
    instagram_token: SecretStr = Field(SecretStr(""), description="Access token of the account or of its Page.")
    instagram_app_secrets: SecretStr = Field(
        SecretStr(""),
        description="App secrets that sign webhooks, comma-separated; an app with Instagram Login has a separate one.",
    )
    instagram_verify_token: SecretStr = Field(SecretStr(""), description="Token in the webhook verification request.")

    # trackers
    tracker_keys: SecretStr = Field(
        SecretStr(""),
        description="One or two keys that sign the trackers in receipts, comma-separated, newest first; 32 bytes or more each.",
    )

    # our own clients
    internal_account: str = Field(
        "", description="Name of our account on the internal channel; empty: the channel is not used."
    )
    internal_tokens: SecretStr = Field(
        SecretStr(""),
        description="Bearer tokens with which our clients post receipts and messages, each with the tenant and the people it may act for: "
        "token=tenant:person|person, comma-separated; * means every tenant, or every person.",
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
            raise ValueError("a token must have 16 characters or more; `openssl rand -hex 16` makes one")
        return text

    @field_validator("accounts")
    @classmethod
    def _accounts_are_valid(cls, text: str) -> str:
        accounts_in(text)
        return text

    @field_validator("internal_tokens")
    @classmethod
    def _internal_tokens_are_valid(cls, tokens: SecretStr) -> SecretStr:
        tokens_in(tokens.get_secret_value())
        return tokens

    @model_validator(mode="after")
    def _tokens_are_of_the_accounts_tenant(self) -> Self:
        owner = accounts_in(self.accounts).listed.get(("internal", self.internal_account))
        tenants = {each.tenant for each in tokens_in(self.internal_tokens.get_secret_value())}
        if owner is not None and tenants - {None, owner}:
            raise ValueError(
                f"a token of CHAT4ALL_INTERNAL_TOKENS names another tenant than {owner}, the owner of CHAT4ALL_INTERNAL_ACCOUNT"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _own_and_channels(cls, given: Any) -> Any:
        """Keeps a channel's setting without a field here as a secret text, and drops any other unknown name. Adds passwords and CA files to
        the URLs of servers."""
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
        """How to reach Kafka: addresses, authentication and TLS."""
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
        """The value of a setting by its field name, in plain text; also of a channel's setting without a field. Empty if it is not set."""
        return str(_plain(getattr(self, name, "")))

    def missing(self, *names: str) -> list[str]:
        """Those among `names` that are empty."""
        return [name for name in names if not self.text(name)]

    def require(self, *names: str) -> None:
        """Raises MissingSetting, with one line that names every empty setting among `names`."""
        empty = self.missing(*names)
        if empty:
            wanted = ", ".join(f"CHAT4ALL_{name.upper()}" for name in empty)
            raise MissingSetting(f"not configured: set {wanted}, or start the development stack with `chat4all up`")


def wrong(error: ValidationError) -> str:
    """What is wrong with the settings, for a person: one line that names each wrong setting and shows no value of a secret."""
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
    """Selects the development stack of this state file, for child processes too (it sets CHAT4ALL_STATE), and returns its settings."""
    choose_state(path)
    return Settings()
