"""How a sandbox behaves: every choice with its default and the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from client.errors import BadArgumentError
from client.sandbox.faults import FaultRates
from client.sandbox.limits import Limits

__all__ = ["CallbackBody", "Settings"]

CallbackBody = Literal["result", "solution"]
"""`result`: what getTaskResult answers; `solution`: only `taskId` and `solution`. Neither is documented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a sandbox behaves.

    Which faults strike which task depends on `seed` alone. A task takes a time within `latency_seconds`. Without
    `client_keys` any key that is not empty is right; each key starts with `balance`, and a task costs `cost`, which is
    given back if it fails (documented by CapSolver for ERROR_CAPTCHA_UNSOLVABLE). `async_images` makes CapSolver's
    recognition types, which it answers in createTask, asynchronous. `is_status_sent` False leaves `status` out of
    asynchronous createTask answers. `error_status` is the HTTP status of errors, where that is unknown.
    `limits` None takes the provider's. How CapSolver calls back is documented in one sentence only: the body
    (`callback_body`, `callback_has_task_id`), the time-out and whether synchronous tasks are called back
    (`is_sync_called_back`) are guesses, and yours to change;
    `callback_has_task_id` and `callback_timeout_seconds` None do as the provider is thought to. Where the address of
    callbacks belongs to the account, as at capsolution, it is `account_webhook_url`, and `webhook_secret` signs them.
    `registered_hosts` may be called back where a provider wants them registered, as 2captcha does (PROVIDERS.md 2.2).
    A `reordered` callback waits `reorder_seconds` at most.

    Raises:
        BadArgumentError: a value out of its range; the text names it.
    """

    seed: int = 0
    latency_seconds: tuple[float, float] = (0.5, 2.0)
    rates: FaultRates = field(default_factory=FaultRates)
    limits: Limits | None = None
    client_keys: frozenset[str] = field(default=frozenset(), repr=False)
    balance: float = 1000.0
    cost: float = 0.001
    async_images: bool = False
    is_status_sent: bool = True
    error_status: int | None = None
    callback_body: CallbackBody = "result"
    callback_has_task_id: bool | None = None
    callback_timeout_seconds: float | None = None
    is_sync_called_back: bool = False
    registered_hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost"})
    account_webhook_url: str | None = field(default=None, repr=False)
    webhook_secret: bytes | None = field(default=None, repr=False)
    reorder_seconds: float = 5.0

    def __post_init__(self) -> None:
        shortest, longest = self.latency_seconds
        if not (isfinite(longest) and 0 <= shortest <= longest):
            raise BadArgumentError(f"latency: expected 0 <= shortest <= longest, got {shortest} and {longest}")
        for name in ("balance", "cost", "reorder_seconds"):
            value = getattr(self, name)
            if not isfinite(value) or value < 0:
                raise BadArgumentError(f"{name}: expected a number that is not negative, got {value}")
        timeout = self.callback_timeout_seconds
        if timeout is not None and not (isfinite(timeout) and timeout > 0):
            raise BadArgumentError(f"callback_timeout_seconds: expected more than 0, got {timeout}")
        if self.error_status is not None and not 200 <= self.error_status <= 599:
            raise BadArgumentError(f"error_status: expected an HTTP status from 200 to 599, got {self.error_status}")
        address = self.account_webhook_url
        if address is not None and not address.startswith(("http://", "https://")):
            # Without its value: the path is a secret.
            raise BadArgumentError("account_webhook_url: expected an http or https address")
        if "" in self.client_keys:
            raise BadArgumentError("client_keys: a key must not be empty")
