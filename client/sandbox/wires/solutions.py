"""The right solution of a task at each provider: a pure function of the task's type and content.

The shapes are those of the documented examples (providers/README.md, "CapSolver", "1captcha.vip", "2captcha and
ruCaptcha", "JSON requests"; both seeds). The texts are invented. They follow from the content, so that mixed-up answers
show.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any

from client.providers.values import canonical_json

__all__ = [
    "FAULTS_FIELD",
    "SolutionOf",
    "bare_solution",
    "content_digest",
    "content_of",
    "family_solution",
    "is_recognition",
    "onecaptcha_solution",
    "text_task",
    "token_solution",
    "twocaptcha_solution",
]

FAULTS_FIELD = "sandbox"
"""The field of a task object that asks for faults; it is no part of the task's content."""

SolutionOf = Callable[[str, bytes], dict[str, Any]]
"""From the type of a task and the digest of its content to its solution."""

_RECOGNITION_TYPES = frozenset({"ImageToTextTask", "VisionEngine"})
_IMAGE_METHODS = frozenset({"post", "base64"})
_TOKEN_ONLY = ("AntiTurnstile", "FunCaptcha")
_USER_AGENT = "Mozilla/5.0 (sandbox)"


def content_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task without the field that only the sandbox reads."""
    return {name: value for name, value in task.items() if name != FAULTS_FIELD}


def content_digest(task: Mapping[str, Any]) -> bytes:
    """Return 32 bytes that are equal for tasks of equal content, in any order of their fields."""
    return hashlib.sha256(canonical_json(content_of(task)).encode()).digest()


def text_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task as it arrives at in.php: all its values are text, as a form has them."""
    return {name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in task.items()}


def is_recognition(task_type: str) -> bool:
    """Return True for images and classifications, which CapSolver answers in createTask itself."""
    return task_type in _RECOGNITION_TYPES or task_type.endswith("Classification")


def family_solution(task_type: str, digest: bytes) -> dict[str, Any]:
    """Return `text` for an image, `gRecaptchaResponse` or `token` for a page, as CapSolver does.

    Source: providers/README.md, "JSON requests".
    """
    if task_type.endswith("Classification"):
        return {"objects": sorted({byte % 9 for byte in digest[:4]})}
    if is_recognition(task_type):
        return {"text": _text(digest)}
    field = "token" if task_type.startswith(_TOKEN_ONLY) else "gRecaptchaResponse"
    return {"userAgent": _USER_AGENT, field: _token(digest)}


def onecaptcha_solution(task_type: str, digest: bytes) -> dict[str, Any]:
    """Return the one field for text and tokens alike, and for about a third of all contents a `respKey`."""
    answer = _text(digest) if is_recognition(task_type) else _token(digest)
    solution: dict[str, Any] = {"gRecaptchaResponse": answer}
    if digest[5] % 3 == 0:
        solution["respKey"] = int.from_bytes(digest[6:9])
    return solution


def twocaptcha_solution(task_type: str, digest: bytes) -> dict[str, Any]:
    """Return `text` for an image, or a token under two names (observed in AndreiDrang/python-rucaptcha)."""
    if is_recognition(task_type):
        return {"text": _text(digest)}
    token = _token(digest)
    return {"gRecaptchaResponse": token, "token": token}


def bare_solution(task_type: str, digest: bytes) -> dict[str, Any]:
    """Return the one text of in.php and res.php, under the name that a callback gives it.

    Source: providers/README.md, "Older API".
    """
    return {"code": _text(digest) if task_type in _IMAGE_METHODS else _token(digest)}


def token_solution(task_type: str, digest: bytes) -> dict[str, Any]:
    """Return a token and nothing else (providers/README.md, "Envelope callbacks", "Scrapeless")."""
    del task_type
    return {"token": _token(digest)}


def _text(digest: bytes) -> str:
    return b32encode(digest[:5]).decode().lower()


def _token(digest: bytes) -> str:
    return "sandbox_" + urlsafe_b64encode(digest * 2).decode().rstrip("=")
