"""Three receivers as processes over one PostgreSQL database, behind a balancer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.acceptance import accept
from tests.faults.rolling import roll_under_load
from tests.postgres import Cluster


@pytest.mark.postgres
async def test_a_rolling_update_refuses_no_callback(postgres_url: str, tmp_path: Path) -> None:
    """All three are replaced one after another under load. Every callback is answered 200, and stored once.

    On a busy machine storing may take too long for one: then 503 asks the sender to repeat it.
    """
    callbacks = await roll_under_load(postgres_url, tmp_path, per_second=50)

    assert set(callbacks.answers) <= {"200", "503"}
    assert callbacks.answers["200"] == len(callbacks.acknowledged) > 300
    assert (callbacks.missing, callbacks.doubled) == (set(), set())


@pytest.mark.postgres
async def test_all_ends_right_while_everything_fails_once(postgres: Cluster, tmp_path: Path) -> None:
    """The conditions of `tests.faults.acceptance` hold for fewer tasks."""
    acceptance = await accept(postgres, tmp_path, tasks=400)

    assert acceptance.failed == [], acceptance.facts
