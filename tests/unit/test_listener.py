"""Ports that cannot be opened, and the limit of open files."""

import socket
import subprocess
import sys

import pytest
from aiohttp import web
from pydantic import ValidationError

from pipelines.serving import listener
from pipelines.serving.middleware import GatewayMiddleware
from pipelines.serving.request_limits import DEFAULT
from schemas.settings import Settings, wrong

COUNT = """
import resource
from pipelines.serving.listener import files_for
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(files_for(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "printed"), [(256, 4096, "1000 1384"), (256, 600, "216 600"), (2000, 4096, "1000 2000")]
)
def test_the_limit_of_open_files_is_raised_as_far_as_possible(soft: int, hard: int, printed: str) -> None:
    code = COUNT.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == printed


async def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for serving in (
            listener.plain(web.Application(), "127.0.0.1", port),
            listener.bounded(
                web.Application(), GatewayMiddleware(DEFAULT, frozenset(), frozenset()), "127.0.0.1", port
            ),
        ):
            with pytest.raises(listener.CannotListen, match=f"cannot listen on 127.0.0.1:{port}"):
                async with serving:
                    pass


async def test_an_error_while_serving_is_not_reported_as_a_port_error() -> None:
    for serving in (
        listener.plain(web.Application(), "127.0.0.1", 0),
        listener.bounded(web.Application(), GatewayMiddleware(DEFAULT, frozenset(), frozenset()), "127.0.0.1", 0),
    ):
        with pytest.raises(TimeoutError):
            async with serving:
                raise TimeoutError


@pytest.mark.parametrize("name", ["gateway_port", "gateway_probe_port", "web_port", "probe_port"])
@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none_is_a_wrong_setting(name: str, port: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({name: port})
    assert wrong(caught.value).startswith(f"CHAT4ALL_{name.upper()}: ")
