"""The store as the rest of the receiver sees it. SQLite is the first implementation, and nothing here depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

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
    WaitingTasks,
)
from receiver.domain.shapes import ShapeRecord
from receiver.domain.sharing.budgets import SharedBudget
from receiver.domain.tokens import SigningKey
from receiver.domain.transaction import Command, Operation

__all__ = ["PAGE_BYTES", "WRITE_SECONDS", "Store", "TaskQuery"]

Answer = TypeVar("Answer")

WRITE_SECONDS = 10.0
"""The longest wait of a caller for its command to be stored, in seconds, unless it gives another one."""

PAGE_BYTES = 1024 * 1024
"""A page ends, whatever its limit, with the task that brings its solutions above this size."""

TaskQuery = tuple[str | None, str | None, str | None]
"""Status, provider and tag to list by. None matches any."""


class Store(Protocol):
    """Durable tasks and the log of results.

    Store law: after a read has given cursor c, no result ever appears at or before c.
    """

    async def write(
        self, command: Command[Answer] | Operation[Answer], *, within_seconds: float = WRITE_SECONDS
    ) -> Answer:
        """Return the answer of the command, once its changes are durable.

        Commands and operations are carried out in the order of the calls. Cancelling the wait does not stop them.

        Raises:
            ReceiverError: the command refused, and changed nothing.
            StoreBusyError: the queue is full, so the command is dropped. Or it was not stored in time, and may still be
                stored.
            StoreFailedError: the command could not be stored. Nothing of it was.
        """

    def begin(self, command: Command[Answer] | Operation[Answer], *, within_seconds: float) -> asyncio.Future[Answer]:
        """Return the future of what `write` returns. Errors come by the future, or at once."""

    async def task(self, ref: str) -> TaskRecord | None:
        """Return the task with this ref, or the one that it was joined to."""

    async def tasks_by_id(self, id_text: str, provider: str | None) -> Sequence[TaskRecord]:
        """Return the tasks with this id of the provider's: at most one with `provider`, two without."""

    async def find(self, ref_or_id: str, provider: str | None) -> Sequence[TaskRecord]:
        """Return what `task` finds, or else what `tasks_by_id` finds."""

    async def named(
        self, names: Sequence[TaskName], *, max_bytes: int = PAGE_BYTES
    ) -> Sequence[tuple[TaskName, TaskRecord | None]]:
        """Return the tasks of the first names, at least of one, as far as a page goes. None means no such task."""

    async def tasks(
        self, query: TaskQuery, *, page: str | None, limit: int, within: Collection[str] | None = None
    ) -> tuple[Sequence[TaskRecord], str | None]:
        """Return tasks, newest first, and the next page, if there is one. A page may hold fewer tasks than `limit`.

        If `within` is given, only tasks of these providers are returned.
        """

    async def deliveries(self, task: TaskRecord) -> Sequence[StoredDelivery]:
        """Return the kept deliveries of a task, in the order of their arrival."""

    async def polls(self, task: TaskRecord) -> Sequence[PollRecord]:
        """Return the kept polls of a task by this receiver, in order."""

    async def history(self, task: TaskRecord) -> History:
        """Return the kept deliveries, polls and outcomes of a task."""

    async def next_due(self, provider: str) -> tuple[int, int] | None:
        """Return the times of the first and the last planned poll of this provider's tasks here; None: no poll."""

    async def remembered(self, name: str) -> str | None:
        """Return the text stored under a name, None if there is none."""

    async def ticket(self, digest: bytes) -> StoredTicket | None:
        """Return the valid ticket with this digest."""

    async def key_budget(self, name: str) -> tuple[SharedBudget, int] | None:
        """Return the shared budget of a provider key, and the time of the database; None if nobody used it."""

    async def next_held(self) -> int | None:
        """Return the time to release the next held callback, None if none is held."""

    async def unpolled(
        self, provider: str, key_id: str, place: tuple[int, int], *, limit: int
    ) -> tuple[Sequence[str], tuple[int, int] | None]:
        """Return refs of tasks that could be polled here with this key but are not, and the next `place`.

        The search covers the next `limit` unfinished tasks behind `place`. Behind the last of them, the next place is
        None.
        """

    async def results(self, after: str | None, *, limit: int, only: ResultFilter, max_bytes: int = PAGE_BYTES) -> Page:
        """Return a page of the log behind `after`, oldest first; None: from the oldest kept entry.

        Raises:
            CursorGoneError: the cursor is of another log, beyond the end, or older than the oldest kept entry.
        """

    async def head(self) -> str:
        """Return the cursor of the end of the log."""

    async def position(self, cursor: str | None) -> int:
        """Return the position of a reader's cursor; None: the position before the oldest kept entry.

        Raises:
            ReceiverError: `wrong-field`, because the text is no cursor.
            CursorGoneError: as `results`.
        """

    def cursor_at(self, position: int) -> str:
        """Return the cursor of a position, as records name it."""

    async def next_deadline(self) -> int | None:
        """Return the next deadline of an unfinished task, None if there is no such task."""

    async def prunable(self, horizon: Horizon) -> int | None:
        """Return None if retention has nothing to do.

        Otherwise return the last position to remove because of the number of finished tasks, 0 if they are few.
        """

    async def standing_urls(self) -> Sequence[StandingUrl]:
        """Return all standing URLs, oldest first, revoked ones too. There are at most 1,000."""

    async def standing_url(self, url_id: str) -> StandingUrl | None:
        """Return the standing URL with this id, revoked or not."""

    async def api_keys(self) -> Sequence[StoredKey]:
        """Return all API keys of the store, oldest first, revoked and expired ones too. There are at most 1,000."""

    async def waiting_tasks(self) -> Sequence[WaitingTasks]:
        """Return the waiting tasks by provider. Above 20,000 only those with the earliest deadlines count."""

    async def shapes(self, provider: str) -> Sequence[ShapeRecord]:
        """Return the shapes of a provider's callbacks, at most 50, the last seen first."""

    def listen(self, listener: Callable[[Growth], None]) -> None:
        """Call `listener` with the growth of the log after each commit, of any process. There is one listener.

        It is called after the callers of the commit are released, and must not fail. One growth may cover several
        commits.
        """

    @property
    def queued(self) -> int:
        """The number of commands waiting to be stored."""

    @property
    def failure(self) -> str | None:
        """The reason of the last failed commit or probe, or of writes too slow for callbacks; None without one."""

    @property
    def is_late(self) -> bool:
        """True while waiting writes may miss their limits. A store that cannot write at all is not late."""

    async def read_signing_keys(self) -> Sequence[SigningKey]:
        """Return the store's own keys for callback tokens as they are now, newest first, ended ones too."""

    @property
    def signing_keys(self) -> Sequence[bytes]:
        """The store's own keys for callback tokens, newest first."""
