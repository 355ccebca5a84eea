"""Scrapeless (PROVIDERS.md 3.7): the names of the family, with an envelope and paths of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from client.errors import BadArgumentError, UnreadableError
from client.providers.codes import REASON_NOT_GIVEN
from client.providers.declared import DeclaredDialect
from client.providers.dialect import Call
from client.providers.json_family import written
from client.providers.readings import Failed, Pending, Reading, Ready, Refused, Submitted, TaskId
from client.providers.values import parse_object, read_task_id

__all__ = ["ScrapelessDialect"]

_UNFINISHED = ("idle", "pending", "processing", "queued", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapelessDialect(DeclaredDialect):
    """A task is `{"type": actor, "input": {…}, "proxy": {…}}`: its `type` is sent as `actor`.

    The key goes into a header. Where a callback is wanted, the address stands in `webhook.url` (PROVIDERS.md 1).
    """

    image_type: str | None = None

    def create_task(
        self, client_key: str, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> Call:
        """CreateTask.

        Raises:
            BadArgumentError: `task` is not JSON.
        """
        del app_id
        fields = {"actor": task.get("type"), **{name: value for name, value in task.items() if name != "type"}}
        if callback_url is not None:
            fields["webhook"] = {"url": callback_url}
        headers = (*_headers(client_key), ("Content-Type", "application/json"))
        return Call(name="createTask", path="/api/v1/createTask", headers=headers, body=written(fields))

    def get_task_result(self, client_key: str, task_id: TaskId) -> Call:
        """getTaskResult, with the id in the path."""
        path = f"/api/v1/getTaskResult/{quote(str(task_id), safe='')}"
        return Call(name="getTaskResult", path=path, method="GET", headers=_headers(client_key))

    def get_balance(self, client_key: str) -> Call:
        """None is known."""
        del client_key
        raise BadArgumentError(f"{self.provider}: no way to ask for the balance is known")

    def report(self, client_key: str, task_id: TaskId, task_type: str | None, *, is_good: bool) -> Call:
        """None is known."""
        del client_key, task_id
        rule = self.report_rule(task_type, is_good=is_good)
        raise BadArgumentError(f"{self.provider}: no way to send {rule.name} is known")

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """Return the JSON object."""
        return parse_object(raw)

    def read_create_task(self, answer: Any) -> Submitted:
        """Return the id; `state` "idle" means that it waits."""
        fields = _object(answer)
        return Submitted(read_task_id(fields.get("taskId")), self._read(fields, is_new=True))

    def read_task_result(self, answer: Any) -> Reading:
        """Ready with a solution where `success`; a failure carries `message`."""
        return self._read(_object(answer), is_new=False)

    def read_balance(self, answer: Any) -> float | Reading:
        """Nothing is known of it."""
        raise UnreadableError("no balance in the answer")

    def read_report(self, answer: Any) -> Reading:
        """Nothing is known of it."""
        raise UnreadableError("no report in the answer")

    def _read(self, fields: Mapping[str, Any], *, is_new: bool) -> Reading:
        state, solution = fields.get("state"), fields.get("solution")
        # Of an answer no state is documented; one of these says that the solution is not the last.
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
    # Observed: clients that others wrote send the key so; the page in PROVIDERS.md 3.7 does not show it.
    return (("x-api-token", client_key), ("Accept", "application/json"))


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise UnreadableError("expected a JSON object")
    return answer
