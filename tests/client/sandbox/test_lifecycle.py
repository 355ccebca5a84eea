"""A sandbox starts and stops cleanly, and its ids never repeat."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from uuid import UUID

import aiohttp
import pytest

from client.errors import BadArgumentError
from client.sandbox import Sandbox, SandboxSettings
from tests.client.sandbox.support import IMAGE, NOW, TOKEN, Catcher, create_task, get_task_result, ordered
from tests.support import eventually


async def test_ids_do_not_repeat_over_restarts() -> None:
    """Ids are UUIDs. No other run gives them out, and a new run does not know them."""
    created = []
    for _ in range(3):
        async with Sandbox("capsolver", NOW) as sandbox:
            created += [await create_task(sandbox, TOKEN) for _ in range(20)]
            unknown = await get_task_result(sandbox, created[0])

    assert len({UUID(reply.json["taskId"]) for reply in created}) == 60
    assert unknown.json["errorCode"] == "ERROR_TASKID_INVALID"


async def test_leaving_drops_what_waits() -> None:
    """Leaving gives up waiting and running callbacks at once, and no task is left."""
    before = asyncio.all_tasks()
    patient = SandboxSettings(callback_timeout_seconds=60.0)
    async with Catcher(is_silent=True) as catcher, asyncio.timeout(30), Sandbox("capsolver", patient) as sandbox:
        for number, fault in enumerate(("late", "reordered", None)):
            await create_task(sandbox, ordered(TOKEN, number, callback=fault), callback_url=catcher.url)
        await create_task(sandbox, ordered(TOKEN, 9, latencySeconds=60), callback_url=catcher.url)
        await eventually(lambda: len(catcher.caught) == 1)

    assert asyncio.all_tasks() == before


async def test_leaving_does_not_wait_for_synchronous_tasks() -> None:
    """An unanswered createTask call is cut off at the end of the sandbox."""
    slow = SandboxSettings(latency_seconds=(60.0, 60.0))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group, Sandbox("capsolver", slow) as sandbox:
        calling = group.create_task(_disconnected(sandbox))
        await eventually(lambda: sandbox.stats.tasks_made == 1)

    assert calling.result()


async def _disconnected(sandbox: Sandbox) -> bool:
    try:
        await create_task(sandbox, IMAGE)
    except aiohttp.ClientError:
        return True
    return False


async def test_nothing_listens_afterwards() -> None:
    """After leaving, nobody listens at the address."""
    async with Sandbox("capsolver") as sandbox:
        url = sandbox.url

    assert url.startswith("http://127.0.0.1:")
    with pytest.raises(aiohttp.ClientConnectorError):
        await create_task(sandbox, TOKEN)


async def test_an_error_inside_comes_out_as_it_is() -> None:
    """An error inside the context is not wrapped, and the sandbox is closed."""
    with pytest.raises(ZeroDivisionError):
        async with Sandbox("capsolver"):
            raise ZeroDivisionError


async def test_a_port_that_is_taken() -> None:
    """A taken port is an OSError, and nothing is left behind."""
    before = asyncio.all_tasks()
    async with Sandbox("capsolver") as sandbox:
        with pytest.raises(OSError, match="Address already in use"):
            async with Sandbox("onecaptcha", port=int(sandbox.url.rpartition(":")[2])):
                pass

    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_comes_as_it_ends(turns: int) -> None:
    """A connection is closed however few turns of the event loop before the end it came (cpython#109564)."""
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        async with Sandbox("capsolver") as sandbox:
            # It blocks: so the event loop sees the connection in the next turn, and not before.
            peer.connect(("127.0.0.1", int(sandbox.url.rpartition(":")[2])))
            peer.setblocking(False)
            for _ in range(turns):
                await asyncio.sleep(0)

        async with asyncio.timeout(30):
            with suppress(ConnectionResetError):
                assert await loop.sock_recv(peer, 1) == b""


async def test_a_sandbox_that_was_not_entered() -> None:
    """Before it is entered, a sandbox has no callbacks to wait for."""
    with pytest.raises(RuntimeError, match="async with"):
        await Sandbox("capsolver").sent_callbacks()


def test_a_sandbox_of_an_unknown_dialect() -> None:
    """An unknown dialect is an error with a list of all dialects."""
    with pytest.raises(BadArgumentError, match="'twocaptcher': expected one of"):
        Sandbox("twocaptcher")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"latency_seconds": (2.0, 1.0)}, "latency"),
        ({"latency_seconds": (0.0, float("inf"))}, "latency"),
        ({"balance": float("nan")}, "balance"),
        ({"cost": -1.0}, "cost"),
        ({"reorder_seconds": -1.0}, "reorder_seconds"),
        ({"callback_timeout_seconds": 0.0}, "callback_timeout_seconds"),
        ({"error_status": 99}, "error_status"),
        ({"client_keys": frozenset({""})}, "client_keys"),
        ({"account_webhook_url": "ftp://example.com"}, "account_webhook_url"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, object], named: str) -> None:
    """A setting out of its range is an error with its name."""
    with pytest.raises(BadArgumentError, match=f"^{named}"):
        SandboxSettings(**fields)  # type: ignore[arg-type]  # wrong on purpose


def test_the_status_of_errors_is_documented_for_capsolver() -> None:
    """CapSolver documents the HTTP status of its errors, so it cannot be chosen."""
    with pytest.raises(BadArgumentError, match=r"^error_status: "):
        Sandbox("capsolver", SandboxSettings(error_status=200))
