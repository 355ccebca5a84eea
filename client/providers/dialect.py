"""What a dialect is: the pure code and the facts by which one provider is spoken to.

A dialect makes request bodies and reads answers and callbacks; it does no I/O and knows no time. Every method that
takes bytes is total: it gives a reading or raises `UnreadableError`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from client.providers.codes import Code
from client.providers.facts import Fact
from client.providers.readings import Callback, Reading, Submitted, TaskId

__all__ = ["Call", "CallbackRule", "Dialect", "KeyLimits", "PollPlan", "Rate", "SignatureRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a provider: what stands behind its base URL. It holds the client key: never log it.

    `name` is the provider's word for it, for logs and error texts. `seconds` is how long its answer may take, where
    that is not as usual.
    """

    name: str
    path: str = field(repr=False)
    method: str = "POST"
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """So many within so many seconds."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What all tasks of a client key share.

    `requests_per_second` is ours, a courtesy: no provider of this family documents one. `submits` is how many
    createTask requests are allowed, `errors` how many errors get the key or the address blocked: callers stay at half
    of both. `polls_for_all` are polls beyond `polls_for_each` times the number of tasks after which polling is blocked.
    None: not known.
    """

    requests_per_second: float = 20.0
    submits: Rate | None = None
    errors: Rate | None = None
    polls_for_each: int | None = None
    polls_for_all: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPlan:
    """When a task of this provider may be asked for, in seconds from its creation.

    `first_after_seconds` holds where no callback is expected, `first_after_callback_seconds` where one is; then
    `interval_seconds` between two polls, at most `max_polls` (None: no limit is known), never after
    `window_seconds`, when the provider forgets the answer. `grace_seconds` is added before an unknown id or silence
    is taken as final.
    """

    first_after_seconds: float
    first_after_callback_seconds: float
    interval_seconds: float
    max_polls: int | None
    window_seconds: float
    grace_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRule:
    """A hex HMAC-SHA256 over the raw body, in the first of `headers` that is there.

    `is_rewritten`: it may also be over the body as JSON that was read and written again without blanks, which is what
    capsolution's own sample signs (PROVIDERS.md 2.4).
    """

    headers: tuple[str, ...]
    is_rewritten: bool = False

    def verifies(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
        """Whether `body` is signed with `secret`; false for any other header, in constant time over the value."""
        given = next((headers[name] for name in self.headers if name in headers), "")
        sent = given.strip().lower().encode("utf-8", "surrogatepass")
        signed = [body]
        if self.is_rewritten:
            with suppress(ValueError, RecursionError):
                signed.append(json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode())
        return any(
            hmac.compare_digest(sent, hmac.digest(secret, each, hashlib.sha256).hex().encode()) for each in signed
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRule:
    """How a provider calls back.

    `task_id` is "documented" or "inferred" where a callback is known or believed to carry the id, "missing" where it
    may lack it: then a standing URL is refused, because only the URL could tell the task. `shape` is how its bytes are
    read (`client.providers.callbacks`): "result", "code" with the names of its fields, or an envelope of its own.
    `is_account_wide`: it calls one address, that of the account's settings; createTask is told none.
    """

    methods: frozenset[str] = frozenset({"POST"})
    task_id: str = "documented"
    signature: SignatureRule | None = None
    shape: str = "result"
    id_field: str = "id"
    code_field: str = "code"
    status_field: str | None = None
    is_account_wide: bool = False


class Dialect(Protocol):
    """One provider. Attributes are facts; methods are pure."""

    @property
    def provider(self) -> str:
        """The name in URLs and rows."""

    @property
    def base_url(self) -> str | None:
        """The documented endpoint, without a slash at its end; None where none is known."""

    @property
    def callback(self) -> CallbackRule | None:
        """None where the provider documents no callback."""

    @property
    def polls(self) -> PollPlan:
        """The limits on getTaskResult."""

    @property
    def key_limits(self) -> KeyLimits:
        """The limits that all tasks of a key share."""

    @property
    def answer_life_seconds(self) -> float | None:
        """How long an answer is good for after it was finished, if documented."""

    @property
    def codes(self) -> Mapping[str, Code]:
        """What each error code means here."""

    @property
    def has_app_id(self) -> bool:
        """Whether createTask takes an `appId`."""

    @property
    def facts(self) -> Sequence[Fact]:
        """What is known of it, and how surely."""

    def create_task(
        self, client_key: str, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> Call:
        """Return the request that submits a task.

        Raises:
            BadArgumentError: `task` cannot be written, or no such request is known of this provider.
        """

    def get_task_result(self, client_key: str, task_id: TaskId) -> Call:
        """Return the request that asks for a task.

        Raises:
            BadArgumentError: no such request is known of this provider.
        """

    def get_balance(self, client_key: str) -> Call:
        """Return the request for the balance.

        Raises:
            BadArgumentError: no such request is known of this provider.
        """

    def report(self, client_key: str, task_id: TaskId, task_type: str | None, *, is_good: bool) -> Call:
        """Return the request that tells whether an answer was right.

        Raises:
            BadArgumentError: no such request is known of this provider, or none for this type of task.
        """

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """Return an answer as JSON; one that is no JSON is wrapped into what the provider would have written.

        Raises:
            UnreadableError: it is neither (an HTML page).
        """

    def read_create_task(self, answer: Any) -> Submitted:
        """What a createTask answer, already parsed, says."""

    def read_task_result(self, answer: Any) -> Reading:
        """What a getTaskResult answer, already parsed, says."""

    def read_balance(self, answer: Any) -> float | Reading:
        """Return the balance, or what the provider said instead."""

    def read_report(self, answer: Any) -> Reading:
        """`Pending` where the report was taken, else what the provider said instead."""

    def read_callback(self, *, query: bytes, body: bytes) -> Callback:
        """What a delivery says; `query` is the raw query string. It is told by what the bytes are.

        Raises:
            UnreadableError: nothing that this provider is known to send.
        """

    def solution_of(self, code: str, task_type: str | None) -> Any | None:
        """Return the solution that a poll would bring, made from the bare `code` of a callback.

        None where a poll brings more than that: then the callback is no more than a hint (DESIGN 5). Where the type is
        not known (None), it is what the callback said.
        """

    def refuses_callback_url(self, reading: Reading) -> bool:
        """Whether createTask was refused because of the address, so that it may be repeated without one."""
