"""Ports that cannot be had, and how many connections a process may have open."""

import socket
import subprocess
import sys

import pytest
from aiohttp import web

from pipelines.serving import listening
from pipelines.serving.bounds import DEFAULT
from pipelines.serving.front import Front

COUNT = """
import resource
from pipelines.serving.listening import files_for
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(files_for(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "told"), [(256, 4096, "1000 1384"), (256, 600, "216 600"), (2000, 4096, "1000 2000")]
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(soft: int, hard: int, told: str) -> None:
    code = COUNT.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == told


async def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for serving in (
            listening.plain(web.Application(), "127.0.0.1", port),
            listening.bounded(web.Application(), Front(DEFAULT, frozenset(), frozenset()), "127.0.0.1", port),
        ):
            with pytest.raises(listening.CannotListen, match=f"cannot listen on 127.0.0.1:{port}"):
                async with serving:
                    pass
