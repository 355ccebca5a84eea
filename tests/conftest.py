"""Fixtures for every test: none finds the log as another one left it, and none holds its ports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support import release_ports

# On a busy machine every example is slow at times; that says nothing of the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    """Commands that run inside the test process configure the log of all of it."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def free_ports() -> Iterator[None]:
    """Free the ports that a test kept."""
    yield
    release_ports()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two stores on one file wait for each other as long as a busy machine needs."""
    monkeypatch.setattr("receiver.storage.sqlite.database._BUSY_TIMEOUT_SECONDS", 60.0)
