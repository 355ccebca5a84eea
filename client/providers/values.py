"""JSON values as providers write them: total parsing, ids, and comparing answers.

Every function gives a value or raises `UnreadableError`; none raises anything else, whatever the bytes.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic_core import from_json, to_json

from client.errors import UnreadableError
from client.providers.readings import TaskId

__all__ = ["canonical_json", "parse_json", "parse_object", "read_task_id", "same_value", "task_id_text"]

_MAX_DEPTH = 100
"""Half of what parsers take: so that what is read here can be wrapped a few times and still be read elsewhere."""
_BOM = b"\xef\xbb\xbf"


def parse_json(body: bytes) -> Any:
    """The value in `body`; a byte order mark is skipped, integers keep their value up to 4300 digits.

    Raises:
        UnreadableError: not JSON, not UTF-8, nested deeper than 100, or with a number that is not finite.
    """
    try:
        value = from_json(body.removeprefix(_BOM), allow_inf_nan=False)
    except ValueError as error:
        raise UnreadableError(f"not JSON: {error}") from None
    _check(value, 0)
    return value


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises:
        UnreadableError: as `parse_json`, or the value is not an object.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise UnreadableError(f"expected a JSON object, got {_kind(value)}")
    return value


def read_task_id(value: Any) -> TaskId | None:
    """The id in `value`, or None where it says "none": null, 0 and "" (CapMonster: `taskId` 0 on error).

    Raises:
        UnreadableError: neither an integer nor a string.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnreadableError(f"taskId: expected an integer or a string, got {_kind(value)}")
    return value or None


def task_id_text(task_id: TaskId) -> str:
    """The id as it is compared and stored."""
    return task_id if isinstance(task_id, str) else str(task_id)


def canonical_json(value: Any) -> str:
    """`value` as JSON text that is equal for equal values."""
    return to_json(_sorted(value)).decode()


def same_value(one: Any, other: Any) -> bool:
    """Whether two JSON values say the same; unlike in Python, `true` is not 1."""
    return canonical_json(one) == canonical_json(other)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(part) for part in value]
    return value


def _check(value: Any, depth: int) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnreadableError("a number is too large to be read")
    elif isinstance(value, dict | list):
        if depth == _MAX_DEPTH:
            raise UnreadableError(f"nested deeper than {_MAX_DEPTH}")
        for part in value.values() if isinstance(value, dict) else value:
            _check(part, depth + 1)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names[type(value)]
