"""The filter of the log in a query, the same for pages and for server-sent events."""

from __future__ import annotations

from aiohttp import web

from client.providers.values import MAX_TASK_ID_LENGTH, is_too_long
from receiver.domain.records import ResultFilter
from receiver.errors import ReceiverError
from receiver.feed.filters import ref_of
from receiver.web.request import read_text

__all__ = ["read_filter"]

_MOST_NAMED = 200


def read_filter(request: web.Request) -> ResultFilter:
    """Return the filter in the query: `provider`, `tags`, `tasks`, `hints`.

    Raises:
        ReceiverError: `wrong-field`.
    """
    provider = read_text(request, "provider")
    tags = read_text(request, "tags")
    named = read_text(request, "tasks")
    refs: list[str] = []
    task_ids: list[tuple[str, str]] = []
    for name in [] if named is None else [part for part in named.split(",") if part]:
        by_provider, colon, id_text = name.partition(":")
        if is_too_long(id_text):
            raise ReceiverError("wrong-field", f"tasks: expected ids of at most {MAX_TASK_ID_LENGTH} characters")
        if colon:
            task_ids.append((by_provider, id_text))
        else:
            refs.append(ref_of(name))
    if len(refs) + len(task_ids) > _MOST_NAMED:
        raise ReceiverError("wrong-field", f"tasks: at most {_MOST_NAMED} can be named")
    hints = read_text(request, "hints") or "false"
    if hints not in ("true", "false"):
        raise ReceiverError("wrong-field", "hints: expected true or false")
    return ResultFilter(
        provider=provider,
        tags=tuple(tag for tag in (tags or "").split(",") if tag),
        refs=None if named is None else tuple(refs),
        task_ids=tuple(task_ids),
        hints=hints == "true",
    )
