"""One reader of the log: what it lets through, and how far it has read.

It reads the store until it has caught up, and from then on the tail. There is no queue for it: it reads at its own
pace, and when it is too slow for the tail it goes back to the store. While nothing of interest comes it costs nothing:
its place moves along with the end of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from client.protocol.filters import ResultFilter, TaskName, TaskSet
from client.protocol.frames import MAX_NAMED, NAME_BYTES, GapFrame
from receiver.domain.records import Entry, TaskRecord
from receiver.errors import CursorGoneError, ReceiverError
from receiver.feed.tail import Tail, size_of
from receiver.storage.store import Store

__all__ = ["Listener", "Names", "Subscription"]

Listener = Callable[[], None]

_PAGE = 32
_PAGE_BYTES = 64 * 1024


class Names(Protocol):
    """Keeps who named which task, in a room that has its bounds."""

    def take_room(self, owner: str, size: int) -> None:
        """Take room for names of this size; raises `too-many-names` or `receiver-full`."""

    def give_room(self, owner: str, size: int) -> None:
        """Give some of it back."""

    def add_name(self, name: TaskName, subscription: Subscription) -> None:
        """From now on the subscription is told of the task."""

    def remove_name(self, name: TaskName, subscription: Subscription) -> None:
        """From now on it is not."""

    def remove(self, subscription: Subscription) -> None:
        """From now on it is told of nothing."""


class Subscription:
    """A reader of what comes behind a position. `listener` is called when `read` is worth it again.

    Where it `looks` at once, named tasks that have ended already come first. `most` bounds what one `read` gives.
    """

    __slots__ = (
        "_gap",
        "_has_news",
        "_is_behind",
        "_names",
        "_owner",
        "_position",
        "_size",
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
        sources: tuple[Store, Tail, Names],
        only: ResultFilter,
        position: int,
        listener: Listener,
        *,
        looks: bool,
        owner: str,
    ) -> None:
        self._store, self._tail, self._names = sources
        self._owner = owner
        self.named = TaskSet() if only.tasks is None else only.tasks.copy()
        # What a subscription of everything names beside it comes at once, and changes nothing of what is let through.
        self.only = only.or_tasks(self.named)
        self.listener = listener
        self.most = _PAGE
        self._gap: GapFrame | None = None
        self._position = position
        # Behind the tail, or with news in it; neither: up to its end nothing is left to be read.
        self._is_behind = position < self._tail.end
        self._has_news = False
        # Names whose tasks are to be looked at, and how far the stream was when they came.
        self._unread: dict[TaskName, int] = dict.fromkeys(self.named, position) if looks else {}
        _check_number(len(self.named))
        self._size = sum(map(_size_of, self.named))
        self._names.take_room(owner, self._size)
        for name in self.named:
            self._names.add_name(name, self)

    @property
    def cursor(self) -> str:
        """Where to go on: everything up to here was given out by `read`, or is not let through."""
        return self._store.cursor_at(self._place)

    @property
    def has_more(self) -> bool:
        """Whether `read` would give more at once, as far as is known."""
        return self._is_behind or self._has_news or bool(self._unread)

    async def read(self) -> Sequence[Entry | GapFrame]:
        """What there is, at most `most` entries; empty: all was given out, and the listener will be called.

        The cursor of an entry is where to go on behind it, which for a task that had ended before it was named is not
        the place of its outcome. Cancelled, it has given out nothing.

        Raises:
            StoreFailedError: the store cannot be read now; nothing is lost by asking again.
        """
        while True:
            told: Sequence[Entry | GapFrame]
            if self._gap is not None:
                told, self._gap = [self._gap], None
            elif self._unread:
                told = await self._read_names()
            elif self._is_behind:
                told = await self._read_store()
            elif self._has_news:
                told = self._read_tail()
            else:
                return []
            if told:
                return told

    def lets_through(self, entry: Entry) -> bool:
        """Return whether the entry is for this reader."""
        if entry.task is None:
            return self.only.may_match_deleted(entry.ref)
        return (entry.kind != "hint" or self.only.hints) and self.only.matches(entry.task)

    def take_room(self, tasks: TaskSet) -> None:
        """Take room for those that are not named yet, which are to be added then, perhaps a part at a time.

        Raises:
            ReceiverError: `wrong-field`, `too-many-names`, `receiver-full`: too many would be named; no room is taken.
        """
        new = [name for name in tasks if name not in self.named]
        _check_number(len(self.named) + len(new))
        size = sum(map(_size_of, new))
        self._names.take_room(self._owner, size)
        self._size += size

    def add(self, tasks: TaskSet) -> None:
        """Name tasks; those that have ended come at once.

        Raises:
            ReceiverError: as `take_room`; none of these is named.
        """
        self.take_room(tasks)
        self.name(tasks)

    def name(self, tasks: TaskSet) -> None:
        """Name tasks for which room was taken."""
        for name in tasks:
            if name not in self.named:
                self.named.add(name)
                self._names.add_name(name, self)
        # A task that was named before is looked at again, too: who asks anew wants to be told.
        self._unread.update(dict.fromkeys(tasks, self._place))
        if tasks:
            self.listener()

    def remove(self, tasks: TaskSet) -> None:
        """Names tasks no more."""
        size = 0
        for name in tasks:
            if name in self.named:
                self.named.discard(name)
                self._names.remove_name(name, self)
                self._unread.pop(name, None)
                size += _size_of(name)
        self._give_room(size)

    def close(self) -> None:
        """End it; whatever was named is forgotten."""
        self._names.remove(self)
        self._give_room(self._size)

    def _give_room(self, size: int) -> None:
        self._size -= size
        self._names.give_room(self._owner, size)

    # What the feed tells

    def gap(self, gap: GapFrame) -> None:
        """The cursor it was to begin at is gone."""
        self._gap = gap

    def notice(self, position: int) -> None:
        """Something that is let through came at this position; before, since it caught up, nothing had."""
        if not self._is_behind and not self._has_news:
            self._position = max(self._position, position - 1)
            self._has_news = True
            self.listener()

    def name_came(self, name: TaskName) -> None:
        """A task has this name now: it may have ended before."""
        self._unread[name] = self._place
        self.listener()

    def lose_tail(self, end: int) -> None:
        """The tail, which reached up to `end`, does not go on from there: the store has to be read."""
        if not self._is_behind and not self._has_news:
            self._position = max(self._position, end)
        self._is_behind, self._has_news = True, False
        self.listener()

    @property
    def _place(self) -> int:
        return self._position if self._is_behind or self._has_news else max(self._position, self._tail.end)

    async def _read_names(self) -> Sequence[Entry]:
        asked = dict(islice(self._unread.items(), self.most))
        for name in asked:
            del self._unread[name]
        told: list[Entry] = []
        try:
            for name, task in await self._store.named(list(asked), max_bytes=_PAGE_BYTES):
                named_at = asked.pop(name)
                # Not if it was removed meanwhile; and what was named, or bound, meanwhile may have been read too early.
                if name in self.named and name not in self._unread:
                    told.extend(self._tell(name, task, named_at))
        finally:
            # Those for which there was no room, or all of them.
            for name, named_at in asked.items():
                if name in self.named:
                    self._unread.setdefault(name, named_at)
        if not self._unread:
            # A dictionary that was emptied keeps its room.
            self._unread = {}
        return told

    def _tell(self, name: TaskName, task: TaskRecord | None, named_at: int) -> Iterator[Entry]:
        if task is None:
            if isinstance(name, str):
                yield Entry(self.cursor, named_at, "deleted", name, None)
        elif task.outcome is not None and task.position is not None:
            # What came after it was named is told by the stream.
            if task.position <= named_at:
                yield Entry(self.cursor, task.position, "result", task.ref, task)
        elif task.hinted_at is not None and self.only.hints:
            yield Entry(self.cursor, named_at, "hint", task.ref, task)

    async def _read_store(self) -> Sequence[Entry | GapFrame]:
        after = self._store.cursor_at(self._position)
        # As they are now: the store reads on another thread, while tasks are named here.
        only = self.only.or_tasks(self.named.copy())
        try:
            page = await self._store.results(after, limit=self.most, only=only, max_bytes=_PAGE_BYTES)
        except CursorGoneError as error:
            self._position = await self._store.position(error.resumes_at)
            return [GapFrame(reason=error.reason, resumes_at=error.resumes_at)]
        self._position = page.position
        # What was named during the read is not on the page.
        for name in self._unread:
            self._unread[name] = page.position
        if not page.more:
            self._is_behind = False
            self._has_news = page.position < self._tail.end
        return [entry for entry in page.entries if self.lets_through(entry)]

    def _read_tail(self) -> Sequence[Entry]:
        if self._position < self._tail.start:
            self._is_behind, self._has_news = True, False
            return []
        told: list[Entry] = []
        size = 0
        for entry in self._tail.after(self._position):
            if not self.lets_through(entry):
                continue
            told.append(entry)
            size += size_of(entry.task)
            if len(told) >= self.most or size > _PAGE_BYTES:
                self._position = entry.position
                return told
        # The store, which was read last, may have been ahead of the tail.
        self._position = max(self._position, self._tail.end)
        self._has_news = False
        return told


def _check_number(named: int) -> None:
    if named > MAX_NAMED:
        raise ReceiverError("wrong-field", f"tasks: at most {MAX_NAMED} can be named")


def _size_of(name: TaskName) -> int:
    """Return about how many bytes a name takes here: with its places in three tables, and its text."""
    # What is not ASCII takes up to four bytes for each character, of the others, too.
    text = name if isinstance(name, str) else "".join(name)
    return NAME_BYTES + len(text) * (1 if text.isascii() else 4)
