"""The right solution of a task: a pure function of the task's content, so that mixed-up answers show.

The shapes are those of the documented examples: `text` for an image and `gRecaptchaResponse` for a token at CapSolver
(PROVIDERS.md 3.1, 8; seed: CapSolver), `gRecaptchaResponse` for everything and sometimes an integer `respKey` at
1captcha.vip (PROVIDERS.md 3.2; seed: 1captcha).
"""

from __future__ import annotations

import hashlib
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from client.providers.values import canonical_json
from client.sandbox.wires import profile_named

__all__ = ["FAULTS_FIELD", "content_digest", "content_of", "expected_solution", "is_recognition"]

FAULTS_FIELD = "sandbox"
"""The field of a task object that asks for faults; it is no part of the task's content."""

_RECOGNITION_TYPES = frozenset({"ImageToTextTask", "VisionEngine"})
_TOKEN_ONLY = ("AntiTurnstile", "FunCaptcha")
_USER_AGENT = "Mozilla/5.0 (sandbox)"


def content_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """The task without what only the sandbox reads."""
    return {name: value for name, value in task.items() if name != FAULTS_FIELD}


def content_digest(task: Mapping[str, Any]) -> bytes:
    """32 bytes that are equal for tasks of equal content, in whatever order their fields stand."""
    return hashlib.sha256(canonical_json(content_of(task)).encode()).digest()


def is_recognition(task_type: str) -> bool:
    """Whether CapSolver answers this type in createTask itself: images and classifications."""
    return task_type in _RECOGNITION_TYPES or task_type.endswith("Classification")


def expected_solution(dialect_name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """The solution that the sandbox of that dialect gives to `task`.

    Raises:
        BadArgumentError: no such dialect.
    """
    profile_named(dialect_name)
    digest = content_digest(task)
    task_type = str(task.get("type", ""))
    if dialect_name == "onecaptcha":
        return _onecaptcha_solution(task_type, digest)
    return _capsolver_solution(task_type, digest)


def _capsolver_solution(task_type: str, digest: bytes) -> dict[str, Any]:
    if task_type.endswith("Classification"):
        return {"objects": sorted({byte % 9 for byte in digest[:4]})}
    if is_recognition(task_type):
        return {"text": _text(digest)}
    field = "token" if task_type.startswith(_TOKEN_ONLY) else "gRecaptchaResponse"
    return {"userAgent": _USER_AGENT, field: _token(digest)}


def _onecaptcha_solution(task_type: str, digest: bytes) -> dict[str, Any]:
    """The one field for text and tokens alike, and for about a third of all contents a `respKey`."""
    answer = _text(digest) if is_recognition(task_type) else _token(digest)
    solution: dict[str, Any] = {"gRecaptchaResponse": answer}
    if digest[5] % 3 == 0:
        solution["respKey"] = int.from_bytes(digest[6:9])
    return solution


def _text(digest: bytes) -> str:
    return b32encode(digest[:5]).decode().lower()


def _token(digest: bytes) -> str:
    return "sandbox_" + urlsafe_b64encode(digest * 2).decode().rstrip("=")
