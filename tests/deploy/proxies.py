"""The real Caddy and nginx with the files of deploy/proxies, and with certificates of an authority of our own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.deploy.files import CADDYFILE, NGINX
from tests.receiver.web.sockets import Events, Socket
from tests.support import Answer, Api, eventually, free_port
from tests.tools import tool

__all__ = ["HOST", "PROXIES", "Proxied", "running_proxy"]

HOST = "callbacks.example.org"
PROXIES = ("caddy", "nginx")

_ENDING_SECONDS = 5.0


@dataclass
class Proxied(Api):
    """Requests by TLS to a receiver behind a proxy. `plain_url` is the address of its port 80."""

    url: str
    plain_url: str
    session: aiohttp.ClientSession
    context: ssl.SSLContext
    folder: Path

    def __post_init__(self) -> None:
        """Let all requests take the session that knows the name of the host and its authority."""
        super().__init__(self.url, self.session)

    def logged(self) -> str:
        """Return everything that the proxy has written: its logs, and its standard output and error."""
        return "".join(path.read_text("utf-8", "replace") for path in sorted(self.folder.rglob("*.log")))

    async def call_back(self, url: str, *, host: str = HOST, **fields: Any) -> Answer:
        """Deliver an answer with this Host header."""
        body = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}, **fields}
        return await self.send("POST", url, key=None, json=body, headers={"Host": host})

    @asynccontextmanager
    async def sent_raw(self, request: bytes) -> AsyncIterator[asyncio.WriteTransport]:
        """Yield the connection, by TLS, on which these bytes were sent."""
        _, writer = await asyncio.open_connection(
            "127.0.0.1", urlsplit(self.url).port, ssl=self.context, server_hostname=HOST
        )
        try:
            writer.write(request)
            await writer.drain()
            yield writer.transport
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[Socket]:
        """Yield a websocket."""
        async with self.session.ws_connect(f"{self.url}/v1/subscribe", headers=self.authorization) as ws:
            yield Socket(ws)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Events]:
        """Yield a stream of server-sent events."""
        async with self.session.get(f"{self.url}/v1/results/stream", headers=self.authorization) as response:
            events = Events(response)
            await events.start()
            yield events


class _Loopback(AbstractResolver):
    """Finds every host on this machine."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        """Return the address, whatever the host is called."""
        found = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        return [ResolveResult(hostname=host, host=self._address, port=port, family=found, proto=0, flags=0)]

    async def close(self) -> None:
        """Release nothing."""


@asynccontextmanager
async def running_proxy(
    name: str, receiver_ports: int | Sequence[int], folder: Path, *, client: str = "127.0.0.1"
) -> AsyncIterator[Proxied]:
    """Yield a proxy in front of a receiver on loopback, or of several ones.

    Its clients come from the address `client`, or from ::1.
    """
    receivers = [
        f"127.0.0.1:{port}" for port in ([receiver_ports] if isinstance(receiver_ports, int) else receiver_ports)
    ]
    context = _certified(folder)
    own = "::1" if client == "::1" else "127.0.0.1"
    connector = aiohttp.TCPConnector(
        limit=0,
        ssl=context,
        resolver=_Loopback(own),
        local_addr=(client, 0),
    )
    async with AsyncExitStack() as stack:
        ports = {scheme: _held_port(stack) for scheme in ("http", "https")}
        command, environment = {"caddy": _caddy, "nginx": _nginx}[name](folder, ports, receivers)
        output = stack.enter_context((folder / "process.log").open("wb"))
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=os.environ | environment, stdout=output, stderr=output
        )
        stack.push_async_callback(_end, process)
        await eventually(lambda: all(_listens(own, port) for port in ports.values()) or process.returncode is not None)
        assert process.returncode is None, (folder / "process.log").read_text()
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        plain_url, url = (f"{scheme}://{HOST}:{port}" for scheme, port in ports.items())
        yield Proxied(url, plain_url, session, context, folder)


def _held_port(stack: AsyncExitStack) -> int:
    """Return a port that is free on 127.0.0.1 and on ::1, and keep it free. Another connection may have one of both."""
    while True:
        port = free_port()
        holder = stack.enter_context(socket.socket(socket.AF_INET6))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("::1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                pytest.skip(f"this machine has no IPv6 on loopback ({error.strerror})")
        else:
            return port


def _certified(folder: Path) -> ssl.SSLContext:
    """Make the folder with a certificate of the host and its key. Return what trusts its authority."""
    folder.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "chain.pem", append=number > 0)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(_ENDING_SECONDS):
                await process.wait()
        except TimeoutError:
            # Caddy waits for open streams.
            process.kill()
            await process.wait()


def _listens(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        return probe.connect_ex((address, port)) == 0


def _caddy(folder: Path, ports: Mapping[str, int], receivers: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    own = f"admin off\n\tdefault_bind 127.0.0.1 ::1\n\thttp_port {ports['http']}\n\thttps_port {ports['https']}"
    rendered = _replaced(
        CADDYFILE,
        {
            "\n{\n": f"\n{{\n\t{own}\n",
            f":{HOST}}}, https:// {{\n": f":{HOST}}}, https:// {{\n\ttls chain.pem key.pem\n",
        },
    )
    (folder / "Caddyfile").write_text(rendered)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [tool("caddy", package="caddy"), "run", "--adapter", "caddyfile", "--config", "Caddyfile"]
    balance = "one" if len(receivers) == 1 else "several"
    return command, home | {"CALLBACK_RECEIVER": " ".join(receivers), "CALLBACK_BALANCE": balance}


def _nginx(folder: Path, ports: Mapping[str, int], receivers: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    rendered = _replaced(
        NGINX,
        {
            "server 127.0.0.1:8080;": "\n    ".join(f"server {receiver};" for receiver in receivers),
            "listen 80 ": f"listen 127.0.0.1:{ports['http']} ",
            "listen [::]:80 ": f"listen [::1]:{ports['http']} ",
            "listen 443 ": f"listen 127.0.0.1:{ports['https']} ",
            "listen [::]:443 ": f"listen [::1]:{ports['https']} ",
            f"/etc/letsencrypt/live/{HOST}/fullchain.pem": f"{folder}/chain.pem",
            f"/etc/letsencrypt/live/{HOST}/privkey.pem": f"{folder}/key.pem",
            "/var/log/nginx/": f"{folder}/",
        },
    )
    (folder / "callback-receiver.conf").write_text(rendered)
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # As in Debian's nginx.conf, where another server's log is the default.
    (folder / "nginx.conf").write_text(
        f"""{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
{temporary}
    include {folder}/callback-receiver.conf;
}}
"""
    )
    return [tool("nginx", package="nginx"), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"], {}


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    """Return a file of deploy/ with the ports and paths of a test. Each part must be there once."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text
