"""ClickHouse: the `clickhouse` server found on PATH, else the engine itself (chdb) behind stack/clickhouse_front.py.

Enters: a folder. Leaves: a Service at http://default:@127.0.0.1:<port>/default. Guaranteed: the ordinary HTTP client works with
either; data live in the folder and survive a restart.
"""

import shutil
import sys
import urllib.request
from pathlib import Path

from stack.ports import answers, free_port
from stack.service import Service

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
  <user_directories><users_xml><path>{folder}/config.xml</path></users_xml></user_directories>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users><default>
    <password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>
    <access_management>1</access_management>
  </default></users>
</clickhouse>
"""


def service(folder: Path) -> Service:
    """ClickHouse with its data in `folder`."""
    folder = folder.resolve()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    port = free_port()
    ask_version = f"http://127.0.0.1:{port}/?query=SELECT%20version()"
    url = f"http://default:@127.0.0.1:{port}/default"
    server = shutil.which("clickhouse")
    if server:
        (folder / "config.xml").write_text(CONFIG.format(port=port, folder=folder), encoding="utf-8")
        command = [server, "server", f"--config-file={folder}/config.xml"]
    else:
        command = [sys.executable, "-m", "stack.clickhouse_front", f"--port={port}", f"--folder={folder}/data"]

    def probe() -> str:
        answers(port)
        with urllib.request.urlopen(ask_version, timeout=2) as response:
            version = response.read().decode().strip()
        return str(version) if server else f"{version} (chdb)"

    return Service(
        name="clickhouse",
        folder=folder,
        url=url,
        steps=[command],
        probe=probe,
        settings={"clickhouse_url": url},
        env={"TZ": "UTC"},
    )
