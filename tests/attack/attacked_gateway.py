"""The target of the attack: a gateway as a deployment runs it, with its own Kafka; also its memory and its log.

In: a folder. Out: a Target while the `with` lasts. Secrets are random for each run.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipelines import topics
from schemas.environment import foreign
from schemas.settings import Settings
from stack import kafka_server
from stack.ports import free_port
from stack.service import Child
from tests.support.engine_harness import await_true

ACCOUNT = "106540352242922"
LOOK_SECONDS = 0.05
START_SECONDS = 60.0


class Memory:
    """The resident memory of a process, sampled all the time."""

    def __init__(self, pid: int) -> None:
        self._statm = Path(f"/proc/{pid}/statm")
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._ended = threading.Event()
        self.most = self.now()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def now(self) -> float:
        """MiB."""
        return int(self._statm.read_text(encoding="ascii").split()[1]) * self._page / 2**20

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        with contextlib.suppress(OSError):  # it has ended; the verdict reports that
            while not self._ended.wait(LOOK_SECONDS):
                self.most = max(self.most, self.now())


@dataclass(slots=True)
class Target:
    """The gateway of this run."""

    port: int
    probe: str
    log: Path
    process: "subprocess.Popen[bytes]"
    app_secret: str
    secrets: list[str] = field(default_factory=list)

    def cpu_seconds(self) -> float:
        """CPU seconds of the process so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the gateway ended: {self.log.read_text(encoding='utf-8')[-500:]}")
        try:
            with urllib.request.urlopen(f"{self.probe}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def running(folder: Path) -> Iterator[Target]:
    broker = Child(kafka_server.service(folder / "kafka", heap="512m"))
    broker.start()
    try:
        broker.wait()
        topics.create(Settings.model_validate({**broker.service.settings, "partitions": 2}))
        with _gateway(folder, broker.service.url) as target:
            yield target
    finally:
        broker.stop()


@contextmanager
def _gateway(folder: Path, kafka_url: str) -> Iterator[Target]:
    port, probe = free_port(), free_port()
    made = {
        name: secrets.token_hex(16)
        for name in ("app_secrets", "verify_token", "token", "hook", "client", "tracker_keys")
    }
    environment = {
        "CHAT4ALL_KAFKA_URL": kafka_url,
        "CHAT4ALL_PARTITIONS": "2",
        "CHAT4ALL_LOG_FORMAT": "json",
        "CHAT4ALL_GATEWAY_PORT": str(port),
        "CHAT4ALL_GATEWAY_PROBE_PORT": str(probe),
        "CHAT4ALL_WHATSAPP_ACCOUNT": ACCOUNT,
        "CHAT4ALL_WHATSAPP_TOKEN": made["token"],
        "CHAT4ALL_WHATSAPP_APP_SECRETS": made["app_secrets"],
        "CHAT4ALL_WHATSAPP_VERIFY_TOKEN": made["verify_token"],
        "CHAT4ALL_TELEGRAM_TOKEN": f"4242:{made['token']}",
        "CHAT4ALL_TELEGRAM_WEBHOOK_SECRET": made["hook"],
        "CHAT4ALL_INTERNAL_ACCOUNT": "app",
        "CHAT4ALL_TRACKER_KEYS": made["tracker_keys"],
        "CHAT4ALL_INTERNAL_TOKENS": f"{made['client']}=default:ana",
    }
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "gateway"],
            stdout=output,
            stderr=output,
            env=foreign(environment),
        )
    target = Target(port, f"http://127.0.0.1:{probe}", log, process, made["app_secrets"], list(made.values()))
    try:
        await_true(target.is_ready, "the gateway to answer", START_SECONDS)
        yield target
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
