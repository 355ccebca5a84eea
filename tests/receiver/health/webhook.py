"""A webhook on loopback for notices, with scripted answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["TOPIC", "Webhook", "running_webhook"]

TOPIC = "topic-hunter2-hunter2"
"""The path of the webhook. Only its owner knows it."""


@dataclass
class Webhook:
    """The messages that came. `statuses` are the next answers; then every answer is 200."""

    port: int = 0
    statuses: list[int] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its URL for Apprise, with a user and a password."""
        return f"json://operator:pass-hunter2@127.0.0.1:{self.port}/{TOPIC}?cto=5&rto=5"


@asynccontextmanager
async def running_webhook() -> AsyncIterator[Webhook]:
    """Yield a webhook on a free port."""
    webhook = Webhook()

    async def take(request: web.Request) -> web.Response:
        message = await request.json()
        status = webhook.statuses.pop(0) if webhook.statuses else 200
        if status == 200:
            webhook.messages.append(message)
        return web.Response(status=status, text=f"{TOPIC} is not yours")

    app = web.Application()
    app.router.add_post(f"/{TOPIC}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        webhook.port = runner.addresses[0][1]
        yield webhook
    finally:
        await runner.cleanup()
