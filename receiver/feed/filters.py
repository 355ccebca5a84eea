"""What a subscriber asks for, as the store understands it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from uuid import UUID

from client.protocol.frames import NamedTask, Subscribe
from client.providers.values import task_id_text
from receiver.domain.records import ResultFilter
from receiver.errors import ReceiverError

__all__ = ["Names", "filter_of", "names_of", "ref_of"]

_REF = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)

Names = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


def filter_of(frame: Subscribe) -> ResultFilter:
    """Return the filter of a subscription.

    Raises:
        ReceiverError: `wrong-field`: a ref is none.
    """
    refs, task_ids = names_of(frame.tasks or ())
    return ResultFilter(
        provider=frame.provider,
        tags=tuple(frame.tags),
        refs=None if frame.tasks is None else refs,
        task_ids=task_ids,
        hints=frame.hints,
    )


def names_of(tasks: Iterable[str | NamedTask]) -> Names:
    """Refs, and pairs of provider and id as text.

    Raises:
        ReceiverError: `wrong-field`: a ref is none.
    """
    refs, task_ids = [], []
    for name in tasks:
        if isinstance(name, str):
            refs.append(ref_of(name))
        else:
            task_ids.append((name.provider, task_id_text(name.task_id)))
    return tuple(refs), tuple(task_ids)


def ref_of(text: str) -> str:
    """Return the ref as it is stored.

    Raises:
        ReceiverError: `wrong-field`: this is no ref.
    """
    if _REF.fullmatch(text):
        # As the receiver writes them: `UUID` would take 2 µs for each of thousands.
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise ReceiverError("wrong-field", "tasks: expected refs, or tasks by provider and taskId") from None
