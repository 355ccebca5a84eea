"""Fixtures for every test: a fresh log at its start, and its ports released at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support import release_ports

# On a busy machine every example is slow at times, without a fault of the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    """Reset the log: a command inside the test process configures it for the whole process."""
    structlog.reset_defaults()
    *processors, _ = structlog.get_config()["processors"]
    # By default a traceback shows the values of all locals, which takes seconds for a transaction.
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, renderer])
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def free_ports() -> Iterator[None]:
    """Release the ports of a test."""
    yield
    release_ports()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no receiver of a test refuse reads because a busy machine is late. Tests of overload override this."""
    monkeypatch.setattr("receiver.web.edge.overload._LATE_SECONDS", 60.0)
    monkeypatch.setattr("receiver.storage.lateness._HURRY_SECONDS", -60.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two stores on one file wait for each other as long as a busy machine needs."""
    monkeypatch.setattr("receiver.storage.sqlite.database._BUSY_TIMEOUT_SECONDS", 60.0)
