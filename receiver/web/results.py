"""`GET /v1/results`: the log, oldest first, by cursor."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from receiver.errors import ReceiverError
from receiver.records import ResultFilter
from receiver.web.context import CONTEXT
from receiver.web.problems import KEY_NAME
from receiver.web.reading import check_query, read_int, read_text, read_wait
from receiver.web.views import entry_view, json_response

__all__ = ["results"]

_MOST_NAMED = 200


async def results(request: web.Request) -> web.Response:
    """A page of the log; waits for the next result for as long as is asked and allowed.

    Without `after`: from now; `after=start`: from the oldest kept.
    """
    check_query(request, "after", "limit", "wait", "provider", "tags", "tasks", "hints")
    inbox = request.app[CONTEXT].inbox
    only = _read_filter(request)
    after = read_text(request, "after") or await inbox.head()
    limit = read_int(request, "limit", default=100, most=1000)
    page = await inbox.results(
        None if after == "start" else after, only, limit=limit, seconds=read_wait(request), owner=request[KEY_NAME]
    )
    entries = [entry_view(entry, inbox.cursor_at) for entry in page.entries]
    return json_response({"results": entries, "cursor": page.cursor, "more": page.more})


def _read_filter(request: web.Request) -> ResultFilter:
    provider = read_text(request, "provider")
    tags = read_text(request, "tags")
    named = read_text(request, "tasks")
    refs: list[str] = []
    task_ids: list[tuple[str, str]] = []
    for name in [] if named is None else [part for part in named.split(",") if part]:
        by_provider, colon, id_text = name.partition(":")
        if colon:
            task_ids.append((by_provider, id_text))
        else:
            refs.append(_ref(name))
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


def _ref(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ReceiverError("wrong-field", "tasks: expected refs, or provider:taskId, with commas") from None
