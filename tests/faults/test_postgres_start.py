"""A PostgreSQL database that cannot be used: the start ends with one line, without the password."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from receiver.errors import CannotStartError
from receiver.settings import Settings
from receiver.storage.postgres.store import open_postgres_store
from tests.faults.postgres_wire import open_wire
from tests.faults.test_several_receivers import at
from tests.postgres import Cluster, execute, running_cluster
from tests.receiver.storage.stores import NOW, a_ref, a_registration, running_store
from tests.support import eventually, running_receiver

PASSWORD = "hush-9f3a"


@dataclass(frozen=True)
class Role:
    """A role with a password, and a database of its own."""

    cluster: Cluster
    name: str

    def url(self, *, user: str | None = None, password: str = PASSWORD, database: str | None = None) -> str:
        """Return a URL, with one part changed."""
        return f"postgresql://{user or self.name}:{password}@/{database or self.name}?host={self.cluster.folder}"

    def run(self, statement: str) -> None:
        """Run a statement on the server, as its administrator."""
        self.cluster.execute(re.sub(r"\bNAME", self.name, statement))

    def run_here(self, statement: str) -> None:
        """Run a statement in the database, as its administrator."""
        execute(self.cluster.url(self.name), re.sub(r"\bNAME", self.name, statement))


@pytest.fixture(scope="module")
def own_cluster(postgres: Cluster) -> Iterator[Cluster]:
    """Run a server whose settings tests may change."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def role(own_cluster: Cluster) -> Iterator[Role]:
    """Make a role that is no superuser, and its database."""
    made = Role(own_cluster, "somebody")
    made.run(f"CREATE ROLE NAME LOGIN PASSWORD '{PASSWORD}'")
    made.run("CREATE DATABASE NAME OWNER NAME")
    own_cluster.set_rule("local all somebody,nobody scram-sha-256")
    yield made
    made.run("DROP DATABASE NAME WITH (FORCE)")
    made.run("DROP ROLE NAME")


async def refusal(url: str) -> CannotStartError:
    """Return the reason of a start that is refused. It is one line without the password."""
    with pytest.raises(CannotStartError) as refused:
        async with open_postgres_store(url, now=NOW):
            pass
    text = str(refused.value)
    assert "\n" not in text
    assert PASSWORD not in text
    return refused.value


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda role: role.url(password="wrong"), "password authentication failed"),
        (lambda role: role.url(user="nobody"), 'password authentication failed for user "nobody"'),
        (lambda role: role.url(database="nothing"), 'database "nothing" does not exist'),
        (lambda role: role.url() + "&sslmode=wrong", "sslmode"),
        (lambda role: role.url() + "&nonsense=1", 'unrecognized configuration parameter "nonsense"'),
        (lambda role: role.url() + "&port=x", "the port or an option is malformed"),
        (lambda role: role.url() + "&target_session_attrs=wrong", "target_session_attrs"),
    ],
)
async def test_a_wrong_part_of_the_url_is_named(role: Role, change: Callable[[Role], str], text: str) -> None:
    """Another start would fail in the same way."""
    refused = await refusal(change(role))

    assert text in str(refused)
    assert not refused.passes


@pytest.mark.parametrize(
    ("statement", "undo", "text"),
    [
        ("ALTER SYSTEM SET synchronous_commit = off", "ALTER SYSTEM RESET synchronous_commit", "synchronous_commit"),
        ("ALTER ROLE NAME SET synchronous_commit = off", "SELECT 1", "synchronous_commit is off"),
        ("ALTER DATABASE NAME SET synchronous_commit = off", "SELECT 1", "synchronous_commit is off"),
        ("ALTER DATABASE NAME OWNER TO tests", "SELECT 1", "permission denied for schema public"),
        ("REVOKE CONNECT ON DATABASE NAME FROM public, NAME", "SELECT 1", "permission denied for database"),
    ],
)
async def test_a_server_that_cannot_be_used_is_refused(role: Role, statement: str, undo: str, text: str) -> None:
    """The line says why, and another start would fail in the same way."""
    role.run(statement)
    role.run("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(30):
            while text not in str(refused := await refusal(role.url())):
                await asyncio.sleep(0.1)
    finally:
        role.run(undo)
        role.run("SELECT pg_reload_conf()")

    assert not refused.passes


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("ALTER DATABASE NAME SET default_transaction_read_only = on", "read-only"),
        ("ALTER ROLE NAME CONNECTION LIMIT 0", "too many connections"),
    ],
)
async def test_a_server_that_may_be_usable_later_is_refused_for_now(role: Role, statement: str, text: str) -> None:
    """The exit code says so."""
    role.run(statement)
    refused = await refusal(role.url())

    assert text in str(refused)
    assert refused.passes


async def test_a_database_in_another_encoding_is_refused(role: Role) -> None:
    """Texts of providers may hold any character."""
    role.run("CREATE DATABASE NAME_ascii OWNER NAME ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        refused = await refusal(role.url(database="somebody_ascii"))
    finally:
        role.run("DROP DATABASE NAME_ascii WITH (FORCE)")

    assert "expected a database in UTF8, this one is in SQL_ASCII" in str(refused)
    assert not refused.passes


async def test_a_server_that_is_too_old_is_refused(postgres: Cluster, postgres_url: str) -> None:
    """The line names its version and the oldest one."""
    async with open_wire(postgres.folder) as wire:
        number = int(execute(postgres_url, "SHOW server_version_num")[0][0])
        wire.replaced = (str(number).encode(), b"130099")
        refused = await refusal(wire.url(postgres_url))

    assert "PostgreSQL 14 or newer is needed, this is " in str(refused)
    assert not refused.passes


@pytest.mark.parametrize(
    "url",
    [
        "mysql://tests:hush-9f3a@127.0.0.1/receiver",
        "postgresql://tests:hush-9f3a@127.0.0.1",
        "postgresql://tests:hush-9f3a@127.0.0.1/",
        "postgresql://tests:hush-9f3a@127.0.0.1:99999/receiver",
        "postgresql://tests:hush-9f3a@127.0.0.1:x/receiver",
        "postgresql://tests:hush-9f3a@127.0.0.1:0/receiver",
        "postgresql://tests:hush-9f3a@[::1/receiver",
        "postgresql://tests:1/hush-9f3a@127.0.0.1/receiver",
        "postgresql://tests:1@hush-9f3a@127.0.0.1/receiver",
    ],
)
@pytest.mark.parametrize("field", ["database", "database_listen"])
def test_a_malformed_url_is_no_setting(url: str, field: str) -> None:
    """The text of the error says what was expected, and nothing of the URL."""
    with pytest.raises(ValueError, match="expected the path of an SQLite file, or postgresql://") as refused:
        Settings.model_validate({field: url})

    assert refused.value.error_count() == 1  # type: ignore[attr-defined]  # of pydantic
    assert "hush" not in str(refused.value).partition("[type=")[0]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tests:hush@one:5432,two:5433/receiver",
        "postgresql:///receiver?host=/one,/two&target_session_attrs=read-write",
        "postgres://tests:p%2F%40@[::1]:5432/receiver",
    ],
)
def test_a_url_may_name_several_hosts(url: str) -> None:
    """It is taken as it is."""
    assert not isinstance(Settings(database=url, _env_file=None).database, str)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace("hush@", "hush@127.0.0.1:1"), "Connect call failed"),
        (lambda url: url.replace("/test_", "/none_"), "does not exist"),
    ],
)
async def test_a_listening_url_that_does_not_work_costs_time_only(
    postgres_url: str, change: Callable[[str], str], reason: str
) -> None:
    """The receivers start, each warns once, and waiters are woken by the look of each second."""
    listen = change(postgres_url).partition("?")[0] if "Connect" in reason else change(postgres_url)
    with capture_logs() as lines:
        async with (
            running_receiver(postgres_url, database_listen=listen) as one,
            running_receiver(postgres_url, database_listen=listen) as other,
            asyncio.TaskGroup() as group,
        ):
            registered = await one.register()
            waiter = group.create_task(one.send("GET", f"/v1/tasks/{registered['ref']}", params={"wait": 60}))
            await eventually(lambda: one.waiting == 1)
            await other.call_back(at(other, registered["callbackUrl"]))
            async with asyncio.timeout(30):
                task = (await waiter).json
            await eventually(lambda: len([line for line in lines if line["event"] == "hints.failed"]) == 2)
            await asyncio.sleep(2.5)

    failures = [line for line in lines if line["event"] == "hints.failed"]
    assert task["status"] == "ready"
    assert [line["log_level"] for line in failures] == ["warning", "warning"]
    assert all(reason in line["reason"] for line in failures)
    assert "hush" not in str(lines)


async def test_a_listening_url_of_another_form_is_refused(postgres_url: str) -> None:
    """The line names the setting."""
    with pytest.raises(CannotStartError, match=r"^RECEIVER_DATABASE_LISTEN: .*sslmode") as refused:
        async with open_postgres_store(postgres_url, now=NOW, listen_url=f"{postgres_url}&sslmode=wrong"):
            pass

    assert not refused.value.passes


async def test_defaults_of_the_database_do_not_matter(postgres: Cluster, postgres_url: str) -> None:
    """A transaction that writes reads what was committed before its locks, as it has to."""
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    async with running_store(postgres_url):
        pass
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    postgres.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")
    execute(
        postgres_url,
        "CREATE FUNCTION check_isolation() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE 'isolation'; END IF; "
        "RETURN NEW; END $$",
    )
    execute(postgres_url, "CREATE TRIGGER fault BEFORE INSERT ON task FOR EACH ROW EXECUTE FUNCTION check_isolation()")
    async with running_store(postgres_url) as store:
        await store.write(a_registration(1))
        assert await store.task(a_ref(1)) is not None
