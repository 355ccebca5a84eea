"""The requests of each family, under the names of createTask and getTaskResult, checked field by field. Pure.

Bytes or a form come in; values or a refusal go out.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from client.errors import BadArgumentError, UnreadableError
from client.providers.values import parse_object
from client.sandbox.faults import Faults, read_faults
from client.sandbox.wires.solutions import FAULTS_FIELD, content_of, is_recognition

__all__ = [
    "SCRAPELESS_KEY_HEADER",
    "RefusalError",
    "TaskRequest",
    "in_php_fields",
    "read_fields",
    "read_task_id",
    "read_task_request",
    "res_php_fields",
    "scrapeless_create_fields",
    "scrapeless_result_fields",
]

# Observed: in the code that its site hands out, and in clients that others wrote.
SCRAPELESS_KEY_HEADER = "x-api-token"
_LONGEST_URL = 2048
# The parameters that in.php reads itself; the rest is the task.
_IN_PHP_PARAMETERS = frozenset({"key", "method", "json", "pingback", "soft_id"})


class RefusalError(Exception):
    """The request gets an error answer with this code, and with this text if the usual one says too little."""

    def __init__(self, error_code: str, description: str | None = None) -> None:
        super().__init__(error_code)
        self.error_code = error_code
        self.description = description


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A createTask request: the task without the field `sandbox`, the faults of that field, and the callback URL."""

    task: dict[str, Any] = field(repr=False)
    faults: Faults | None
    callback_url: str | None = field(repr=False)

    @property
    def type(self) -> str:
        """The type of the task."""
        return str(self.task["type"])


def read_fields(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a request, whatever its content type.

    Raises:
        RefusalError: ERROR_BAD_REQUEST.
    """
    try:
        return parse_object(body)
    except UnreadableError as error:
        raise RefusalError("ERROR_BAD_REQUEST", str(error)) from None


def in_php_fields(form: Mapping[str, str | bytes], *, is_get: bool) -> dict[str, Any]:
    """Return a request of in.php as fields of createTask. A file becomes base64; `sandbox` is JSON in text."""
    values = {name: b64encode(value).decode() if isinstance(value, bytes) else value for name, value in form.items()}
    task: dict[str, Any] = {"type": values.get("method", "")}
    task |= {name: value for name, value in values.items() if name not in _IN_PHP_PARAMETERS}
    if FAULTS_FIELD in values:
        # Any other text stays, and is refused as the field of a task.
        with suppress(UnreadableError):
            task[FAULTS_FIELD] = parse_object(values[FAULTS_FIELD].encode())
    pingback = values.get("pingback")
    if is_get and pingback is not None:
        # Asked by GET, only the first parameter of the address survives (providers/README.md, "Form callbacks").
        pingback = pingback.partition("&")[0]
    return {"clientKey": values.get("key"), "task": task, "callbackUrl": pingback}


def res_php_fields(query: Mapping[str, str]) -> dict[str, Any]:
    """Return a request of res.php as fields of getTaskResult."""
    return {**query, "clientKey": query.get("key"), "taskId": query.get("id")}


def scrapeless_create_fields(fields: Mapping[str, Any], client_key: str | None) -> dict[str, Any]:
    """Return a request to Scrapeless as fields of createTask. Its `actor` is the type of the task."""
    task = {name: value for name, value in fields.items() if name not in ("actor", "webhook")}
    webhook = fields.get("webhook")
    url = webhook.get("url") if isinstance(webhook, dict) else None
    return {"clientKey": client_key, "task": {"type": fields.get("actor"), **task}, "callbackUrl": url}


def scrapeless_result_fields(task_id: str, client_key: str | None) -> dict[str, Any]:
    """Return a request to Scrapeless as fields of getTaskResult."""
    return {"clientKey": client_key, "taskId": task_id}


def read_task_request(fields: Mapping[str, Any], provider: str) -> TaskRequest:
    """Return the task to be made. Unknown fields are ignored, as `appId` is.

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
    """Require `body`. 1captcha.vip wants it without line breaks, and an `imageType`."""
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
    """Return the address, or None for no callback. Libraries send None or "" if none was asked for."""
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
