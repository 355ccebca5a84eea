"""What the receiver asks of a store. SQLite is the first implementation; nothing of it shows here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeVar

from client.protocol.filters import ResultFilter, TaskName
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
from receiver.domain.transaction import Command, Operation

__all__ = ["PAGE_BYTES", "WRITE_SECONDS", "Store", "TaskQuery"]

Answer = TypeVar("Answer")

WRITE_SECONDS = 10.0
"""How long a caller waits for its command to be stored, if it says nothing else."""

PAGE_BYTES = 1024 * 1024
"""A page ends behind the task with which its solutions take more than this, whatever its limit."""

TaskQuery = tuple[str | None, str | None, str | None]
"""Status, provider and tag to list by; None where any will do."""


class Store(Protocol):
    """Durable tasks and the log of results.

    Store law: after a read has given cursor c, no result ever appears at or before c.
    """

    async def write(
        self, command: Command[Answer] | Operation[Answer], *, within_seconds: float = WRITE_SECONDS
    ) -> Answer:
        """Return what the command decided, once it is durable.

        Commands and operations are carried out in the order in which they were written. Cancelling the wait cancels
        nothing.

        Raises:
            ReceiverError: what the command told its caller; then it changed nothing.
            StoreBusyError: the queue is full, and nothing was taken; or it was not stored in time, and still may be.
            StoreFailedError: it could not be stored; nothing of it was.
        """

    async def task(self, ref: str) -> TaskRecord | None:
        """Return the task with this ref, or the one that it was joined to."""

    async def tasks_by_id(self, id_text: str, provider: str | None) -> Sequence[TaskRecord]:
        """Return the tasks that have this provider's id: at most one with `provider`, two without."""

    async def named(
        self, names: Sequence[TaskName], *, max_bytes: int = PAGE_BYTES
    ) -> Sequence[tuple[TaskName, TaskRecord | None]]:
        """Return the tasks of the first of these names, at least of one; None where no task has it."""

    async def tasks(self, query: TaskQuery, *, page: str | None, limit: int) -> tuple[Sequence[TaskRecord], str | None]:
        """Tasks, newest first, and the next page, if any. A page may hold fewer than there are left."""

    async def deliveries(self, task: TaskRecord) -> Sequence[StoredDelivery]:
        """Return the kept deliveries of a task, in the order in which they came."""

    async def polls(self, task: TaskRecord) -> Sequence[PollRecord]:
        """Return the kept polls of a task that this receiver made, in order."""

    async def history(self, task: TaskRecord) -> History:
        """What is kept of a task beside its record."""

    async def next_due(self, provider: str) -> tuple[int, int] | None:
        """When the first and the last task of this provider are to be polled here; None: there is none."""

    async def remembered(self, name: str) -> str | None:
        """Return the text that is kept under a name."""

    async def next_held(self) -> int | None:
        """When the next callback that is held back is to be released."""

    async def unpolled(
        self, provider: str, key_id: str, place: tuple[int, int], *, limit: int
    ) -> tuple[Sequence[str], tuple[int, int] | None]:
        """Return the refs of those tasks that could be polled here with this key and are not, and where to go on.

        Looked at are the next `limit` unfinished tasks behind `place`; there is nowhere to go on at their end.
        """

    async def results(self, after: str | None, *, limit: int, only: ResultFilter, max_bytes: int = PAGE_BYTES) -> Page:
        """Return the log behind `after`, oldest first; None: from the oldest kept.

        Raises:
            CursorGoneError: the cursor is of another log, beyond the end, or older than what is kept.
        """

    async def head(self) -> str:
        """Return the cursor of the end of the log."""

    async def position(self, cursor: str | None) -> int:
        """Return the position that a cursor of a reader's stands for; None: that behind which everything is kept.

        Raises:
            ReceiverError: `wrong-field` where it is none.
            CursorGoneError: as `results`.
        """

    def cursor_at(self, position: int) -> str:
        """Return the cursor of a position that a record names."""

    async def next_deadline(self) -> int | None:
        """When the next task without an outcome is to be given up."""

    async def prunable(self, horizon: Horizon) -> int | None:
        """None where retention has nothing to do; otherwise how far the log goes by the number of finished tasks."""

    async def standing_urls(self) -> Sequence[StandingUrl]:
        """Return all standing URLs, oldest first, revoked ones too; at most 1,000."""

    async def standing_url(self, url_id: str) -> StandingUrl | None:
        """Return the standing URL with this id, revoked or not."""

    async def waiting_tasks(self) -> Sequence[WaitingTasks]:
        """Return the waiting tasks by provider. Above 20,000 only those with the earliest deadlines count."""

    async def shapes(self, provider: str) -> Sequence[ShapeRecord]:
        """Return the shapes of a provider's callbacks, those seen last first; at most 50."""

    def commits(self) -> AsyncIterator[Growth]:
        """That the log grew, after each commit that made it so, by whatever process; for one reader.

        Several commits may be told as one. It ends when the store is closed.
        """

    @property
    def queued(self) -> int:
        """How many commands wait to be stored."""

    @property
    def failure(self) -> str | None:
        """Why the store cannot write, as of the last commit or probe; None while it can."""

    @property
    def signing_keys(self) -> Sequence[bytes]:
        """The keys that this store made for callback tokens."""
