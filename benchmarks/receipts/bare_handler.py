"""`python -m benchmarks.receipts.bare_handler PORT SECRET`: an aiohttp server that verifies the signature of a webhook.

It does nothing else: it is what the gateway is compared with. Its secret is made up for the benchmark.
"""

import asyncio
import hashlib
import hmac
import sys

from aiohttp import web

from benchmarks.receipts.webhooks_posted import PATH


def application(secret: bytes) -> web.Application:
    async def verify(request: web.Request) -> web.Response:
        body = await request.read()
        expected = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, request.headers.get("X-Hub-Signature-256", "")):
            return web.Response(status=401)
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_post(PATH, verify)
    return app


async def main() -> None:
    runner = web.AppRunner(application(sys.argv[2].encode()), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
