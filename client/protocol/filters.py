"""The filter of the log of results: (provider AND all tags) OR named tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Protocol
from uuid import UUID

from client.errors import BadArgumentError
from client.protocol.frames import NamedTask, Subscribe
from client.providers.values import MAX_TASK_ID_LENGTH, is_too_long, task_id_text

__all__ = ["CANARY", "QUERY_FIELDS", "FilteredTask", "ResultFilter", "TaskName", "TaskSet", "name_text", "task_name"]

TaskName = str | tuple[str, str]
"""The name of one task: its ref, or the provider and the provider's id as text."""

CANARY = "canary"
"""The provider of the receiver's own callbacks. Only readers that name it, or one of its tasks, get these."""

QUERY_FIELDS = ("provider", "tags", "tasks", "hints")
"""The query parameters of a filter."""

_PART = re.compile(r"(?:[^,]|,,)+")
_REF = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)


class FilteredTask(Protocol):
    """A task as a filter sees it."""

    @property
    def ref(self) -> str:
        """The receiver's id."""

    @property
    def provider(self) -> str:
        """The provider's name."""

    @property
    def id_text(self) -> str | None:
        """The provider's id as text; None while it is not known."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that the task was registered with."""


@dataclass(slots=True, init=False)
class TaskSet:
    """A set of named tasks, in the order in which they were named.

    Refs and ids stand apart, because the store asks for them apart: dividing 50,000 names for each read took 30 ms.
    """

    refs: dict[str, None]
    task_ids: dict[tuple[str, str], None]

    def __init__(self, names: Iterable[TaskName] = ()) -> None:
        self.refs = {}
        self.task_ids = {}
        self.update(names)

    def __len__(self) -> int:
        return len(self.refs) + len(self.task_ids)

    def __iter__(self) -> Iterator[TaskName]:
        return chain[TaskName](self.refs, self.task_ids)

    def __contains__(self, name: TaskName) -> bool:
        return name in self.refs if isinstance(name, str) else name in self.task_ids

    def holds(self, task: FilteredTask) -> bool:
        """Return True if the task is named by its ref or by its id."""
        return task.ref in self.refs or (task.provider, task.id_text) in self.task_ids

    def update(self, names: Iterable[TaskName]) -> None:
        """Add names."""
        for name in names:
            self.add(name)

    def add(self, name: TaskName) -> None:
        """Add a name."""
        if isinstance(name, str):
            self.refs[name] = None
        else:
            self.task_ids[name] = None

    def discard(self, name: TaskName) -> None:
        """Remove a name. A name that is not there is no error."""
        if isinstance(name, str):
            self.refs.pop(name, None)
        else:
            self.task_ids.pop(name, None)

    def copy(self) -> TaskSet:
        """Return a set of the same names that changes on its own."""
        copied = TaskSet()
        copied.refs, copied.task_ids = self.refs.copy(), self.task_ids.copy()
        return copied

    def parts(self, size: int) -> Iterator[TaskSet]:
        """Yield the names in sets of at most `size`."""
        names = iter(self)
        while part := TaskSet(islice(names, size)):
            yield part

    def with_exact_refs(self) -> TaskSet:
        """Return the set with each ref as the receiver writes it.

        Raises:
            BadArgumentError: a ref is not a UUID.
        """
        exact = TaskSet(map(_exact_ref, self.refs))
        exact.task_ids = self.task_ids.copy()
        return exact


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """The part of the log that a reader gets: (`provider` AND all `tags`) OR `tasks`.

    Without any of the three it gets everything; with an empty `tasks` alone, nothing yet. Hints come only with `hints`.
    If `within` is given, tasks of other providers never pass. It comes from the reader's API key, not by the wire.
    Tasks of the provider `canary` are no part of everything, unless `with_canary` is True.
    """

    provider: str | None = None
    tags: tuple[str, ...] = ()
    tasks: TaskSet | None = None
    hints: bool = False
    within: frozenset[str] | None = None
    with_canary: bool = False

    @classmethod
    def of(cls, frame: Subscribe) -> ResultFilter:
        """Return the filter in a frame."""
        tasks = None if frame.tasks is None else TaskSet(map(task_name, frame.tasks))
        return cls(frame.provider, frame.tags, tasks, frame.hints)

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> ResultFilter:
        """Return the filter in the parameters of a query.

        Raises:
            BadArgumentError: the text names the parameter and the expected value.
        """
        names = query.get("tasks")
        hints = query.get("hints") or "false"
        tasks = None if names is None else TaskSet(map(_read_name, _listed(names))).with_exact_refs()
        if hints not in ("true", "false"):
            raise BadArgumentError("hints: expected true or false")
        return cls(query.get("provider"), tuple(filter(None, query.get("tags", "").split(","))), tasks, hints == "true")

    def to_query(self) -> dict[str, str]:
        """Return the query parameters of this filter."""
        query = {
            "provider": self.provider,
            "tags": ",".join(self.tags) or None,
            "tasks": None if self.tasks is None else ",".join(map(name_text, self.tasks)),
            "hints": "true" if self.hints else None,
        }
        return {name: value for name, value in query.items() if value is not None}

    @property
    def is_stream(self) -> bool:
        """True if the filter takes more than named tasks."""
        return self.tasks is None or self.provider is not None or bool(self.tags)

    @property
    def is_everything(self) -> bool:
        """True if the filter takes every task."""
        return self.tasks is None and self.provider is None and not self.tags

    def or_tasks(self, tasks: TaskSet) -> ResultFilter:
        """Return the filter with `tasks` as its named tasks. A filter that takes everything stays as it is."""
        return self if self.is_everything else replace(self, tasks=tasks)

    def matches(self, task: FilteredTask) -> bool:
        """Return True if results of this task pass the filter, and its hints with `hints`."""
        if not self.admits(task.provider):
            return False
        takes_provider = self.provider == task.provider or (self.provider is None and self._takes_unnamed(task))
        if self.is_stream and takes_provider and set(self.tags).issubset(task.tags):
            return True
        return self.tasks is not None and self.tasks.holds(task)

    def _takes_unnamed(self, task: FilteredTask) -> bool:
        return task.provider != CANARY or self.with_canary

    def admits(self, provider: str | None) -> bool:
        """Return True if tasks of this provider may pass; None is a provider no longer known."""
        return self.within is None or provider in self.within

    def may_match_deleted(self, ref: str, provider: str | None = None) -> bool:
        """Return True if a deleted task may have passed. Its id is not kept: any id may have named it."""
        if not self.admits(provider):
            return False
        return self.is_stream or (self.tasks is not None and (ref in self.tasks.refs or bool(self.tasks.task_ids)))


def task_name(name: str | NamedTask) -> TaskName:
    """Return the name that a frame gives to a task."""
    return name if isinstance(name, str) else (name.provider, task_id_text(name.task_id))


def name_text(name: TaskName) -> str:
    """Return a name as it stands in a query: `REF` or `PROVIDER:TASKID`, with each comma doubled."""
    return name if isinstance(name, str) else ":".join(name).replace(",", ",,")


def _read_name(text: str) -> TaskName:
    provider, colon, id_text = text.partition(":")
    if is_too_long(id_text):
        raise BadArgumentError(f"tasks: expected ids of at most {MAX_TASK_ID_LENGTH} characters")
    return (provider, id_text) if colon else text


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.replace(",,", ",") for part in _PART.findall(text))


def _exact_ref(text: str) -> str:
    # Most refs come as the receiver writes them. `UUID` would take 2 µs for each of thousands.
    if _REF.fullmatch(text):
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise BadArgumentError("tasks: expected refs, or tasks by provider and taskId") from None
