"""The wire format of Scrapeless: the names of the family, with its own envelope and paths.

Source: providers/README.md, "Scrapeless".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from client.errors import BadArgumentError, UnreadableError
from client.providers.codes import REASON_NOT_GIVEN
from client.providers.dialect import Call, Dialect
from client.providers.json_family import as_object, encode_json, solution_from_code
from client.providers.readings import Failed, Pending, Reading, Ready, Refused, Submitted, TaskId
from client.providers.rules import ReportRule
from client.providers.values import parse_object, read_task_id

__all__ = ["SCRAPELESS_FAMILY"]

_UNFINISHED = ("idle", "pending", "processing", "queued", "running")


@dataclass(frozen=True, slots=True)
class _ScrapelessFamily:
    """JSON with the key in a header. A task is `{"type": actor, "input": {…}, "proxy": {…}}`: `type` becomes `actor`.

    A wanted callback has its URL in `webhook.url` (providers/README.md, "Callbacks").
    """

    requests: str = "createTask"
    image_type: str | None = None

    def create_task(
        self,
        dialect: Dialect,
        client_key: str,
        task: Mapping[str, Any],
        *,
        callback_url: str | None,
        app_id: str | None,
    ) -> Call:
        """Return a createTask request.

        Raises:
            BadArgumentError: `task` is not JSON.
        """
        del app_id
        fields = {"actor": task.get("type"), **{name: value for name, value in task.items() if name != "type"}}
        if callback_url is not None:
            fields["webhook"] = {"url": callback_url}
        headers = (*_headers(client_key), ("Content-Type", "application/json"))
        return Call(
            name="createTask",
            path="/api/v1/createTask",
            headers=headers,
            body=encode_json(fields),
            seconds=dialect.create_seconds,
        )

    def get_task_result(self, dialect: Dialect, client_key: str, task_id: TaskId) -> Call:
        """Return a getTaskResult request, with the id in its path."""
        del dialect
        path = f"/api/v1/getTaskResult/{quote(str(task_id), safe='')}"
        return Call(name="getTaskResult", path=path, method="GET", headers=_headers(client_key))

    def get_balance(self, dialect: Dialect, client_key: str) -> Call:
        """Refuse: no such request is known."""
        del client_key
        raise BadArgumentError(f"{dialect.provider}: no way to ask for the balance is known")

    def report(self, dialect: Dialect, client_key: str, task_id: TaskId, rule: ReportRule) -> Call:
        """Refuse: no such request is known."""
        del client_key, task_id
        raise BadArgumentError(f"{dialect.provider}: no way to send {rule.name} is known")

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """Return the JSON object."""
        return parse_object(raw)

    def read_create_task(self, dialect: Dialect, answer: Any) -> Submitted:
        """Return the id. The `state` "idle" means waiting."""
        del dialect
        fields = as_object(answer)
        return Submitted(read_task_id(fields.get("taskId")), _read(fields, is_new=True))

    def read_task_result(self, dialect: Dialect, answer: Any) -> Reading:
        """Return `Ready` for a solution with `success`. A failure carries `message`."""
        del dialect
        return _read(as_object(answer), is_new=False)

    def read_balance(self, dialect: Dialect, answer: Any) -> float | Reading:
        """Refuse: nothing is known about such answers."""
        raise UnreadableError("no balance in the answer")

    def read_report(self, dialect: Dialect, answer: Any) -> Reading:
        """Refuse: nothing is known about such answers."""
        raise UnreadableError("no report in the answer")

    def solution_of(self, dialect: Dialect, code: str, task_type: str | None) -> Any | None:
        """Return the JSON in `code` if the type is unknown, or else None: a poll brings more."""
        return solution_from_code(dialect, code, task_type)


SCRAPELESS_FAMILY = _ScrapelessFamily()


def _read(fields: Mapping[str, Any], *, is_new: bool) -> Reading:
    state, solution = fields.get("state"), fields.get("solution")
    # No state is documented for answers. One of the unfinished states says that the solution is not the last one.
    if solution is not None and fields.get("success") is True and state not in _UNFINISHED:
        return Ready(solution)
    message = fields.get("message")
    text = message if isinstance(message, str) and message else None
    if fields.get("success") is False and (text is not None or state in (None, "completed", "failed")):
        # At createTask it is about the request: no task was made.
        if is_new:
            return Refused(1, REASON_NOT_GIVEN, text)
        # There are no codes: without a final state, it may be about anything.
        return Failed(1, REASON_NOT_GIVEN, text, is_listed=state in ("completed", "failed"))
    if not fields.keys() & {"state", "success", "taskId"}:
        raise UnreadableError("expected state, success or taskId in the object")
    return Pending(state if isinstance(state, str) else "")


def _headers(client_key: str) -> tuple[tuple[str, str], ...]:
    # Observed: third-party clients send the key in this header. Its page does not show it (providers/README.md,
    # "Scrapeless").
    return (("x-api-token", client_key), ("Accept", "application/json"))
