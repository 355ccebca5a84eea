"""A receiver under every known attack at once serves as before after the attacks."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from tests.faults.attackers import ATTACKS
from tests.faults.attacks import start_attacker
from tests.support import Api, free_port, receiver_process

SECONDS = 1.0


async def test_all_attacks_at_once_leave_the_receiver_as_it_was(tmp_path: Path) -> None:
    """Every attack runs to its end; afterwards a callback is acknowledged and read, and the receiver stops as usual."""
    port = free_port()
    async with (
        receiver_process(tmp_path / "receiver.db", port=port) as receiver,
        aiohttp.ClientSession() as session,
    ):
        api = Api(receiver.url, session)
        registered = await api.register()
        attackers = [await start_attacker(name, receiver.url, SECONDS) for name in ATTACKS]

        codes = [await attacker.wait() for attacker in attackers]
        delivered = await api.call_back(registered["callbackUrl"])
        task = await api.task(registered["ref"])
        code = await receiver.stop()

    assert codes == [0] * len(ATTACKS)
    assert (delivered.status, task["status"], code) == (200, "ready", 0)
