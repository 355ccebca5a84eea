"""Tickets and origins, with which pages in a browser may open streams."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from receiver.errors import CannotStartError, ReceiverError
from receiver.service.keys import Keys
from receiver.service.tickets import Tickets
from receiver.settings import ApiKey, load_settings
from tests.receiver.storage.stores import NOW, running_store
from tests.receiver.web.sockets import open_events, open_socket
from tests.support import READ_ONLY, SUBMIT_ONLY, RunningReceiver, running_receiver

PAGE = "https://app.example"
READER = ApiKey("reader", b"digest", frozenset({"read"}))


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with one allowed origin."""
    async with running_receiver(tmp_path / "receiver.db", allowed_origins=f"{PAGE}, https://other.example") as running:
        yield running


async def new_ticket(api: RunningReceiver) -> str:
    """Return a ticket, made with a key with the scope read."""
    answer = await api.send("POST", "/v1/tickets", key=READ_ONLY)
    assert answer.status == 201, answer.body
    return str(answer.json["ticket"])


async def test_a_ticket_lives_for_a_minute(api: RunningReceiver) -> None:
    """The response says until when a ticket is valid."""
    answer = await api.send("POST", "/v1/tickets", key=READ_ONLY, json={})

    left = datetime.fromisoformat(answer.json["endsAt"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    assert len(answer.json["ticket"]) >= 24


@pytest.mark.parametrize(
    ("key", "body", "status"), [(None, None, 401), (SUBMIT_ONLY, None, 403), (READ_ONLY, {"seconds": 3600}, 422)]
)
async def test_who_may_not_read_gets_no_ticket(
    api: RunningReceiver, key: str | None, body: object, status: int
) -> None:
    """A ticket needs a key with the scope read, and an empty body."""
    assert (await api.send("POST", "/v1/tickets", key=key, json=body)).status == status


async def test_a_ticket_opens_one_websocket(api: RunningReceiver) -> None:
    """A websocket uses its ticket up."""
    ticket = await new_ticket(api)
    async with open_socket(api, key=None, protocols=(f"ticket.{ticket}",), headers={"Origin": PAGE}) as socket:
        answer = await socket.ask(type="subscribe", id=1)

    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with open_socket(api, key=None, protocols=(f"ticket.{ticket}",)):
            pass
    assert (answer["type"], refused.value.status) == ("subscribed", 401)


async def test_a_ticket_opens_server_sent_events_until_its_end(api: RunningReceiver) -> None:
    """A ticket of server-sent events stays valid, because browsers reconnect with the same URL."""
    ticket = await new_ticket(api)

    for _ in range(2):
        async with open_events(api, key=None, ticket=ticket, headers={"Origin": PAGE}) as events:
            assert events.response.headers["Access-Control-Allow-Origin"] == PAGE
            assert events.response.headers["Vary"] == "Origin"
            assert (await events.next())[0] == "heartbeat"


async def test_a_wrong_ticket_is_refused(api: RunningReceiver) -> None:
    """A wrong ticket gets 401, also beside a valid one in the query."""
    async with open_events(api, key=None, ticket="nothing") as events:
        assert events.response.status == 401


@pytest.mark.parametrize("origin", ["https://app.example.evil", "http://app.example", "null", ""])
async def test_pages_of_other_origins_are_refused(api: RunningReceiver, origin: str) -> None:
    """A page of another origin gets 403 from both streams, even with a key."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with open_socket(api, headers={"Origin": origin}):
            pass
    async with open_events(api, headers={"Origin": origin}) as events:
        assert (refused.value.status, events.response.status) == (403, 403)
        assert "Access-Control-Allow-Origin" not in events.response.headers


async def test_a_page_that_may_read_is_told_why_not_now(api: RunningReceiver) -> None:
    """A problem has the headers without which a browser would hide it from the page."""
    async with open_events(api, key=None, ticket="nothing", headers={"Origin": PAGE}) as events:
        status, allowed = events.response.status, events.response.headers["Access-Control-Allow-Origin"]

    assert (status, allowed) == (401, PAGE)


async def test_the_receivers_own_origin_may(api: RunningReceiver) -> None:
    """The origin of the public URL is allowed. An origin equal to the Host header is not."""
    async with open_socket(api, headers={"Origin": api.url}) as socket:
        assert (await socket.ask(type="subscribe", id=1))["type"] == "subscribed"
    async with open_events(api, headers={"Origin": "http://evil.example", "Host": "evil.example"}) as events:
        assert events.response.status == 403


async def test_without_keys_pages_are_refused_as_well(tmp_path: Path) -> None:
    """A receiver without keys is closed to pages of other origins, even on its own machine."""
    async with running_receiver(tmp_path / "receiver.db", api_keys="", allow_anonymous=True) as api:
        async with open_events(api, key=None) as events:
            local = events.response.status
        async with open_events(api, key=None, headers={"Origin": "https://evil.example"}) as events:
            assert (local, events.response.status) == (200, 403)


@asynccontextmanager
async def two_receivers(database: Path | str) -> AsyncIterator[tuple[RunningReceiver, RunningReceiver]]:
    """Yield two receivers on one database."""
    async with running_receiver(database) as one, running_receiver(database) as other:
        yield one, other


async def status_of(api: RunningReceiver, ticket: str) -> int:
    """Open a websocket with a ticket. Return the status."""
    try:
        async with open_socket(api, key=None, protocols=(f"ticket.{ticket}",)):
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status


async def test_a_ticket_is_valid_at_every_receiver(database: Path | str) -> None:
    """A page may come to another receiver than its backend, with either kind of stream."""
    async with two_receivers(database) as (one, other):
        ticket = await new_ticket(one)
        async with open_events(other, key=None, ticket=ticket) as events:
            status = events.response.status
        opened = await status_of(other, ticket)
        again = await status_of(one, ticket)

    assert (status, opened, again) == (200, 101, 401)


async def test_of_websockets_at_two_receivers_one_uses_the_ticket(database: Path | str) -> None:
    """The others are refused, though all came at once."""
    async with two_receivers(database) as receivers:
        for _ in range(5):
            ticket = await new_ticket(receivers[0])
            async with asyncio.TaskGroup() as group:
                opened = [group.create_task(status_of(receiver, ticket)) for receiver in receivers * 2]
            assert sorted(opening.result() for opening in opened) == [101, 401, 401, 401]


async def test_a_ticket_outlives_its_receiver(database: Path | str) -> None:
    """After a restart, or the death of the receiver that made it, the page opens its stream."""
    async with running_receiver(database) as api:
        ticket = await new_ticket(api)
    async with running_receiver(database) as api:
        assert await status_of(api, ticket) == 101


@pytest.mark.sqlite
async def test_a_ticket_ends(tmp_path: Path) -> None:
    """After a minute a ticket is refused. With the next one nothing of it is kept."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        ticket = await new_ticket(api)
        with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection, connection:
            connection.execute("UPDATE ticket SET ends_at = ends_at - 60000000")
        status = await status_of(api, ticket)
        with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection, connection:
            connection.execute("UPDATE ticket SET ends_at = ends_at - 60000000")
        await new_ticket(api)
        with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection:
            left = connection.execute("SELECT count(*) FROM ticket").fetchone()

    assert (status, left) == (401, (1,))


async def test_a_key_has_so_many_tickets(database: Path | str) -> None:
    """At all receivers together. Others are refused until some are used up. Other keys are not affected."""
    async with running_store(database) as one, running_store(database) as other:
        keys = Keys(one, [READER], now=lambda: NOW, allows_anonymous=False)
        makers = [Tickets(store, keys) for store in (one, other)]
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(makers[number % 2].make(READER)) for number in range(1000)]
        with pytest.raises(ReceiverError) as refused:
            await makers[0].make(READER)
        await makers[0].make(replace(READER, name="other"))
        found = await makers[1].key_of(made[0].result(), is_used_up=True)
        await makers[0].make(READER)
        with pytest.raises(ReceiverError):
            await makers[1].make(READER)

    assert (refused.value.slug, found) == ("too-many-tickets", READER)


async def test_a_ticket_ends_with_its_key(database: Path | str) -> None:
    """A key that was revoked, or that may do something else now, opens no stream at any receiver."""
    async with running_store(database) as store:
        ring = Keys(store, [READER], now=lambda: NOW, allows_anonymous=False)
        ticket = await Tickets(store, ring).make(READER)
        changed = replace(READER, providers=frozenset({"capsolver"}))
        found = [
            await Tickets(store, Keys(store, given, now=lambda: NOW, allows_anonymous=False)).key_of(
                ticket, is_used_up=False
            )
            for given in ([READER], [changed], [])
        ]

    assert found == [READER, None, None]


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        ({"allowed_origins": "https://app.example:443"}, "https://app.example"),
        ({"allowed_origins": "http://app.example:80"}, "http://app.example"),
        ({"allowed_origins": "http://app.example:443"}, "http://app.example:443"),
        ({"public_url": "https://hooks.example:443/in"}, "https://hooks.example"),
    ],
)
async def test_a_port_that_goes_without_saying(tmp_path: Path, settings: dict[str, Any], origin: str) -> None:
    """Browsers leave the default port out of an origin, so a setting with it means the same origin."""
    async with (
        running_receiver(tmp_path / "receiver.db", **settings) as api,
        open_events(api, headers={"Origin": origin}) as events,
    ):
        assert events.response.status == 200


@pytest.mark.parametrize("origins", ["https://app.example/path", "app.example", "https://App.example", "*"])
def test_origins_that_are_none_are_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origins: str
) -> None:
    """The error names the variable and the expected value in one line."""
    monkeypatch.setenv("RECEIVER_ALLOWED_ORIGINS", origins)

    with pytest.raises(CannotStartError, match="RECEIVER_ALLOWED_ORIGINS: expected scheme://host"):
        load_settings(tmp_path)
