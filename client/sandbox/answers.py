"""The right solution of a task: a pure function of the task's content, so that mixed-up answers show."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from client.providers.values import canonical_json
from client.sandbox.wires import profile_named
from client.sandbox.wires.solutions import is_recognition
from client.sandbox.wires.v1_family import text_task

__all__ = ["FAULTS_FIELD", "content_digest", "content_of", "expected_solution", "is_recognition"]

FAULTS_FIELD = "sandbox"
"""The field of a task object that asks for faults; it is no part of the task's content."""


def content_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task without what only the sandbox reads."""
    return {name: value for name, value in task.items() if name != FAULTS_FIELD}


def content_digest(task: Mapping[str, Any]) -> bytes:
    """32 bytes that are equal for tasks of equal content, in whatever order their fields stand."""
    return hashlib.sha256(canonical_json(content_of(task)).encode()).digest()


def expected_solution(dialect_name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the solution that the sandbox of that dialect gives to `task`.

    Raises:
        BadArgumentError: no such dialect.
    """
    profile = profile_named(dialect_name)
    content = text_task(content_of(task)) if profile.api == "v1" else task
    return profile.solution(str(task.get("type", "")), content_digest(content))
