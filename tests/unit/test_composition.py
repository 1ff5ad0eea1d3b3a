"""The development stack as data: ports, secrets, and what the environment replaces."""

from pathlib import Path

import pytest

from cli.composition import MISBEHAVIOUR, SIMULATED, WORKERS, calls_log, compose
from loadgen.providers.__main__ import parser
from schemas.settings import Settings
from stack.plan import Plan
from stack.servers import SERVERS


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CHAT4ALL_{name.upper()}", raising=False)


def test_the_whole_stack_has_ports_of_its_own(tmp_path: Path) -> None:
    plan = compose(tmp_path)
    assert plan.servers == list(SERVERS)
    assert [process.name for process in plan.processes] == [*SIMULATED, "gateway", *WORKERS]
    assert len({process.url for process in plan.processes}) == len(plan.processes)
    assert {process.name for process in plan.processes if process.restarts} == {"gateway", *WORKERS}
    gateway = next(process for process in plan.processes if process.name == "gateway")
    assert f"http://127.0.0.1:{plan.settings['gateway_port']}" == gateway.url
    whatsapp, telegram = (process for process in plan.processes if process.name in {"whatsapp", "telegram"})
    assert whatsapp.argv[whatsapp.argv.index("--webhook-url") + 1] == f"{gateway.url}/webhooks/whatsapp"
    assert telegram.argv[telegram.argv.index("--log") + 1] == str(calls_log(tmp_path, "telegram"))
    assert plan.settings["whatsapp_url"] == whatsapp.url


def test_simulators_misbehave_by_knobs_they_have(tmp_path: Path) -> None:
    for process in compose(tmp_path).processes[: len(SIMULATED)]:
        chosen = vars(parser().parse_args(process.argv[3:]))
        for knob, share in MISBEHAVIOUR.get(process.name, {}).items():
            assert chosen[knob.replace("-", "_")] == share


def test_every_setting_of_the_plan_is_one_the_product_knows(tmp_path: Path) -> None:
    settings = compose(tmp_path).settings
    assert set(settings) <= set(Settings.model_fields)
    known = Settings.model_validate(settings)
    assert known.telegram_token.get_secret_value().split(":")[0].isdigit()
    assert known.partitions == 4


def test_secrets_differ_between_stacks_and_stay_off_command_lines(tmp_path: Path) -> None:
    one, two = compose(tmp_path), compose(tmp_path)
    names = [name for name in one.settings if name.endswith(("token", "tokens", "secret", "secrets"))]
    assert len(names) == 9
    for name in names:
        assert one.settings[name] != two.settings[name]
        assert not any(one.settings[name] in argument for process in one.processes for argument in process.argv)


def test_what_the_environment_sets_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", "postgresql://somewhere/else")
    monkeypatch.setenv("CHAT4ALL_WHATSAPP_URL", "https://graph.facebook.com")
    monkeypatch.setenv("CHAT4ALL_GATEWAY_PORT", "8081")
    plan = compose(tmp_path)
    assert "postgres" not in plan.servers
    assert plan.replaced == {"postgres": "postgresql://somewhere/else"}
    assert "whatsapp" not in [process.name for process in plan.processes]
    assert "whatsapp_token" not in plan.settings  # the real API wants the user's own
    assert plan.settings["gateway_port"] == 8081


def test_a_plan_survives_the_pipe_to_its_supervisor(tmp_path: Path) -> None:
    plan = compose(tmp_path, keep_data=True)
    assert Plan.from_json(plan.to_json()) == plan
