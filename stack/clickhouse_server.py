"""ClickHouse: the `clickhouse` server on PATH, else its engine (chdb) behind stack/clickhouse_front.py.

Enters: a folder. Leaves: a Service at http://default:<password>@127.0.0.1:<port>/default, with a password made for this folder. Guaranteed:
the usual HTTP client works with both; data are in the folder and survive a restart; started by root, it runs as `nobody`; SQL reaches no
file, no program and no other server (stack/clickhouse_rights.py).
"""

import hashlib
import secrets
import shutil
import sys
import urllib.request
from pathlib import Path

from schemas import private_files
from stack.clickhouse_rights import users
from stack.ports import answers, free_port
from stack.programs import own_code
from stack.service import Service, as_nobody

CONFIG = """\
<clickhouse>
  <logger><level>information</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <path>{folder}/data/</path>
  <tmp_path>{folder}/tmp/</tmp_path>
  <user_files_path>{folder}/data/user_files/</user_files_path>
  <format_schema_path>{folder}/data/format_schemas/</format_schema_path>
  <timezone>UTC</timezone>
  <mark_cache_size>67108864</mark_cache_size>
  <access_control_improvements><table_engines_require_grant>true</table_engines_require_grant></access_control_improvements>
  <user_directories><users_xml><path>{folder}/tmp/config.xml</path></users_xml></user_directories>
  {users}
</clickhouse>
"""


def service(folder: Path) -> Service:
    """ClickHouse with its data in `folder`, and the password of an earlier run."""
    folder = folder.resolve()
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    for each in (folder / "data", folder / "tmp"):
        private_files.make_folder(each)
    password = _password(folder)
    port = free_port()
    url = f"http://default:{password}@127.0.0.1:{port}/default"
    server = shutil.which("clickhouse")
    env = {"TZ": "UTC"}
    if server:
        hashed = f"<password_sha256_hex>{hashlib.sha256(password.encode()).hexdigest()}</password_sha256_hex>"
        text = CONFIG.format(port=port, folder=folder, users=users(hashed))
        config = folder / "tmp" / "config.xml"
        private_files.write(config, text)
        command = [server, "server", f"--config-file={config}"]
        rights = as_nobody(folder, Path(server).resolve().parent)
    else:
        command = [sys.executable, "-m", "stack.clickhouse_front", f"--port={port}", f"--folder={folder}/data"]
        env["CLICKHOUSE_PASSWORD"] = password  # in the environment, so that no process list shows it
        rights = as_nobody(folder, *own_code(), drops_itself=True)
        command += [f"--user={rights.user}"] if rights else []

    def probe() -> str:
        answers(port)
        ask = f"http://127.0.0.1:{port}/?query=SELECT%20version()"
        request = urllib.request.Request(ask, headers={"X-ClickHouse-User": "default", "X-ClickHouse-Key": password})
        with urllib.request.urlopen(request, timeout=2) as response:  # noqa: S310  # a loopback URL
            version = response.read().decode().strip()
        return str(version) if server else f"{version} (chdb)"

    return Service(
        name="clickhouse",
        folder=folder,
        url=url,
        steps=[command],
        probe=probe,
        settings={"clickhouse_url": url},
        env=env,
        unprivileged=rights,
    )


def _password(folder: Path) -> str:
    file = folder / "password"
    if not file.exists():
        private_files.write(file, secrets.token_hex(16))
    return file.read_text(encoding="ascii")
