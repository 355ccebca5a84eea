"""Connections to the server: its hosts, the limits of a session, and the types of values.

A URL may name several hosts, of which one is the primary. Hosts are tried in turn, each with its part of the time: a
machine that lost its power does not even refuse. The last one that was good is tried first.

Each new connection is checked. After a failover the server may be a standby, or be configured not to wait for its disk.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from receiver.storage.postgres.errors import NotDurableError, is_lost
from receiver.storage.postgres.schema import PROGRAM_NAME

__all__ = ["Reconnecting", "Server", "close", "close_pool", "escaped"]

_CONNECT_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
# Above the limit of the server, for a server that is gone without a word.
_COMMAND_SECONDS = 9.0
_STATEMENTS_CACHED = 512
_READERS = 8
_DURABLE = ("on", "local", "remote_write", "remote_apply")

# The statements are written for indexes. A new database has no statistics, so the server would choose to read whole
# tables, and keep to that while they grow.
_PLANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
# A batch takes milliseconds. These limits keep a stopped receiver from holding up all others, and stay below the 10 s
# of a caller's patience. A lock may take less than a provider's 1.5 s, see `receiver/storage/postgres/writer.py`.
_LIMITS = {
    "statement_timeout": "'8s'",
    # The server looks for circles after 1 s (`deadlock_timeout`). It has to break one before this limit: the batch is
    # then repeated, and not refused.
    "lock_timeout": "'1200ms'",
    "idle_in_transaction_session_timeout": "'5s'",
    "jit": "off",
}
_TIMEZONE = {"timezone": "'UTC'"}
_SESSION = _LIMITS | _PLANS | _TIMEZONE
# For updates of the schema, copies and surveys, which read whole tables and take minutes.
_UNHURRIED = _LIMITS | _TIMEZONE | {"statement_timeout": "0"}
_NAME = {"application_name": PROGRAM_NAME}
_SELECT_STATE = "SELECT pg_is_in_recovery(), current_setting('synchronous_commit')"

# PostgreSQL's texts hold no NUL, but ids and codes of providers may. These two characters become pairs.
_ESCAPES = {"\0": "\1\2", "\1": "\1\1"}
_ESCAPED = re.compile("\1(.)", re.DOTALL)
_TO_ESCAPE = re.compile("[\0\1]")
_JSON_ESCAPE = re.compile(r"\\(u0000|u0001|.)", re.DOTALL)
_JSON_ESCAPES = {"u0000": r"\u0001\u0002", "u0001": r"\u0001\u0001"}

_NEXT_HOST = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)


class Server:
    """The server of a URL. If it is `pooled`, each transaction may have another session of the server."""

    def __init__(self, url: str, *, pooled: bool = False) -> None:
        self._urls = _for_each_host(url)
        self._connection_class: type[asyncpg.Connection] = PooledConnection if pooled else asyncpg.Connection

    async def connect(self, *, is_hurried: bool = True) -> asyncpg.Connection:
        """Return a connection for statements of the store. `is_hurried` limits their time.

        Raises:
            OSError, asyncpg.PostgresError, NotDurableError: the server cannot be used now. Or it is a standby.
        """
        failure: Exception | None = None
        for url in list(self._urls):
            try:
                connection = await self._connect_to(url, is_hurried=is_hurried)
            except _NEXT_HOST as error:
                failure = failure or error
            else:
                self._urls.remove(url)
                self._urls.insert(0, url)
                return connection
        raise failure or ConnectionError("the URL names no host")

    async def open_pool(self) -> asyncpg.Pool:
        """Return connections for reading, at most eight. One is made now, and the others when they are needed."""

        async def connect_for_pool(*_: Any, **__: Any) -> asyncpg.Connection:
            return await self.connect()

        # Without a minimum: the pool's task for that logs a trace while the server is down.
        pool: asyncpg.Pool = await asyncpg.create_pool(
            connect=connect_for_pool,
            min_size=0,
            max_size=_READERS,
            reset=_end_snapshot,
            connection_class=self._connection_class,
        )
        try:
            await pool.release(await pool.acquire())
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def _connect_to(self, url: str, *, is_hurried: bool) -> asyncpg.Connection:
        is_pooled = self._connection_class is PooledConnection
        connection: asyncpg.Connection = await asyncpg.connect(
            url,
            timeout=_CONNECT_SECONDS / len(self._urls),
            command_timeout=_COMMAND_SECONDS if is_hurried else None,
            # A statement prepared in one session is unknown in another one.
            statement_cache_size=0 if is_pooled else _STATEMENTS_CACHED,
            connection_class=self._connection_class,
            server_settings=_NAME,
        )
        try:
            async with connection.transaction():
                await _prepare(connection)
            if not is_pooled:
                await connection.execute(_settings("SET", _SESSION if is_hurried else _UNHURRIED))
        except BaseException:
            connection.terminate()
            raise
        return connection


class Reconnecting:
    """A connection that is made again after it was closed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: asyncpg.Connection | None = None

    async def get(self) -> asyncpg.Connection:
        """Return the open connection."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._server.connect()
        return self._connection

    async def close(self) -> None:
        """Close it, whatever it does."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


class PooledConnection(asyncpg.Connection):
    """A connection through a pooler that shares sessions between transactions.

    So each transaction sets its limits, and each statement is in a transaction: it takes two messages, which must reach
    the same session.
    """

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement, or several without parameters."""
        if query.startswith("BEGIN"):
            query = f"{query.rstrip(';')}; {_settings('SET LOCAL', _LIMITS | _PLANS)}"
            return str(await super().execute(query, timeout=timeout))
        if not args or self.is_in_transaction():
            return str(await super().execute(query, *args, timeout=timeout))
        async with self.transaction():
            return str(await super().execute(query, *args, timeout=timeout))

    async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
        """Run a statement for each of the rows of values."""
        if self.is_in_transaction():
            await super().executemany(command, args, timeout=timeout)
            return
        async with self.transaction():
            await super().executemany(command, args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> list[Any]:
        """Return the rows of a statement."""
        if self.is_in_transaction():
            return list(await super().fetch(query, *args, timeout=timeout, record_class=record_class))
        async with self.transaction():
            return list(await super().fetch(query, *args, timeout=timeout, record_class=record_class))


async def close(connection: asyncpg.Connection) -> None:
    """Close a connection, broken or not."""
    try:
        await connection.close(timeout=_CLOSE_SECONDS)
    except Exception as error:
        if not is_lost(error):
            raise
        connection.terminate()


async def close_pool(pool: asyncpg.Pool) -> None:
    """Close all connections for reading, broken or not."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await pool.close()
    except Exception as error:
        if not is_lost(error):
            raise
        pool.terminate()


async def _end_snapshot(connection: asyncpg.Connection) -> None:
    """End the snapshot of a cancelled read. The usual reset would undo the limits of the session."""
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")


async def _prepare(connection: asyncpg.Connection) -> None:
    """Check the server, and set the types of a new connection."""
    for name in ("text", "varchar", "bpchar", "name"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=_encode_text, decoder=_decode_text, format="binary"
        )
    await connection.set_type_codec("json", schema="pg_catalog", encoder=_encode_json, decoder=str, format="text")
    # Sums of `bigint` are of this type.
    await connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=int, format="text")
    ((is_standby, synchronous_commit),) = await connection.fetch(_SELECT_STATE)
    if is_standby:
        raise ConnectionError("the server is a standby, which is read-only; name the primary")
    if synchronous_commit not in _DURABLE:
        raise NotDurableError(
            f"synchronous_commit is {synchronous_commit}, so an acknowledged callback could be lost; set it to on"
        )


def _settings(verb: str, settings: Mapping[str, str]) -> str:
    return "; ".join(f"{verb} {name} = {value}" for name, value in settings.items())


def _for_each_host(url: str) -> list[str]:
    """Return a URL for each of the hosts that a URL names."""
    parts = urlsplit(url)
    user, at, netloc = parts.netloc.rpartition("@")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts = (netloc or options.get("host", "")).split(",")
    ports = options.get("port", "").split(",")
    if len(hosts) == 1 or len(ports) not in (1, len(hosts)):
        return [url]
    urls = []
    for number, host in enumerate(hosts):
        own = {**options, "port": ports[number % len(ports)]} if "port" in options else options
        if netloc:
            urls.append(parts._replace(netloc=f"{user}{at}{host}", query=urlencode(own)).geturl())
        else:
            urls.append(parts._replace(query=urlencode({**own, "host": host})).geturl())
    return urls


def escaped(value: Any) -> Any:
    """Return an array with its texts escaped, because the driver encodes those itself. Return other values as is."""
    return [_escape(part) if isinstance(part, str) else part for part in value] if isinstance(value, list) else value


def _encode_text(value: object) -> bytes:
    return _escape(str(value)).encode()


def _escape(text: str) -> str:
    if "\0" in text or "\1" in text:
        return _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0]], text)
    return text


def _decode_text(value: bytes) -> str:
    text = value.decode()
    return _ESCAPED.sub(lambda match: "\0" if match[1] == "\2" else match[1], text) if "\1" in text else text


def _encode_json(text: str) -> str:
    if r"\u000" not in text:
        return text
    return _JSON_ESCAPE.sub(lambda match: _JSON_ESCAPES.get(match[1], match[0]), text)
