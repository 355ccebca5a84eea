"""Everything that both stores do in the same way: one writer, one reader of single tasks, and functions that read.

A function runs on a connection of the store's choice. A store says only how.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

from client.protocol.filters import ResultFilter, TaskName
from receiver.domain.access.api_keys import StoredKey
from receiver.domain.access.tickets import StoredTicket
from receiver.domain.records import (
    Growth,
    History,
    Horizon,
    Page,
    PollRecord,
    StandingUrl,
    StoredDelivery,
    TaskRecord,
    UnreadableDelivery,
    WaitingTasks,
)
from receiver.domain.shapes import ShapeRecord
from receiver.domain.sharing.budgets import SharedBudget
from receiver.domain.tokens import SigningKey
from receiver.domain.transaction import Command, Operation
from receiver.errors import ReceiverError
from receiver.storage.command_queue import CommandQueue
from receiver.storage.searches import SearchQueue
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.reader import (
    Cursors,
    read_bounds,
    read_deliveries,
    read_history,
    read_log,
    read_named,
    read_shapes,
    read_task_page,
    read_unreadable,
    read_waiting,
)
from receiver.storage.sqlite.retention import prunable
from receiver.storage.sqlite.rows import budget_from, poll_from, slots_of, standing_url_from, ticket_from
from receiver.storage.sqlite.tables.api_keys import read_keys
from receiver.storage.sqlite.tables.signing_keys import read_signing_keys
from receiver.storage.store import PAGE_BYTES, WRITE_SECONDS, TaskQuery

__all__ = ["SharedStore"]

Answer = TypeVar("Answer")

_LAST_ROW = 2**62


class SharedStore:
    """The part of a `receiver.storage.store.Store` that does not depend on the database."""

    def __init__(
        self, commands: CommandQueue, tasks: SearchQueue, cursors: Cursors, signing_keys: Sequence[bytes]
    ) -> None:
        self._commands = commands
        self._tasks = tasks
        self._cursors = cursors
        self._signing_keys = signing_keys

    def stop(self) -> None:
        """Let `run` end after it has stored all commands that it has."""
        self._commands.stop()

    async def _read_soon(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run a short read, which must not wait behind long ones."""
        raise NotImplementedError

    async def _read_whole(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run a read that may take long."""
        raise NotImplementedError

    async def write(
        self, command: Command[Answer] | Operation[Answer], *, within_seconds: float = WRITE_SECONDS
    ) -> Answer:
        """See `Store`."""
        return await self.begin(command, within_seconds=within_seconds)

    def begin(self, command: Command[Answer] | Operation[Answer], *, within_seconds: float) -> asyncio.Future[Answer]:
        """See `Store`."""
        return self._commands.begin(command, within_seconds)

    def listen(self, listener: Callable[[Growth], None]) -> None:
        """See `Store`."""
        self._commands.listener = listener

    @property
    def queued(self) -> int:
        """See `Store`."""
        return self._commands.queued

    @property
    def failure(self) -> str | None:
        """See `Store`."""
        return self._commands.failure or self._commands.lateness.delay

    @property
    def is_late(self) -> bool:
        """See `Store`."""
        return self._commands.failure is None and self._commands.lateness.is_late

    @property
    def signing_keys(self) -> Sequence[bytes]:
        """See `Store`."""
        return self._signing_keys

    def cursor_at(self, position: int) -> str:
        """See `Store`."""
        return self._cursors.at(position)

    async def task(self, ref: str) -> TaskRecord | None:
        """See `Store`."""
        return await self._tasks.task(ref)

    async def tasks_by_id(self, id_text: str, provider: str | None) -> Sequence[TaskRecord]:
        """See `Store`."""
        return await self._tasks.tasks_by_id(id_text, provider)

    def find(self, ref_or_id: str, provider: str | None) -> Coroutine[Any, Any, Sequence[TaskRecord]]:
        """See `Store`."""
        return self._tasks.find(ref_or_id, provider)

    async def named(
        self, names: Sequence[TaskName], *, max_bytes: int = PAGE_BYTES
    ) -> Sequence[tuple[TaskName, TaskRecord | None]]:
        """See `Store`."""
        if len(names) == 1 and isinstance(names[0], str):
            return [(names[0], await self.task(names[0]))]
        return await self._read_soon(lambda connection: read_named(connection, names, max_bytes))

    async def tasks(
        self, query: TaskQuery, *, page: str | None, limit: int, within: Collection[str] | None = None
    ) -> tuple[Sequence[TaskRecord], str | None]:
        """See `Store`."""
        before = page_row(page)
        return await self._read_whole(
            lambda connection: read_task_page(connection, query, before, limit, within=within)
        )

    async def deliveries(self, task: TaskRecord) -> Sequence[StoredDelivery]:
        """See `Store`."""
        return await self._read_whole(lambda connection: read_deliveries(connection, task))

    async def unreadable(self, after: UnreadableDelivery | None, *, limit: int) -> Sequence[UnreadableDelivery]:
        """Return unreadable deliveries behind one of them; None: from the start. An empty page is the end."""
        return await self._read_whole(lambda connection: read_unreadable(connection, after, limit))

    async def polls(self, task: TaskRecord) -> Sequence[PollRecord]:
        """See `Store`."""
        return await self._rows(poll_from, sql.SELECT_POLLS, *slots_of(task.row))

    async def history(self, task: TaskRecord) -> History:
        """See `Store`."""
        return await self._read_whole(lambda connection: read_history(connection, task))

    async def next_due(self, provider: str) -> tuple[int, int] | None:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> tuple[int, int] | None:
            first, last = connection.execute(sql.SELECT_NEXT_DUE, {"provider": provider}).fetchone()
            return None if first is None else (int(first), int(last))

        return await self._read_whole(read)

    async def remembered(self, name: str) -> str | None:
        """See `Store`."""
        texts = await self._rows(lambda row: str(row[0]), sql.SELECT_META, name)
        return next(iter(texts), None)

    async def ticket(self, digest: bytes) -> StoredTicket | None:
        """See `Store`."""
        tickets = await self._read_soon(
            lambda connection: connection.execute(sql.SELECT_VALID_TICKET, (digest,)).fetchall()
        )
        return ticket_from(tickets[0]) if tickets else None

    async def key_budget(self, name: str) -> tuple[SharedBudget, int] | None:
        """See `Store`."""
        rows = await self._read_soon(
            lambda connection: connection.execute(sql.SELECT_KEY_BUDGET_NOW, (name,)).fetchall()
        )
        return (budget_from(rows[0][1:]), int(rows[0][0])) if rows else None

    async def next_held(self) -> int | None:
        """See `Store`."""
        (held_until,) = await self._rows(lambda row: row[0], sql.SELECT_NEXT_HELD)
        return None if held_until is None else int(held_until)

    async def unpolled(
        self, provider: str, key_id: str, place: tuple[int, int], *, limit: int
    ) -> tuple[Sequence[str], tuple[int, int] | None]:
        """See `Store`."""
        deadline, row = place
        rows = await self._rows(tuple, sql.SELECT_UNFINISHED, deadline, deadline, row, limit)
        return unpolled_among(rows, provider, key_id, limit)

    async def results(self, after: str | None, *, limit: int, only: ResultFilter, max_bytes: int = PAGE_BYTES) -> Page:
        """See `Store`."""
        return await self._read_whole(
            lambda connection: read_log(connection, self._cursors, after, limits=(limit, max_bytes), only=only),
        )

    async def head(self) -> str:
        """See `Store`."""
        head, _ = await self._read_soon(read_bounds)
        return self.cursor_at(head)

    async def position(self, cursor: str | None) -> int:
        """See `Store`."""
        return self._cursors.position(cursor, await self._read_soon(read_bounds))

    async def next_deadline(self) -> int | None:
        """See `Store`."""
        (deadline,) = await self._rows(lambda row: row[0], sql.SELECT_NEXT_DEADLINE)
        return None if deadline is None else int(deadline)

    async def prunable(self, horizon: Horizon) -> int | None:
        """See `Store`."""
        return await self._read_whole(lambda connection: prunable(connection, horizon))

    async def standing_urls(self) -> Sequence[StandingUrl]:
        """See `Store`."""
        return await self._rows(standing_url_from, sql.SELECT_STANDING_URLS)

    async def standing_url(self, url_id: str) -> StandingUrl | None:
        """See `Store`."""
        urls = await self._rows(standing_url_from, sql.SELECT_STANDING_URL, url_id)
        return next(iter(urls), None)

    async def read_signing_keys(self) -> Sequence[SigningKey]:
        """See `Store`."""
        return await self._read_soon(read_signing_keys)

    async def api_keys(self) -> Sequence[StoredKey]:
        """See `Store`."""
        return await self._read_soon(read_keys)

    async def waiting_tasks(self) -> Sequence[WaitingTasks]:
        """See `Store`."""
        return await self._read_whole(read_waiting)

    async def shapes(self, provider: str) -> Sequence[ShapeRecord]:
        """See `Store`."""
        return await self._read_whole(lambda connection: read_shapes(connection, provider))

    async def _rows(
        self, record_from: Callable[[tuple[Any, ...]], Answer], statement: str, *parameters: object
    ) -> list[Answer]:
        """Return the records in the rows of a statement."""
        return await self._read_whole(
            lambda connection: [record_from(row) for row in connection.execute(statement, parameters)]
        )


def unpolled_among(
    rows: Sequence[tuple[Any, ...]], provider: str, key_id: str, limit: int
) -> tuple[Sequence[str], tuple[int, int] | None]:
    """Return the answer of `Store.unpolled` from rows of SELECT_UNFINISHED."""
    refs = [
        ref
        for _, _, ref, task_provider, client_key_id, is_polled_here in rows
        if task_provider == provider and not is_polled_here and client_key_id in (None, key_id)
    ]
    return refs, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


def page_row(page: str | None) -> int:
    """Return the row before which a page of tasks begins.

    Raises:
        ReceiverError: `wrong-field`.
    """
    if page is None:
        return _LAST_ROW
    if not re.fullmatch(r"[0-9]{1,18}", page, re.ASCII):
        raise ReceiverError("wrong-field", "page: expected a `nextPage` that this receiver gave")
    return int(page)
