"""Fixtures of the faults."""

from __future__ import annotations

import pytest

from tests.faults.machine import Machine
from tests.tools import tool


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Return a machine for processes, without a fault at first."""
    return Machine(tmp_path_factory.mktemp("machine"), compiler=tool("gcc", package="gcc"))
