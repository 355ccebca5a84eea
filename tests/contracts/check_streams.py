"""A check of frames against the written contract of the streams, stricter than any reader has to be.

Readers ignore unknown fields. Here a field outside the contract is an error, and so is a malformed date.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft7Validator, FormatChecker

from tests.readme import ASYNCAPI

__all__ = ["ContractError", "check_event", "check_received", "check_sent"]

_FORMATS = FormatChecker(formats=["date-time"])


class ContractError(AssertionError):
    """A message breaks the contract; the text says where and why."""


def check_sent(text: str) -> Any:
    """Return the frame of a subscriber.

    Raises:
        ContractError: the contract has no such frame.
    """
    return _check(text, ("ask",))


def check_received(text: str) -> Any:
    """Return the frame from a websocket.

    Raises:
        ContractError: the contract has no such frame.
    """
    return _check(text, ("ask/reply", "tell"))


def check_event(name: str, event_id: str, text: str) -> Any:
    """Return the frame of a server-sent event. `text` is its data.

    Raises:
        ContractError: the contract has no such frame, or the event has another name or id than its frame.
    """
    frame = _check(text, ("stream",))
    if (name, event_id) != (frame["type"], frame.get("cursor") or frame["resumesAt"]):
        raise ContractError(f"the event is called {name} with the id {event_id}: {text}")
    return frame


def _check(text: str, operations: tuple[str, ...]) -> Any:
    frame = json.loads(text, parse_constant=_refuse)
    validators = _validators(operations)
    frame_type = frame.get("type") if isinstance(frame, dict) else None
    if not isinstance(frame_type, str) or frame_type not in validators:
        raise ContractError(f"type: expected one of {', '.join(validators)}: {text[:500]}")
    for error in validators[frame_type].iter_errors(frame):
        raise ContractError(f"{error.json_path}: {error.message}")
    return frame


@cache
def _validators(operations: tuple[str, ...]) -> dict[str, Draft7Validator]:
    """Return a validator for each type of frame in the operations."""
    contract = json.loads(ASYNCAPI.read_text("utf-8"))
    schemas = {name: {"additionalProperties": False, **it} for name, it in contract["components"]["schemas"].items()}
    found = {}
    for operation in operations:
        for message in _at(contract, f"#/operations/{operation}")["messages"]:
            name = _at(contract, message["$ref"])["$ref"].rpartition("/")[2]
            payload = contract["components"]["messages"][name]["payload"]
            found[name] = Draft7Validator({**payload, "components": {"schemas": schemas}}, format_checker=_FORMATS)
    return found


def _at(contract: Any, pointer: str) -> Any:
    for step in pointer.removeprefix("#/").split("/"):
        contract = contract[step]
    return contract


def _refuse(constant: str) -> Any:
    raise ContractError(f"{constant} is no JSON")
