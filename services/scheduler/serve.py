"""Serves the API until SIGTERM, without a request that fails for it: `python -m scheduler.serve --port 8000`.

uvicorn closes connections that are kept alive and idle at once, also one on which a request is on its way. Here they
are told to close with the next answer, and have a second for that; new ones are refused meanwhile.
"""

import argparse
import asyncio
import socket
import sys

import uvicorn

LAST_REQUESTS_SECONDS = 1.0


class Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self.server_state.default_headers.append((b"connection", b"close"))
        until = asyncio.get_running_loop().time() + LAST_REQUESTS_SECONDS
        while self.server_state.connections and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scheduler.serve", description="Serve the scheduler's API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--drain-seconds", type=int, default=20, help="for requests that are under way on SIGTERM")
    given = parser.parse_args()
    config = uvicorn.Config(
        "scheduler.app:create_app",
        factory=True,
        host=given.host,
        port=given.port,
        access_log=False,
        timeout_graceful_shutdown=given.drain_seconds,
    )
    server = Server(config)
    server.run()
    if not server.started:
        sys.exit(3)  # as uvicorn does; why has been logged


if __name__ == "__main__":
    main()
