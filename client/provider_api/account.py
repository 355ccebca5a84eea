"""Requests beside tasks: the account's balance, and reports of right and wrong answers."""

from __future__ import annotations

from typing import assert_never

from client.errors import BadArgumentError, ProviderUnreachableError
from client.provider_api.errors import refusal_of
from client.provider_api.http import ProviderApi
from client.providers.readings import Failed, Pending, Ready, Refused, TaskId, Unknown
from client.providers.values import MAX_TASK_ID_LENGTH, is_too_long

__all__ = ["ask_balance", "check_task_id", "send_report"]


async def ask_balance(provider: ProviderApi, name: str) -> float:
    """Return the balance of the account, in the provider's unit. `name` is the provider's name in errors.

    Raises:
        WrongKeyError, ProviderRefusedError: the provider refused the request.
        ProviderUnreachableError: there was no answer.
        BadArgumentError: the dialect has no such request.
    """
    match (await provider.get_balance()).reading:
        case float() as balance:
            return balance
        case Refused() | Failed() | Unknown() as refusal:
            raise refusal_of(name, refusal)
        case Pending() | Ready():
            raise ProviderUnreachableError(f"{name}: expected a balance from getBalance, got another answer")
        case reading:
            assert_never(reading)


async def send_report(
    provider: ProviderApi, name: str, task_id: TaskId, task_type: str | None, *, is_good: bool
) -> None:
    """Report an answer as right or wrong. The report is sent once, even if it fails.

    Raises:
        BadArgumentError: the id is wrong, or the dialect has no such request, for any type of task or for this one.
        WrongKeyError, SlowDownError, ProviderRefusedError: the provider refused the report.
        ProviderUnreachableError: there was no answer.
    """
    check_task_id(task_id)
    match (await provider.report(task_id, task_type, is_good=is_good)).reading:
        case Pending() | Ready():
            return
        case Refused() | Failed() | Unknown() as refusal:
            raise refusal_of(name, refusal)
        case reading:
            assert_never(reading)


def check_task_id(task_id: TaskId) -> None:
    """Check the provider's id of a task.

    Raises:
        BadArgumentError: it is neither an integer nor a text, is empty, or is too long.
    """
    if isinstance(task_id, bool) or not isinstance(task_id, int | str) or not task_id:
        raise BadArgumentError(f"task_id: expected an integer or a text, got {task_id!r}")
    if is_too_long(task_id):
        raise BadArgumentError(f"task_id: expected at most {MAX_TASK_ID_LENGTH} characters, got more")
