"""The development stack as data: ports, secrets, and what the environment replaces."""

import argparse
from pathlib import Path

import pytest

from cli.dev_stack import MISBEHAVIOUR, OPTIONAL, SIMULATED, calls_log, compose
from pipelines.kafka_acls import rules
from pipelines.stages import BUILDERS, WORKERS
from schemas.settings import Settings
from simulators.__main__ import parser, together
from stack.plan import StackPlan
from stack.servers import SERVERS


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CHAT4ALL_{name.upper()}", raising=False)


def simulators(plan: StackPlan) -> list[argparse.Namespace]:
    """The options of each simulator, as their process parses them."""
    process = next(process for process in plan.processes if process.name == "simulators")
    return [parser().parse_args(arguments) for arguments in together(process.argv[3:])]


def test_the_whole_stack_has_ports_of_its_own(tmp_path: Path) -> None:
    plan = compose(tmp_path)
    assert plan.servers == ["kafka", "postgres", "clickhouse"]
    assert [process.name for process in plan.processes] == ["simulators", "gateway", *WORKERS]
    assert {process.name for process in plan.processes if process.restarts} == {"gateway", *WORKERS}
    gateway = next(process for process in plan.processes if process.name == "gateway")
    assert f"http://127.0.0.1:{plan.settings['gateway_port']}" == gateway.url
    parts = plan.processes[0].parts
    assert list(parts) == list(SIMULATED)
    urls = [*parts.values(), gateway.health.removesuffix("/health"), *(process.url for process in plan.processes[1:])]
    assert len(set(urls)) == len(SIMULATED) + 2 + len(WORKERS)
    for simulator in simulators(plan):
        assert simulator.webhook_url == f"{gateway.url}/webhooks/{simulator.provider}"
        assert simulator.log == calls_log(tmp_path, simulator.provider)
        assert simulator.closed_log  # a process that can reach the port must not read the recipients
        assert parts[simulator.provider] == f"http://127.0.0.1:{simulator.port}"
    assert plan.settings["whatsapp_url"] == parts["whatsapp"]
    assert plan.processes[0].health.startswith(list(parts.values())[-1])  # the one that listens last


def test_a_server_that_nothing_uses_starts_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose(tmp_path, extra=["s3"]).servers == ["kafka", "postgres", "clickhouse", "s3"]
    assert compose(tmp_path, extra=OPTIONAL).servers == list(SERVERS)
    monkeypatch.setenv("CHAT4ALL_VALKEY_URL", "redis://somewhere/0")
    plan = compose(tmp_path, extra=["valkey"])
    assert "valkey" not in plan.servers
    assert plan.replaced == {"valkey": "redis://somewhere/0"}


def test_a_polled_bot_has_no_webhook_and_every_command_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT4ALL_TELEGRAM_POLLING", "true")
    plan = compose(tmp_path)
    assert {each.provider for each in simulators(plan) if not each.webhook_url} == {"telegram"}
    assert Settings.model_validate(plan.settings).telegram_polling


def test_simulators_misbehave_by_knobs_they_have(tmp_path: Path) -> None:
    for simulator in simulators(compose(tmp_path)):
        for knob, share in MISBEHAVIOUR.get(simulator.provider, {}).items():
            assert vars(simulator)[knob.replace("-", "_")] == share


def test_every_setting_of_the_plan_is_one_the_product_knows(tmp_path: Path) -> None:
    settings = compose(tmp_path).settings
    assert set(settings) <= set(Settings.model_fields)
    secured = compose(tmp_path, secure=True).settings
    assert set(secured) - set(settings) == {"kafka_user", "kafka_password_file"}
    known = Settings.model_validate(settings)
    assert known.telegram_token.get_secret_value().split(":")[0].isdigit()
    assert known.partitions == 4


def test_secrets_differ_between_stacks_and_stay_off_command_lines(tmp_path: Path) -> None:
    one, two = compose(tmp_path), compose(tmp_path)
    names = [name for name in one.settings if name.endswith(("token", "tokens", "secret", "secrets", "keys"))]
    assert len(names) == 11
    for name in names:
        assert one.settings[name] != two.settings[name]
        assert not any(
            one.settings[name].split("=")[0] in argument for process in one.processes for argument in process.argv
        )


def test_what_the_environment_sets_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", "postgresql://somewhere/else")
    monkeypatch.setenv("CHAT4ALL_WHATSAPP_URL", "https://graph.facebook.com")
    monkeypatch.setenv("CHAT4ALL_GATEWAY_PORT", "8081")
    plan = compose(tmp_path)
    assert "postgres" not in plan.servers
    assert plan.replaced == {"postgres": "postgresql://somewhere/else"}
    assert [simulator.provider for simulator in simulators(plan)] == ["telegram", "instagram", "internal"]
    assert "whatsapp" not in plan.processes[0].parts
    assert "whatsapp_token" not in plan.settings  # the real API needs the user's own token
    assert plan.settings["gateway_port"] == 8081


def test_whoever_asks_the_stack_reaches_a_replaced_kafka_as_the_stack_does(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of-this-kafka-alone\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "URL": "kafka.example:9093",
            "SECURITY_PROTOCOL": "SASL_SSL",
            "SASL_MECHANISM": "SCRAM-SHA-512",
            "USER": "me",
            "PASSWORD_FILE": str(tmp_path / "password"),
        }.items():
            patch.setenv(f"CHAT4ALL_KAFKA_{name}", value)
        settings = compose(tmp_path).settings
    known = Settings.model_validate(settings).kafka  # in another shell
    assert (known.url, known.protocol, known.mechanism) == ("kafka.example:9093", "SASL_SSL", "SCRAM-SHA-512")
    assert (known.user, known.password) == ("me", "of-this-kafka-alone")


def test_no_simulator_runs_when_all_providers_are_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in SIMULATED:
        monkeypatch.setenv(
            f"CHAT4ALL_{provider}_{'account' if provider == 'internal' else 'url'}".upper(), "http://real"
        )
    assert [process.name for process in compose(tmp_path).processes] == ["gateway", *WORKERS]


def test_a_plan_survives_the_pipe_to_its_supervisor(tmp_path: Path) -> None:
    plan = compose(tmp_path, keep_data=True)
    assert StackPlan.from_json(plan.to_json()) == plan


def test_the_workers_of_a_plan_preload_every_stage(tmp_path: Path) -> None:
    preloaded = {name for process in compose(tmp_path).processes for name in process.preload}
    assert {f"pipelines.{stage}" for stage in BUILDERS} <= preloaded


def test_a_kind_may_have_several_workers(tmp_path: Path) -> None:
    workers = [p for p in compose(tmp_path, workers={"core": 2}).processes if p.restarts and p.name != "gateway"]
    assert [process.name for process in workers] == ["core", "core-2", "sinks"]
    assert [process.argv[-2:] for process in workers] == [["worker", "core"], ["worker", "core"], ["worker", "sinks"]]
    assert len({process.url for process in workers}) == 3


def test_a_secure_stack_has_a_user_for_each_kind_of_process(tmp_path: Path) -> None:
    ordinary, plan = compose(tmp_path), compose(tmp_path, secure=True, workers={"core": 2})
    assert (ordinary.locks, ordinary.access, plan.locks) == ("password", {}, "secured")
    users = {each.name: each.env["CHAT4ALL_KAFKA_USER"] for each in (*plan.prepare, *plan.processes)}
    assert users == {
        "prepare": "prepare",
        "simulators": "clients",
        "gateway": "gateway",
        "core": "core",
        "core-2": "core",
        "sinks": "sinks",
    }
    assert {*users.values(), plan.settings["kafka_user"], "operator"} == set(plan.access) == set(rules())
    assert StackPlan.from_json(plan.to_json()) == plan
    assert not any("CHAT4ALL_KAFKA_USER" in each.env for each in ordinary.processes)


def test_a_kafka_that_exists_keeps_its_own_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", "broker:9092")
    plan = compose(tmp_path, secure=True)
    assert plan.access == {}
    assert not any("CHAT4ALL_KAFKA_USER" in each.env for each in plan.processes)
    assert "kafka_user" not in plan.settings
