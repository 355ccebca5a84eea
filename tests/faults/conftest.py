"""Fixtures of the faults."""

from __future__ import annotations

import pytest

from tests.faults.disks import SlowDisk
from tests.tools import tool


@pytest.fixture
def slow_disk(tmp_path_factory: pytest.TempPathFactory) -> SlowDisk:
    """Return a disk to be made slow."""
    return SlowDisk(tmp_path_factory.mktemp("slow"), compiler=tool("gcc", package="gcc"))
