"""What a dialect is: the pure code and the facts by which one provider is spoken to.

A dialect makes request bodies and reads answers and callbacks; it does no I/O and knows no time. Every method that
takes bytes is total: it gives a reading or raises `UnreadableError`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from client.providers.codes import Code
from client.providers.readings import Callback, Reading, Submitted, TaskId

__all__ = ["CallbackRule", "Dialect", "PollPlan", "SignatureRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPlan:
    """When a task of this provider may be asked for, in seconds from its creation.

    `first_after_seconds` holds where no callback is expected, `first_after_callback_seconds` where one is; then
    `interval_seconds` between two polls, at most `max_polls` (None: no limit is known), never after
    `window_seconds`, when the provider forgets the answer. `grace_seconds` is added before an unknown id or silence
    is taken as final. `requests_per_second` is ours, a courtesy shared by all tasks of a key: no provider of this
    family documents one.
    """

    first_after_seconds: float
    first_after_callback_seconds: float
    interval_seconds: float
    max_polls: int | None
    window_seconds: float
    grace_seconds: float = 30.0
    requests_per_second: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRule:
    """A hex HMAC-SHA256 over the raw body, in the first of `headers` that is there."""

    headers: tuple[str, ...]

    def verifies(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
        """Whether `body` is signed with `secret`; false for any other header, in constant time over the value."""
        expected = hmac.digest(secret, body, hashlib.sha256).hex().encode()
        given = next((headers[name] for name in self.headers if name in headers), "")
        return hmac.compare_digest(given.strip().lower().encode("utf-8", "surrogatepass"), expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRule:
    """How a provider calls back.

    `task_id` is "documented" or "inferred" where a callback is known or believed to carry the id, "missing" where it
    may lack it: then a standing URL is refused, because only the URL could tell the task.
    """

    methods: frozenset[str] = frozenset({"POST"})
    task_id: str = "documented"
    signature: SignatureRule | None = None


class Dialect(Protocol):
    """One provider. Attributes are facts; methods are pure."""

    @property
    def provider(self) -> str:
        """The name in URLs and rows."""

    @property
    def base_url(self) -> str:
        """The documented endpoint, without a slash at its end."""

    @property
    def callback(self) -> CallbackRule | None:
        """None where the provider documents no callback."""

    @property
    def polls(self) -> PollPlan:
        """The limits on getTaskResult."""

    @property
    def answer_life_seconds(self) -> float | None:
        """How long an answer is good for after it was finished, if documented."""

    @property
    def codes(self) -> Mapping[str, Code]:
        """What each error code means here."""

    @property
    def has_app_id(self) -> bool:
        """Whether createTask takes an `appId`."""

    def create_task_body(
        self, client_key: str, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> bytes:
        """The JSON body of a createTask request."""

    def get_task_result_body(self, client_key: str, task_id: TaskId) -> bytes:
        """The JSON body of a getTaskResult request."""

    def get_balance_body(self, client_key: str) -> bytes:
        """The JSON body of a getBalance request."""

    def read_create_task(self, answer: Any) -> Submitted:
        """What a createTask answer, already parsed, says."""

    def read_task_result(self, answer: Any) -> Reading:
        """What a getTaskResult answer, already parsed, says."""

    def read_balance(self, answer: Any) -> float | Reading:
        """The balance, or what the provider said instead."""

    def read_callback(self, *, query: bytes, body: bytes) -> Callback:
        """What a delivery says; `query` is the raw query string."""

    def refuses_callback_url(self, reading: Reading) -> bool:
        """Whether createTask was refused because of the address, so that it may be repeated without one."""
