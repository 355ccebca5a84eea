"""One reader of the log: the entries that it gets, and its place.

A reader has no queue. Each `read` takes the next page at the reader's own pace. The state says from where:

    READ_STORE  The place is before the tail. The next page comes from the store.
    READ_TAIL   Entries for this reader lie in the tail behind its place. The next page comes from the tail.
    IDLE        Nothing is left up to the end of the tail. The place moves along with that end, at no cost.

Changes of the state:

    READ_STORE -> READ_TAIL   The last page was read, and the tail goes on behind it.
    READ_STORE -> IDLE        The last page was read, and the tail ends at or before its end.
    READ_TAIL  -> IDLE        The tail was read to its end.
    READ_TAIL  -> READ_STORE  The tail was cut behind the place: the reader was too slow for it.
    IDLE       -> READ_TAIL   `notice`: an entry for this reader came.
    any        -> READ_STORE  `lose_tail`: the tail has a hole.

Only `read` waits. The feed and the peer call the other functions meanwhile, so that they race with a read:

* Entries that come during a read of the store are not noticed. Its last page is compared with the tail afterwards.
* The store can be ahead of the tail. The feed then notices entries at or before the place, and they are skipped.
* A task that is named during a read of the store is not on that page. It is looked at from the end of the page on.
* A name may be added, removed or bound to a task during a look at it. Then it is looked at again.
* A cancelled read has moved no place and forgotten no name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from itertools import islice
from typing import Protocol

from client.protocol.filters import ResultFilter, TaskName, TaskSet
from client.protocol.frames import MAX_NAMED, NAME_BYTES, GapFrame
from receiver.domain.records import Entry, TaskRecord
from receiver.errors import CursorGoneError, ReceiverError
from receiver.feed.tail import Tail, size_of
from receiver.storage.store import Store

__all__ = ["Listener", "NameIndex", "ReadState", "Subscription"]

Listener = Callable[[], None]

_PAGE = 32
_PAGE_BYTES = 64 * 1024


class ReadState(Enum):
    """The source of a reader's next page."""

    READ_STORE = auto()
    READ_TAIL = auto()
    IDLE = auto()


class NameIndex(Protocol):
    """The subscriptions by the tasks that they name, and the bounded room for these names."""

    def take_room(self, owner: str, size: int) -> None:
        """Take room for names of this size; raises `too-many-names` or `receiver-full`."""

    def give_room(self, owner: str, size: int) -> None:
        """Give some of it back."""

    def add_name(self, name: TaskName, subscription: Subscription) -> None:
        """Notify the subscription of this task from now on."""

    def remove_name(self, name: TaskName, subscription: Subscription) -> None:
        """Stop notifying the subscription of this task."""

    def remove(self, subscription: Subscription) -> None:
        """Stop notifying the subscription of anything."""


class Subscription:
    """A reader of the log behind a position. It calls `listener` when there is something to read again.

    With `named_first`, named tasks that have ended already come first. `most` bounds the entries of one `read`.
    """

    __slots__ = (
        "_gap",
        "_index",
        "_owner",
        "_position",
        "_size",
        "_state",
        "_store",
        "_tail",
        "_unread",
        "listener",
        "most",
        "named",
        "only",
    )

    def __init__(
        self,
        sources: tuple[Store, Tail, NameIndex],
        only: ResultFilter,
        position: int,
        listener: Listener,
        *,
        named_first: bool,
        owner: str,
    ) -> None:
        self._store, self._tail, self._index = sources
        self._owner = owner
        self.named = TaskSet() if only.tasks is None else only.tasks.copy()
        # Tasks that are named beside a filter for everything pass it anyway. Naming them only sends them at once.
        self.only = only.or_tasks(self.named)
        self.listener = listener
        self.most = _PAGE
        self._gap: GapFrame | None = None
        self._position = position
        self._state = ReadState.READ_STORE if position < self._tail.end else ReadState.IDLE
        # Names whose tasks are to be looked at, each with the place of the stream at which it was named.
        self._unread: dict[TaskName, int] = dict.fromkeys(self.named, position) if named_first else {}
        _check_number(len(self.named))
        self._size = sum(map(_size_of, self.named))
        self._index.take_room(owner, self._size)
        for name in self.named:
            self._index.add_name(name, self)

    @property
    def cursor(self) -> str:
        """The cursor to go on from: `read` gave out everything up to here that passes the filter."""
        return self._store.cursor_at(self._place)

    @property
    def has_more(self) -> bool:
        """True if `read` would give more at once, as far as is known."""
        return self._state is not ReadState.IDLE or bool(self._unread) or self._gap is not None

    def read_at_once(self) -> Sequence[Entry]:
        """Return the next entries as `read` does, if the tail has them. Return none if `read` is needed."""
        if self._state is not ReadState.READ_TAIL or self._unread or self._gap is not None:
            return ()
        return self._read_tail()

    async def read(self) -> Sequence[Entry | GapFrame]:
        """Return the next entries, at most `most`. If there are none, `listener` is called once there are.

        The cursor of an entry is the place to go on from behind it. For a task that had ended before it was named, this
        is not the place of its outcome. A cancelled read gives out nothing, and the next one gives the same.

        Raises:
            StoreFailedError: the store cannot be read now. Reading again later misses nothing.
        """
        while True:
            page: Sequence[Entry | GapFrame]
            if self._gap is not None:
                page, self._gap = [self._gap], None
            elif self._unread:
                page = await self._read_named()
            elif self._state is ReadState.READ_STORE:
                page = await self._read_store()
            elif self._state is ReadState.READ_TAIL:
                page = self._read_tail()
            else:
                return []
            if page:
                return page

    def lets_through(self, entry: Entry) -> bool:
        """Return True if the entry passes the filter of this reader."""
        if entry.task is None:
            return self.only.may_match_deleted(entry.ref, entry.provider)
        return (entry.kind != "hint" or self.only.hints) and self.only.matches(entry.task)

    def take_room(self, tasks: TaskSet) -> None:
        """Take room for those of the tasks that are not named yet. `name` may then add them, also in parts.

        Raises:
            ReceiverError: `wrong-field`, `too-many-names`, `receiver-full`: too many would be named. No room is taken.
        """
        new = [name for name in tasks if name not in self.named]
        _check_number(len(self.named) + len(new))
        size = sum(map(_size_of, new))
        self._index.take_room(self._owner, size)
        self._size += size

    def add(self, tasks: TaskSet) -> None:
        """Name tasks. Tasks that have ended come at once.

        Raises:
            ReceiverError: as `take_room`; none of these tasks is named.
        """
        self.take_room(tasks)
        self.name(tasks)

    def name(self, tasks: TaskSet) -> None:
        """Name tasks for which room was taken."""
        for name in tasks:
            if name not in self.named:
                self.named.add(name)
                self._index.add_name(name, self)
        # A task that was named before is looked at again, too: a peer that names it again wants it sent again.
        self._unread.update(dict.fromkeys(tasks, self._place))
        if tasks:
            self.listener()

    def remove(self, tasks: TaskSet) -> None:
        """Stop naming tasks. A task that is not named is no error."""
        size = 0
        for name in tasks:
            if name in self.named:
                self.named.discard(name)
                self._index.remove_name(name, self)
                self._unread.pop(name, None)
                size += _size_of(name)
        self._give_room(size)

    def close(self) -> None:
        """End the subscription and give back the room of its names."""
        self._index.remove(self)
        self._give_room(self._size)

    def _give_room(self, size: int) -> None:
        self._size -= size
        self._index.give_room(self._owner, size)

    # The feed calls these.

    def begin_with_gap(self, gap: GapFrame) -> None:
        """Give out a gap first: the cursor to begin at is gone."""
        self._gap = gap

    def notice(self, position: int) -> None:
        """Note that an entry for this reader came at this position."""
        # A listener may have read the entry with an earlier one of the same commit.
        if self._state is ReadState.IDLE and position > self._position:
            # Nothing before the entry passed the filter since the reader caught up.
            self._position = max(self._position, position - 1)
            self._state = ReadState.READ_TAIL
            self.listener()

    def notice_name(self, name: TaskName) -> None:
        """Note that this name belongs to a task now, which may have ended before."""
        self._unread[name] = self._place
        self.listener()

    def lose_tail(self, end: int) -> None:
        """Go back to the store: the tail, which reached up to `end`, has a hole behind it."""
        if self._state is ReadState.IDLE:
            self._position = max(self._position, end)
        self._state = ReadState.READ_STORE
        self.listener()

    @property
    def _place(self) -> int:
        return max(self._position, self._tail.end) if self._state is ReadState.IDLE else self._position

    async def _read_named(self) -> Sequence[Entry]:
        asked = dict(islice(self._unread.items(), self.most))
        for name in asked:
            del self._unread[name]
        entries: list[Entry] = []
        try:
            for name, task in await self._store.named(list(asked), max_bytes=_PAGE_BYTES):
                named_at = asked.pop(name)
                # Not if the name was removed meanwhile. A name that was added or bound meanwhile is looked at again.
                if name in self.named and name not in self._unread:
                    entries.extend(self._entries_of(name, task, named_at))
        finally:
            # The names for which the page had no room, or all of them after a failure or a cancellation.
            for name, named_at in asked.items():
                if name in self.named:
                    self._unread.setdefault(name, named_at)
        if not self._unread:
            # A dictionary that was emptied keeps its room.
            self._unread = {}
        return entries

    def _entries_of(self, name: TaskName, task: TaskRecord | None, named_at: int) -> Iterator[Entry]:
        if task is None or not self.only.admits(task.provider):
            # As for a ref that no task has, so that a limited reader learns nothing of a task of another provider.
            if isinstance(name, str):
                yield Entry(self.cursor, named_at, "deleted", name, None)
        elif task.outcome is not None and task.position is not None:
            # The stream brings an outcome that came after the task was named.
            if task.position <= named_at:
                yield Entry(self.cursor, task.position, "result", task.ref, task)
        elif task.hinted_at is not None and self.only.hints:
            yield Entry(self.cursor, named_at, "hint", task.ref, task)

    async def _read_store(self) -> Sequence[Entry | GapFrame]:
        after = self._store.cursor_at(self._position)
        # A copy of the names: the store reads on another thread, while tasks are named here.
        only = self.only.or_tasks(self.named.copy())
        try:
            page = await self._store.results(after, limit=self.most, only=only, max_bytes=_PAGE_BYTES)
        except CursorGoneError as error:
            self._position = await self._store.position(error.resumes_at)
            return [GapFrame(reason=error.reason, resumes_at=error.resumes_at)]
        self._position = page.position
        # Tasks that were named during the read are not on the page.
        for name in self._unread:
            self._unread[name] = page.position
        if not page.more:
            self._state = ReadState.READ_TAIL if page.position < self._tail.end else ReadState.IDLE
        return [entry for entry in page.entries if self.lets_through(entry)]

    def _read_tail(self) -> Sequence[Entry]:
        if self._position < self._tail.start:
            self._state = ReadState.READ_STORE
            return []
        entries: list[Entry] = []
        size = 0
        for entry in self._tail.after(self._position):
            if not self.lets_through(entry):
                continue
            entries.append(entry)
            size += size_of(entry.task)
            if len(entries) >= self.most or size > _PAGE_BYTES:
                self._position = entry.position
                return entries
        # The store, which was read last, may have been ahead of the tail.
        self._position = max(self._position, self._tail.end)
        self._state = ReadState.IDLE
        return entries


def _check_number(named: int) -> None:
    if named > MAX_NAMED:
        raise ReceiverError("wrong-field", f"tasks: at most {MAX_NAMED} can be named")


def _size_of(name: TaskName) -> int:
    """Return about how many bytes a name takes here, with its places in three tables and its text."""
    # One character outside ASCII makes each character of the text take up to four bytes.
    text = name if isinstance(name, str) else "".join(name)
    return NAME_BYTES + len(text) * (1 if text.isascii() else 4)
