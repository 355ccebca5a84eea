"""What a caller sent, checked field by field: bytes in, values or a refusal out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from client.errors import BadArgumentError, UnreadableError
from client.providers.values import parse_object
from client.sandbox.answers import FAULTS_FIELD, content_of, is_recognition
from client.sandbox.faults import Faults, read_faults
from client.sandbox.limits import RefusalError

__all__ = ["TaskRequest", "read_fields", "read_task_id", "read_task_request"]

_LONGEST_URL = 2048


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A createTask request: the task without the field `sandbox`, what that asked for, and where to call back."""

    task: dict[str, Any] = field(repr=False)
    faults: Faults | None
    callback_url: str | None = field(repr=False)

    @property
    def type(self) -> str:
        """The type of the task."""
        return str(self.task["type"])


def read_fields(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a request, whatever its content type said.

    Raises:
        RefusalError: ERROR_BAD_REQUEST.
    """
    try:
        return parse_object(body)
    except UnreadableError as error:
        raise RefusalError("ERROR_BAD_REQUEST", str(error)) from None


def read_task_request(fields: Mapping[str, Any], provider: str) -> TaskRequest:
    """Return the task to be made; fields nobody here knows are ignored, as `appId` is.

    Raises:
        RefusalError: ERROR_INVALID_TASK_DATA, with the field in its text.
    """
    task = fields.get("task")
    if not isinstance(task, dict):
        raise _invalid("task: expected an object")
    if not isinstance(task.get("type"), str) or not task["type"]:
        raise _invalid("task.type: expected the name of a task type")
    _check_image(task, provider)
    try:
        faults = read_faults(task[FAULTS_FIELD]) if FAULTS_FIELD in task else None
    except BadArgumentError as error:
        raise _invalid(f"task.{error}") from None
    return TaskRequest(content_of(task), faults, _callback_url(fields.get("callbackUrl")))


def read_task_id(fields: Mapping[str, Any]) -> str:
    """Return the id asked for, as text.

    Raises:
        RefusalError: ERROR_TASKID_INVALID.
    """
    task_id = fields.get("taskId")
    if isinstance(task_id, bool) or not isinstance(task_id, int | str):
        raise RefusalError("ERROR_TASKID_INVALID")
    return str(task_id)


def _check_image(task: Mapping[str, Any], provider: str) -> None:
    """`body` must be there; 1captcha.vip wants it without line breaks, and an `imageType`."""
    if not is_recognition(task["type"]):
        return
    name = next((name for name in ("body", "image", "images") if task.get(name)), None)
    if name is None:
        raise _invalid("task.body: expected the image in base64")
    if provider != "onecaptcha":
        return
    if not isinstance(task.get("imageType"), str) or not task["imageType"]:
        raise _invalid("task.imageType: expected the kind of image")
    if set("\r\n") & set(str(task[name])):
        raise _invalid(f"task.{name}: expected base64 without line breaks")


def _callback_url(value: Any) -> str | None:
    """None and "" mean no callback: libraries send both where none was asked for."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and len(value) <= _LONGEST_URL and _is_web_address(value):
        return value
    raise _invalid("callbackUrl: expected an http or https address")


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _invalid(text: str) -> RefusalError:
    return RefusalError("ERROR_INVALID_TASK_DATA", f"invalid task data: {text}")
