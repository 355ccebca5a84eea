"""Filters of the log in requests: queries of pages and of server-sent events, frames of subscribers."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from client.errors import BadArgumentError
from client.protocol.filters import QUERY_FIELDS, ResultFilter, TaskSet, task_name
from client.protocol.frames import NamedTask, Subscribe
from receiver.errors import ReceiverError
from receiver.web.request import read_text

__all__ = ["exact", "filter_of", "read_filter", "tasks_of"]

_MOST_NAMED = 200


def read_filter(request: web.Request) -> ResultFilter:
    """Return the filter in the query: `provider`, `tags`, `tasks`, `hints`.

    Raises:
        ReceiverError: `wrong-field`.
    """
    given = {name: read_text(request, name) for name in QUERY_FIELDS}
    try:
        only = ResultFilter.from_query({name: value for name, value in given.items() if value is not None})
    except BadArgumentError as error:
        raise ReceiverError("wrong-field", str(error)) from None
    if only.tasks is not None and len(only.tasks) > _MOST_NAMED:
        raise ReceiverError("wrong-field", f"tasks: at most {_MOST_NAMED} can be named")
    return only


def filter_of(frame: Subscribe) -> ResultFilter:
    """Return the filter of a subscription.

    Raises:
        ReceiverError: `wrong-field`: a ref is not a UUID.
    """
    return exact(ResultFilter.of(frame))


def tasks_of(names: Iterable[str | NamedTask]) -> TaskSet:
    """Return the tasks that a frame names.

    Raises:
        ReceiverError: `wrong-field`: a ref is not a UUID.
    """
    return _exact_tasks(TaskSet(map(task_name, names)))


def exact(only: ResultFilter) -> ResultFilter:
    """Return the filter with each ref as it is stored.

    Raises:
        ReceiverError: `wrong-field`: a ref is not a UUID.
    """
    return only if only.tasks is None else only.or_tasks(_exact_tasks(only.tasks))


def _exact_tasks(tasks: TaskSet) -> TaskSet:
    try:
        return tasks.with_exact_refs()
    except BadArgumentError as error:
        raise ReceiverError("wrong-field", str(error)) from None
