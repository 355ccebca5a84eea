"""A receiver under every known attack at once serves as before after the attacks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tests.faults.attackers import ATTACKS
from tests.faults.attacks import answers_to, open_files, start_attacker
from tests.support import Api, eventually, free_port, receiver_process

SECONDS = 4.0


async def test_all_attacks_at_once_leave_the_receiver_as_it_was(tmp_path: Path) -> None:
    """Callbacks are acknowledged meanwhile and afterwards. Files are closed, and the receiver stops as usual."""
    # A test of its own runs schemathesis to its end. Two processes, because some attacks compute for a second first.
    names = [name for name in ATTACKS if name != "schemathesis"]
    groups = [",".join(names[::2]), ",".join(names[1::2])]
    port = free_port()
    async with (
        receiver_process(tmp_path / "receiver.db", port=port) as receiver,
        aiohttp.ClientSession() as session,
    ):
        api = Api(receiver.url, session)
        urls = [(await api.register())["callbackUrl"] for _ in range(10)]
        last = await api.register()
        files = open_files(receiver.process)

        attackers = [await start_attacker(group, receiver.url, SECONDS) for group in groups]
        async with asyncio.TaskGroup() as tasks:
            for attacker in attackers:
                tasks.create_task(answers_to(attacker))
            meanwhile = []
            for url in urls:
                meanwhile.append((await api.call_back(url)).status)
                await asyncio.sleep(SECONDS / len(urls))
        delivered = await api.call_back(last["callbackUrl"])
        task = await api.task(last["ref"])
        await eventually(lambda: open_files(receiver.process) <= files)
        code = await receiver.stop()

    assert set(meanwhile) == {200}
    assert (delivered.status, task["status"], code) == (200, "ready", 0)
