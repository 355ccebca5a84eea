"""A check of the API's responses against its written contract, stricter than any reader has to be.

A field, a status or a content type outside the contract is an error, and so is a malformed date.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from tests.contracts.check_streams import ContractError
from tests.readme import OPENAPI

__all__ = ["check_answer"]

_FORMATS = FormatChecker(formats=["date-time"])


def check_answer(method: str, path: str, status: int, content_type: str, body: bytes) -> None:
    """Accept responses that the contract allows, and those of other paths.

    Raises:
        ContractError: the operation has no such response; the text says where and why.
    """
    operation = _operation(method, path.partition("?")[0])
    if operation is None:
        return
    name, answers = operation
    if str(status) not in answers:
        raise ContractError(f"{name}: no answer with the status {status}: {body[:500]!r}")
    contents = answers[str(status)].get("content", {})
    kind = content_type.partition(";")[0]
    if not contents:
        if body:
            raise ContractError(f"{name}: expected no body with the status {status}")
        return
    if kind not in contents:
        raise ContractError(f"{name}: no {kind} with the status {status}")
    if kind.endswith("json"):
        for error in _validator(json.dumps(contents[kind]["schema"])).iter_errors(json.loads(body)):
            raise ContractError(f"{name}: {error.json_path}: {error.message[:500]}")


@cache
def _contract() -> Any:
    return json.loads(OPENAPI.read_text("utf-8"))


@cache
def _paths() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Return the paths as patterns with their operations. Those without parameters come first, as in the router."""
    paths = sorted(_contract()["paths"].items(), key=lambda path: path[0].count("{"))
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), operations) for path, operations in paths]


def _operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    for pattern, operations in _paths():
        if pattern.fullmatch(path):
            operation = operations.get(method.lower())
            return None if operation is None else (f"{method} {pattern.pattern}", operation["responses"])
    return None


@cache
def _validator(schema: str) -> Draft202012Validator:
    schemas = {
        name: {"additionalProperties": False, **it} if "properties" in it else it
        for name, it in _contract()["components"]["schemas"].items()
    }
    return Draft202012Validator({**json.loads(schema), "components": {"schemas": schemas}}, format_checker=_FORMATS)
