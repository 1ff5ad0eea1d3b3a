"""The development stack of this product: its servers, simulators, workers and ports, as a StackPlan for stack/.

Enters: the environment's settings. Leaves: a StackPlan. Guaranteed: all ports are chosen before anything starts, so simulators know the
gateway's address; secrets are random for each stack; what the environment sets (a server's URL, a provider's URL, a port) is kept.
"""

import secrets
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pipelines.kafka_acls import APPLICATIONS, CLIENTS, PREPARE, plain, rules
from pipelines.stages import WORKERS
from simulators import AND
from stack.kafka_users import password_file
from stack.plan import Command, Process, StackPlan
from stack.ports import free_port
from stack.replaced import EnvironmentSettings, replaced
from stack.servers import SERVERS

# Share of the messages whose receipts misbehave, as those of real providers sometimes do. Telegram's simulator sends no receipts.
MISBEHAVIOUR = {
    "whatsapp": {"double": 0.02, "early": 0.02, "shuffle": 0.05, "read-without-delivered": 0.02},
    "instagram": {"double": 0.02, "early": 0.02, "shuffle": 0.05},
    "internal": {"double": 0.02, "early": 0.02, "shuffle": 0.05, "read-without-delivered": 0.02},
}
SIMULATORS = "simulators"
# Servers that start only when `chat4all up --with` names them, because no worker uses them yet. Take a name out and it starts by default.
OPTIONAL = ("valkey", "s3")
AnyCommand = TypeVar("AnyCommand", bound=Command)
PARTITIONS = 4  # enough for a demo; a deployment chooses its own number


def compose(
    folder: Path,
    *,
    keep_data: bool = False,
    workers: Mapping[str, int] = MappingProxyType({}),
    secure: bool = False,
    extra: Collection[str] = (),
) -> StackPlan:
    """The plan of a whole stack, with its data, logs and state below `folder`. Starts nothing, but reserves the ports.

    `workers`: how many workers of each kind; one of each kind it does not name.
    `secure`: TLS everywhere, and in Kafka a user for each kind of process, with the rights in pipelines/kafka_acls.py.
    `extra`: the servers of OPTIONAL to start as well."""
    given = EnvironmentSettings()
    folder = folder.resolve()
    gateway_port = given.gateway_port if "gateway_port" in given.model_fields_set else free_port()
    probe_port = given.gateway_probe_port if "gateway_probe_port" in given.model_fields_set else free_port()
    settings: dict[str, Any] = {
        "partitions": PARTITIONS,
        "gateway_port": gateway_port,
        "gateway_probe_port": probe_port,
        "data_dir": str(folder / "workers"),
        "tracker_keys": secrets.token_hex(32),
        "web_full_token": secrets.token_urlsafe(24),
    }
    settings |= {f"{name}_url": url for name, url in replaced().items()} | _access_of(given, replaced())
    simulated = {}
    for provider, its_secrets in SIMULATED.items():
        # When this is set, the real provider is used.
        real = "internal_account" if provider == "internal" else f"{provider}_url"
        if real not in given.model_fields_set:
            simulated[provider] = free_port()
            settings |= its_secrets()
            if provider != "internal":  # internal clients read Kafka; no URL is called
                settings[real] = f"http://127.0.0.1:{simulated[provider]}"
    servers = [name for name in SERVERS if name not in replaced() and (name not in OPTIONAL or name in extra)]
    access = plain(rules()) if secure and "kafka" in servers else {}
    settings |= _user_of(APPLICATIONS, folder, access)
    webhooks = {each: f"http://127.0.0.1:{gateway_port}/webhooks/{each}" for each in simulated}
    if given.telegram_polling:
        settings["telegram_polling"] = True
        webhooks["telegram"] = ""
    prepare = [Command(name="prepare", argv=_pipelines("prepare"), preload=["pipelines.prepare"])]
    processes = [*_simulators(simulated, folder, webhooks), _gateway(gateway_port, probe_port), *_workers(workers)]
    return StackPlan(
        servers=servers,
        replaced=replaced(),
        settings=settings,
        prepare=[_as_user(PREPARE, each, folder, access) for each in prepare],
        processes=[_as_user(_user_name(each.name), each, folder, access) for each in processes],
        locks="secured" if secure else "password",
        access=access,
        keep_data=keep_data,
    )


def _access_of(given: EnvironmentSettings, servers: Mapping[str, str]) -> dict[str, Any]:
    """Access settings of replaced servers that are not part of their URL (credentials, CA files). The plan holds them, because commands in
    another shell read them from the stack's state."""
    names = (name for name in given.model_fields_set if name.startswith(("kafka_", "s3_")))
    found = {name: given.text(name) for name in names if name.partition("_")[0] in servers}
    return {name: str(Path(text).resolve()) if name.endswith("_file") else text for name, text in found.items()}


def _user_name(process: str) -> str:
    """The Kafka user of a process. The simulators use the user of internal clients."""
    return CLIENTS if process == SIMULATORS else kind_of(process)


def _user_of(user: str, folder: Path, access: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a Kafka user; empty where Kafka has no users."""
    return {"kafka_user": user, "kafka_password_file": str(password_file(folder, user))} if access else {}


def _as_user(user: str, command: AnyCommand, folder: Path, access: Mapping[str, Any]) -> AnyCommand:
    own = {f"CHAT4ALL_{name.upper()}": value for name, value in _user_of(user, folder, access).items()}
    return replace(command, env=command.env | own)


def calls_log(folder: Path, provider: str) -> Path:
    """The file in which a simulator logs every call it receives."""
    return folder.resolve() / "simulators" / f"{provider}.jsonl"


def _pipelines(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines", *arguments]


def _simulators(ports: Mapping[str, int], folder: Path, webhooks: Mapping[str, str]) -> list[Process]:
    """One process for all simulators; no process when all providers are real."""
    if not ports:
        return []
    argv = [sys.executable, "-m", "simulators"]
    for number, (provider, port) in enumerate(ports.items()):
        argv += [AND] if number else []
        argv += _simulator(provider, port, folder, webhooks[provider])
    parts = {provider: f"http://127.0.0.1:{port}" for provider, port in ports.items()}
    last = list(parts.values())[-1]  # the last one to listen
    health = f"{last}/_control/health"
    preload = ["simulators.__main__"]
    return [Process(name=SIMULATORS, argv=argv, preload=preload, health=health, url=last, parts=parts)]


def _simulator(provider: str, port: int, folder: Path, webhook: str) -> list[str]:
    """`webhook` is empty for a provider that the gateway polls."""
    # A load writes fast, and to people who never wrote first: messaging windows and rate limits would refuse most of it.
    argv = [
        provider,
        "--port",
        str(port),
        "--webhook-url",
        webhook,
        "--no-limits",
        "--log",
        str(calls_log(folder, provider)),
        "--closed-log",  # other users of this machine can reach the port, but not the file
    ]
    return [*argv, *(f"--{knob}={share}" for knob, share in MISBEHAVIOUR.get(provider, {}).items())]


def _gateway(port: int, probe_port: int) -> Process:
    return Process(
        name="gateway",
        argv=_pipelines("gateway"),
        env={"CHAT4ALL_GATEWAY_PORT": str(port), "CHAT4ALL_GATEWAY_PROBE_PORT": str(probe_port)},
        preload=["pipelines.gateway"],
        health=f"http://127.0.0.1:{probe_port}/health",
        url=f"http://127.0.0.1:{port}",
        parts={"webhooks": f"http://127.0.0.1:{port}", "probes": f"http://127.0.0.1:{probe_port}"},
        restarts=True,
    )


def kind_of(service: str) -> str:
    """The kind of worker of a service: `core` for `core` and for `core-2`, the second worker of that kind."""
    return service.partition("-")[0]


def _workers(numbers: Mapping[str, int]) -> list[Process]:
    return [
        _worker(kind, kind if number == 1 else f"{kind}-{number}")
        for kind in WORKERS
        for number in range(1, numbers.get(kind, 1) + 1)
    ]


def _worker(kind: str, name: str) -> Process:
    port, probe_port = free_port(), free_port()
    url, probes = (f"http://127.0.0.1:{each}" for each in (port, probe_port))
    return Process(
        name=name,
        argv=_pipelines("worker", kind),
        env={"CHAT4ALL_WEB_PORT": str(port), "CHAT4ALL_PROBE_PORT": str(probe_port)},
        preload=["pipelines.run_worker", *(f"pipelines.{stage}" for stage in WORKERS[kind])],
        health=f"{probes}/health",
        url=url,
        parts={"views": url, "probes": probes},
        restarts=True,
    )


def _whatsapp_secrets() -> dict[str, str]:
    return {
        "whatsapp_account": str(10**14 + secrets.randbelow(9 * 10**14)),
        "whatsapp_token": f"EAA{secrets.token_hex(24)}",
        "whatsapp_app_secrets": secrets.token_hex(16),
        "whatsapp_verify_token": secrets.token_urlsafe(16),
    }


def _telegram_secrets() -> dict[str, str]:
    return {
        "telegram_token": f"{10**9 + secrets.randbelow(9 * 10**9)}:{secrets.token_urlsafe(26)}",
        "telegram_webhook_secret": secrets.token_urlsafe(24),
    }


def _instagram_secrets() -> dict[str, str]:
    return {
        "instagram_account": str(17841 * 10**12 + secrets.randbelow(10**12)),
        "instagram_token": f"IGAA{secrets.token_hex(24)}",
        "instagram_app_secrets": secrets.token_hex(16),
        "instagram_verify_token": secrets.token_urlsafe(16),
    }


def _internal_secrets() -> dict[str, str]:
    # The simulator acts for the internal clients of all tenants.
    return {"internal_account": "app", "internal_tokens": f"{secrets.token_urlsafe(24)}=*:*"}


# Channels with a simulator in simulators/, and the random account and secrets for the simulator and our side.
SIMULATED: Mapping[str, Callable[[], dict[str, str]]] = {
    "whatsapp": _whatsapp_secrets,
    "telegram": _telegram_secrets,
    "instagram": _instagram_secrets,
    "internal": _internal_secrets,
}
