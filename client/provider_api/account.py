"""What is asked of a provider beside tasks: the balance, and what came of its answers."""

from __future__ import annotations

from typing import assert_never

from client.errors import BadArgumentError, ProviderUnreachableError
from client.provider_api.errors import refusal_of
from client.provider_api.http import ProviderApi
from client.providers.readings import Failed, Pending, Ready, Refused, TaskId, Unknown
from client.providers.values import MAX_TASK_ID_LENGTH, is_too_long

__all__ = ["ask_balance", "check_task_id", "send_report"]


async def ask_balance(provider: ProviderApi, name: str) -> float:
    """What the provider says is left in the account, in its unit; `name` is what it is called in errors.

    Raises:
        WrongKeyError, ProviderRefusedError: it refused to say.
        ProviderUnreachableError: there was no answer.
        BadArgumentError: how to ask it is not known.
    """
    match (await provider.get_balance()).said:
        case float() as balance:
            return balance
        case Refused() | Failed() | Unknown() as said:
            raise refusal_of(name, said)
        case Pending() | Ready():
            raise ProviderUnreachableError(f"{name}: getBalance was not answered with a balance")
        case said:
            assert_never(said)


async def send_report(
    provider: ProviderApi, name: str, task_id: TaskId, task_type: str | None, *, is_good: bool
) -> None:
    """Return once the provider took the report of a right or a wrong answer. It is sent once, whatever comes of it.

    Raises:
        BadArgumentError: this is no id, or no way to report is known, or none for this type of task.
        WrongKeyError, SlowDownError, ProviderRefusedError: it refused the report.
        ProviderUnreachableError: there was no answer.
    """
    check_task_id(task_id)
    match (await provider.report(task_id, task_type, is_good=is_good)).said:
        case Pending() | Ready():
            return
        case Refused() | Failed() | Unknown() as said:
            raise refusal_of(name, said)
        case said:
            assert_never(said)


def check_task_id(task_id: TaskId) -> None:
    """Refuses what cannot be an id.

    Raises:
        BadArgumentError: it is neither an integer nor a text, is nothing, or is too long.
    """
    if isinstance(task_id, bool) or not isinstance(task_id, int | str) or not task_id:
        raise BadArgumentError(f"task_id: expected an integer or a text, got {task_id!r}")
    if is_too_long(task_id):
        raise BadArgumentError(f"task_id: expected at most {MAX_TASK_ID_LENGTH} characters")
