"""The public names of the client: submit tasks to a provider, and get each answer once."""

from __future__ import annotations

from client.config.providers import load_providers
from client.errors import (
    BadArgumentError,
    CallbackReceiverError,
    ClientClosedError,
    NoBalanceError,
    ProviderRefusedError,
    ProviderUnreachableError,
    ReceiverRefusedError,
    ResultsGapError,
    SlowDownError,
    StaleAnswerError,
    SubmitUnknownError,
    TaskFailedError,
    TaskParametersError,
    TaskTimedOutError,
    UnsolvableError,
    WrongKeyError,
)
from client.protocol.models import Task as Result
from client.provider_api.timeline import TimelineStep as Step
from client.results import read_results
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
    "ResultsGapError",
    "SlowDownError",
    "StaleAnswerError",
    "Step",
    "SubmitUnknownError",
    "Task",
    "TaskClient",
    "TaskFailedError",
    "TaskParametersError",
    "TaskTimedOutError",
    "UnsolvableError",
    "WrongKeyError",
    "load_providers",
    "read_results",
]
