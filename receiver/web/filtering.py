"""Filters of the log in requests: queries of pages and of server-sent events, frames of subscribers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aiohttp import web

from client.errors import BadArgumentError
from client.protocol.filters import QUERY_FIELDS, ResultFilter, TaskSet, task_name
from client.protocol.frames import NamedTask, Subscribe
from receiver.errors import ReceiverError
from receiver.settings import ApiKey
from receiver.web.auth import check_provider
from receiver.web.middleware import API_KEY
from receiver.web.request import read_text

__all__ = ["check_tasks", "exact", "filter_of", "limited", "read_filter", "tasks_of"]

_MOST_NAMED = 200


def read_filter(request: web.Request) -> ResultFilter:
    """Return the filter in the query, `provider`, `tags`, `tasks` and `hints`, within the limits of the API key.

    Raises:
        ReceiverError: `wrong-field`, `provider-not-allowed`.
    """
    given = {name: read_text(request, name) for name in QUERY_FIELDS}
    try:
        only = ResultFilter.from_query({name: value for name, value in given.items() if value is not None})
    except BadArgumentError as error:
        raise ReceiverError("wrong-field", str(error)) from None
    if only.tasks is not None and len(only.tasks) > _MOST_NAMED:
        raise ReceiverError("wrong-field", f"tasks: at most {_MOST_NAMED} can be named")
    return limited(only, request[API_KEY])


def limited(only: ResultFilter, key: ApiKey) -> ResultFilter:
    """Return the filter within the limits of an API key.

    Raises:
        ReceiverError: `provider-not-allowed`: the filter names another provider.
    """
    if key.providers is None:
        return only
    check_provider(key, only.provider)
    if only.tasks is not None:
        check_tasks(only.tasks, key)
    return replace(only, within=key.providers)


def check_tasks(tasks: TaskSet, key: ApiKey) -> None:
    """Check that an API key may name these tasks. A ref names no provider, so it is always allowed.

    Raises:
        ReceiverError: `provider-not-allowed`.
    """
    if key.providers is not None:
        for provider, _ in tasks.task_ids:
            check_provider(key, provider)


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
