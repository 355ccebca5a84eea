"""The allowed callback hosts at 2captcha: our requests and readings against the sandbox's list.

Source: providers/README.md, "Form callbacks".
"""

from __future__ import annotations

import json

import aiohttp
import pytest

from client.provider_api.pingbacks import (
    EVERY_HOST,
    NotThisHostError,
    add_pingback,
    hosts_of,
    list_pingbacks,
    read_pingbacks,
    refusal_of_pingback,
    remove_pingback,
)
from client.providers import DIALECTS
from client.providers.dialect import Call
from client.providers.readings import Reading, Ready, Refused
from client.sandbox import Sandbox, SandboxSettings
from tests.client.sandbox.support import KEY, Catcher, ask

_DIALECT = DIALECTS["twocaptchav1"]


async def _said(sandbox: Sandbox, call: Call) -> Reading:
    async with (
        aiohttp.ClientSession(sandbox.url) as session,
        session.request(call.method, call.path, params=call.query) as answer,
    ):
        return read_pingbacks(_DIALECT, _DIALECT.parse_answer(await answer.read()))


async def test_a_host_is_added_listed_and_removed() -> None:
    """An added host is listed and called back. A removed host is neither."""
    settings = SandboxSettings(latency_seconds=(0.0, 0.0), registered_hosts=frozenset())
    async with Catcher() as catcher, Sandbox("twocaptchav1", settings) as sandbox:
        asked = {"key": KEY, "method": "hcaptcha", "pingback": catcher.url}
        added = await _said(sandbox, add_pingback(KEY, "127.0.0.1"))
        listed = await _said(sandbox, list_pingbacks(KEY))
        taken = await ask(sandbox, "/in.php", form=asked)
        await sandbox.sent_callbacks(1)
        removed = await _said(sandbox, remove_pingback(KEY, EVERY_HOST))
        empty = await _said(sandbox, list_pingbacks(KEY))
        refused = await ask(sandbox, "/in.php", form={**asked, "json": "1"})

    assert isinstance(added, Ready)
    assert isinstance(removed, Ready)
    assert isinstance(listed, Ready)
    assert isinstance(empty, Ready)
    assert (hosts_of(listed), hosts_of(empty)) == (("127.0.0.1",), ())
    assert (taken.body[:3], catcher.caught[0].form["id"]) == (b"OK|", taken.body[3:].decode())
    assert _DIALECT.refuses_callback_url(_DIALECT.read_create_task(json.loads(refused.body)).reading)


async def test_a_host_is_added_from_itself_only() -> None:
    """If the request comes from another address, the provider refuses it. That is an error of its own."""
    async with Sandbox("twocaptchav1") as sandbox:
        reading = await _said(sandbox, add_pingback(KEY, "example.com"))

    assert isinstance(reading, Refused)
    with pytest.raises(NotThisHostError):
        raise refusal_of_pingback("twocaptcha", reading)
