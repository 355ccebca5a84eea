"""Fixtures for every test: a fresh log at its start, and its ports released at its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.postgres import Cluster, missing_tools, running_cluster
from tests.support import PLACES, release_ports

# On a busy machine every example is slow at times, without a fault of the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


_PARTLY = "tests on PostgreSQL did not run: "


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs all receivers of tests on PostgreSQL."""
    parser.addoption("--postgres", action="store_true", help="use a PostgreSQL database in place of each SQLite file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the other store: of files with the option, and long ones of PostgreSQL without it."""
    left_out = "sqlite" if config.getoption("--postgres") else "postgres"
    deselected = [item for item in items if _is_for(left_out, item)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not _is_for(left_out, item)]


def _is_for(store: str, item: pytest.Item) -> bool:
    """Return True for a test with this mark, and for the variant of a test of both stores on SQLite files."""
    if item.get_closest_marker(store):
        return True
    variant = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return store == "sqlite" and variant.get("databases") == "sqlite"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what a machine without PostgreSQL leaves untested."""
    reason = missing_tools()
    if reason is not None:
        terminalreporter.write_line(_PARTLY + reason, yellow=True, bold=True)


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
    """Let no receiver in a test's process refuse because a busy machine stopped it for seconds.

    Tests of overload override this.
    """
    monkeypatch.setattr("receiver.web.edge.overload._LATE_SECONDS", 60.0)
    monkeypatch.setattr("receiver.storage.lateness._HURRY_SECONDS", -60.0)
    monkeypatch.setattr("receiver.storage.lateness._TOO_SLOW_SECONDS", 60.0)
    monkeypatch.setattr("receiver.service.callbacks._ACKNOWLEDGE_SECONDS", 60.0)
    monkeypatch.setattr("receiver.service.tickets._WRITE_SECONDS", 60.0)
    monkeypatch.setattr("receiver.storage.postgres.store._POOL_SECONDS", 60.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two stores on one file wait for each other as long as a busy machine needs."""
    monkeypatch.setattr("receiver.storage.sqlite.database._BUSY_TIMEOUT_SECONDS", 60.0)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """Run a PostgreSQL server for all tests of this process."""
    reason = missing_tools()
    if reason is not None:
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def on_postgres(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace each SQLite file of a test by a PostgreSQL database, with the option `--postgres`."""
    if not request.config.getoption("--postgres"):
        yield
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    monkeypatch.setattr(PLACES, "new_url", cluster.new_database)
    monkeypatch.setattr(PLACES, "urls", {})
    yield
    for url in PLACES.urls.values():
        cluster.drop_database(url)


@pytest.fixture
def postgres_url(postgres: Cluster) -> Iterator[str]:
    """Return the URL of an empty PostgreSQL database."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Path | str]]:
    """Return the function for the place of a database by its name: an SQLite file, then a PostgreSQL URL."""
    if request.param == "sqlite":
        yield lambda name: tmp_path / f"{name}.db"
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    urls: dict[str, str] = {}
    yield lambda name: urls.get(name) or urls.setdefault(name, cluster.new_database())
    for url in urls.values():
        cluster.drop_database(url)


@pytest.fixture
def database(databases: Callable[[str], Path | str]) -> Path | str:
    """Return the place of one database, in each kind of store."""
    return databases("receiver")
