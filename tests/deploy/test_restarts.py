"""Restarts of a receiver behind the real proxies, with the socket that a service manager holds."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.proxies import PROXIES, running_proxy
from tests.faults.commands import run_command
from tests.faults.restarts import Callbacks
from tests.support import API_KEYS, Api, ReceiverProcess, receiver_process

RESTARTS = 3
PAUSE_SECONDS = 0.01


@pytest.mark.parametrize("name", PROXIES)
async def test_a_restart_behind_a_proxy_loses_no_callback(tmp_path: Path, name: str) -> None:
    """Each callback is acknowledged and stored once. The proxy has a new connection to the receiver for each."""
    callbacks = Callbacks()
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        port = listener.getsockname()[1]
        proxied = await stack.enter_async_context(running_proxy(name, port, tmp_path / "proxy"))

        async def start() -> ReceiverProcess:
            return await stack.enter_async_context(
                receiver_process(tmp_path / "receiver.db", port=port, listener=listener, public_url=proxied.url)
            )

        receiver = await start()
        made = await run_command(tmp_path, "callback-url", "capsolver", API_KEYS=API_KEYS, PUBLIC_URL=proxied.url)
        is_over = asyncio.Event()

        async def send() -> None:
            async with asyncio.TaskGroup() as sends:
                number = 0
                while not is_over.is_set():
                    sends.create_task(callbacks.send(proxied.session, made.out.strip(), f"task-{number}"))
                    number += 1
                    await asyncio.sleep(PAUSE_SECONDS)

        async with asyncio.TaskGroup() as sender:
            sender.create_task(send())
            for _ in range(RESTARTS):
                await asyncio.sleep(1)
                await receiver.stop()
                receiver = await start()
            await asyncio.sleep(1)
            is_over.set()
        async with aiohttp.ClientSession() as session:
            await callbacks.compare(Api(receiver.url, session))

    assert set(callbacks.answers) == {"200"}, callbacks.answers
    assert (callbacks.missing, callbacks.doubled) == (set(), set())
