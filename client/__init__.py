"""What callers import: submit tasks to a provider and get each answer once, however it comes."""

from __future__ import annotations

from client.errors import (
    BadArgumentError,
    CallbackReceiverError,
    ClientClosedError,
    NoBalanceError,
    ProviderRefusedError,
    ProviderUnreachableError,
    ReceiverRefusedError,
    SlowDownError,
    SubmitUnknownError,
    TaskFailedError,
    TaskTimedOutError,
    UnsolvableError,
    WrongKeyError,
)
from client.protocol import Task as Result
from client.tasks import Task, TaskClient

__all__ = [
    "BadArgumentError",
    "CallbackReceiverError",
    "ClientClosedError",
    "NoBalanceError",
    "ProviderRefusedError",
    "ProviderUnreachableError",
    "ReceiverRefusedError",
    "Result",
    "SlowDownError",
    "SubmitUnknownError",
    "Task",
    "TaskClient",
    "TaskFailedError",
    "TaskTimedOutError",
    "UnsolvableError",
    "WrongKeyError",
]
