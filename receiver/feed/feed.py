"""The new entries of the log, given to the subscriptions in this process.

Each commit is processed once, however many subscriptions there are. Its entries go into the tail, and only the
subscriptions with a matching filter are notified. If the entries of a commit cannot be read now, then every
subscription is told to read the store. This can happen after another process wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from client.protocol.filters import ResultFilter, TaskName
from client.protocol.frames import GapFrame
from receiver.domain.admission import ConcurrencyLimit, Limits
from receiver.domain.records import Entry, Growth
from receiver.errors import CursorGoneError, StoreFailedError
from receiver.feed.subscription import Listener, Subscription
from receiver.feed.tail import Tail
from receiver.storage.store import Store

__all__ = ["Feed"]

_PAGE = 100
_MOST_PAGES = 5


class Feed:
    """The subscriptions to one store's log. Call `open` first, and `take` for every growth of the log, in order."""

    def __init__(self, store: Store, tail: Tail | None = None, limits: Limits | None = None) -> None:
        self.store = store
        self._index = _Index(limits or Limits())
        self.tail = tail or Tail()

    def __len__(self) -> int:
        return len(self._index)

    async def open(self) -> None:
        """Begin at the current end of the log."""
        self.tail.begin_at(await self.store.position(await self.store.head()))

    def has_entries(self, growth: Growth) -> bool:
        """Return True if nothing is missing between the tail and the end of this growth."""
        return growth.entries is not None and growth.after <= self.tail.end

    async def with_entries(self, growth: Growth) -> Growth:
        """Return the growth from the end of the tail on, read from the store. It never fails.

        It has no entries if they cannot be read now, or are too many.
        """
        entries = await self._read(growth.until)
        return replace(growth, after=self.tail.end, entries=None if entries is None else tuple(entries))

    def take(self, growth: Growth) -> None:
        """Notify the subscriptions with a filter for the new entries.

        If entries are missing, then each subscription reads the store itself.
        """
        end = self.tail.end
        if growth.entries is None or growth.after > end:
            self.tail.begin_at(growth.until)
            self._index.lose_tail(end)
            return
        news = [entry for entry in growth.entries if entry.position > end]
        self.tail.extend(news, growth.until)
        for entry in news:
            self._index.notice(entry)
        noticed = {entry.ref for entry in news}
        for key in growth.tasks or ():
            if key.id_text is not None and key.ref not in noticed:
                self._index.notice_name((key.provider, key.id_text))

    def skip(self, until: int) -> None:
        """Move to this position of the log while there is no subscription. Later ones read the store up to it."""
        self.tail.begin_at(until)

    async def subscribe(
        self, only: ResultFilter, cursor: str | None, listener: Listener, *, owner: str
    ) -> Subscription:
        """Return a subscription to all that passes `only` behind `cursor`. The caller closes it.

        None is the end of the log, and "start" the oldest entry kept. Named tasks that have ended already come first,
        whatever the cursor. If the cursor is gone, then a gap comes first, and the log goes on from there. The names
        count against the room of `owner`.

        Raises:
            ReceiverError: `wrong-field` if this is no cursor, or too many tasks are named; `too-many-names` or
                `receiver-full` if there is no room for them.
        """
        position, gap = await self._begin(cursor)
        if position is None or not only.is_stream:
            # For a filter that only names tasks, the tasks themselves tell what came before.
            position = self.tail.end
        subscription = self._follow(only, position, listener, named_first=True, owner=owner)
        if gap is not None:
            subscription.begin_with_gap(gap)
        return subscription

    def follow(self, only: ResultFilter, position: int, listener: Listener, *, owner: str) -> Subscription:
        """Return a subscription behind a position of the store. It does not look at named tasks first.

        Raises:
            ReceiverError: `too-many-names` or `receiver-full`: there is no room for the names.
        """
        return self._follow(only, position, listener, named_first=False, owner=owner)

    def close(self) -> None:
        """Call every listener, so that each can end."""
        self._index.call_all()

    async def _begin(self, cursor: str | None) -> tuple[int | None, GapFrame | None]:
        if cursor is None:
            return None, None
        if cursor == "start":
            return await self.store.position(None), None
        try:
            return await self.store.position(cursor), None
        except CursorGoneError as error:
            gap = GapFrame(reason=error.reason, resumes_at=error.resumes_at)
            return await self.store.position(error.resumes_at), gap

    def _follow(
        self, only: ResultFilter, position: int, listener: Listener, *, named_first: bool, owner: str
    ) -> Subscription:
        sources = (self.store, self.tail, self._index)
        subscription = Subscription(sources, only, position, listener, named_first=named_first, owner=owner)
        self._index.add(subscription)
        return subscription

    async def _read(self, until: int) -> Sequence[Entry] | None:
        """Return the entries of the log behind the tail, or None if they cannot be read or are too many."""
        found: list[Entry] = []
        cursor = self.store.cursor_at(self.tail.end)
        try:
            for _ in range(_MOST_PAGES):
                page = await self.store.results(cursor, limit=_PAGE, only=ResultFilter(hints=True, with_canary=True))
                found.extend(page.entries)
                cursor = page.cursor
                if page.position >= until or not page.more:
                    return [entry for entry in found if entry.position <= until]
        except (StoreFailedError, CursorGoneError):
            return None
        return None


class _Index:
    """The subscriptions by their filters, to find the few for an entry."""

    def __init__(self, limits: Limits) -> None:
        self._all: set[Subscription] = set()
        self._streams: dict[str | None, set[Subscription]] = {}
        # Most tasks are named by one subscription. It stands there alone, because a set takes 216 bytes more.
        self._by_name: dict[TaskName, Subscription | set[Subscription]] = {}
        self._room = ConcurrencyLimit(
            "too-many-names",
            most=limits.name_bytes,
            most_each=limits.name_bytes_per_key,
            unit="bytes for named tasks",
        )

    def __len__(self) -> int:
        return len(self._all)

    def add(self, subscription: Subscription) -> None:
        self._all.add(subscription)
        if subscription.only.is_stream:
            self._streams.setdefault(subscription.only.provider, set()).add(subscription)

    def remove(self, subscription: Subscription) -> None:
        self._all.discard(subscription)
        provider = subscription.only.provider
        if subscription.only.is_stream and (group := self._streams.get(provider)) is not None:
            group.discard(subscription)
            if not group:
                del self._streams[provider]
        for name in subscription.named:
            self.remove_name(name, subscription)

    def take_room(self, owner: str, size: int) -> None:
        if size:
            self._room.take(owner, size)

    def give_room(self, owner: str, size: int) -> None:
        if size:
            self._room.give_back(owner, size)

    def add_name(self, name: TaskName, subscription: Subscription) -> None:
        others = self._by_name.get(name)
        if others is None:
            self._by_name[name] = subscription
        elif isinstance(others, set):
            others.add(subscription)
        elif others is not subscription:
            self._by_name[name] = {others, subscription}

    def remove_name(self, name: TaskName, subscription: Subscription) -> None:
        others = self._by_name.get(name)
        if others is subscription:
            del self._by_name[name]
        elif isinstance(others, set):
            others.discard(subscription)
            if not others:
                del self._by_name[name]

    def notice(self, entry: Entry) -> None:
        for subscription in self._concerned(entry):
            if subscription.lets_through(entry):
                subscription.notice(entry.position)

    def notice_name(self, name: TaskName) -> None:
        for subscription in self._named(name):
            subscription.notice_name(name)

    def lose_tail(self, end: int) -> None:
        for subscription in self._all:
            subscription.lose_tail(end)

    def call_all(self) -> None:
        for subscription in self._all:
            subscription.listener()

    def _concerned(self, entry: Entry) -> Iterator[Subscription]:
        task = entry.task
        if task is None:
            # Of a deleted task only the ref is kept.
            return iter(self._all)
        groups = [self._streams.get(None, ()), self._streams.get(task.provider, ()), self._named(entry.ref)]
        if task.id_text is not None:
            groups.append(self._named((task.provider, task.id_text)))
        return chain.from_iterable(groups)

    def _named(self, name: TaskName) -> Collection[Subscription]:
        named_by = self._by_name.get(name, ())
        return (named_by,) if isinstance(named_by, Subscription) else named_by
