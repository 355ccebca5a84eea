"""The rules of one provider: limits on requests and polls, the form of its callbacks, and the names of its reports."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

__all__ = ["CallbackRule", "CallbackShape", "IdType", "KeyLimits", "PollPlan", "Rate", "ReportRule", "SignatureRule"]

IdType = Literal["integer", "text"]
"""The JSON type of the ids in createTask answers."""

CallbackShape = Literal["result", "code", "hardcaptcha", "capsolution", "scrapeless"]
"""The forms of callbacks: the getTaskResult answer, an id with a bare answer, or the envelope of one provider."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of requests within a number of seconds."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """The limits on all tasks of a client key together.

    `requests_per_second` is our own courtesy limit: no provider of this family documents one. `submits` is the allowed
    rate of createTask requests. At the rate `errors`, the provider blocks the key or the address. Callers stay at half
    of both. Polling is blocked beyond `polls_for_all` polls plus `polls_for_each` for each task. None: no limit is
    known.
    """

    requests_per_second: float = 20.0
    submits: Rate | None = None
    errors: Rate | None = None
    polls_for_each: int | None = None
    polls_for_all: int = 0

    @property
    def submit_gap_seconds(self) -> float:
        """The time between two createTask requests, at half of the allowed rate; 0 without one."""
        return 0.0 if self.submits is None else self.submits.seconds / max(1.0, self.submits.count / 2)

    def allows_poll(self, polls: int, tasks: int, *, is_first: bool, is_hinted: bool) -> bool:
        """Return True for one more poll after `polls` polls of `tasks` tasks. The first poll of a task adds it to them.

        Half of the extra allowance is reserved for urgent polls: a task's first one and hinted ones.
        """
        if self.polls_for_each is None:
            return True
        spare = self.polls_for_all if is_first or is_hinted else self.polls_for_all // 2
        return polls + 1 < self.polls_for_each * (tasks + is_first) + spare


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPlan:
    """The times of a task's polls, in seconds from its creation.

    The first poll comes after `first_after_seconds`, or after `first_after_callback_seconds` if a callback is expected.
    `interval_seconds` lie between two polls. There are at most `max_polls` (None: no limit is known), and none after
    `window_seconds`, because the provider forgets the answer then. `grace_seconds` are added before an unknown id or
    silence becomes final.
    """

    first_after_seconds: float
    first_after_callback_seconds: float
    interval_seconds: float
    max_polls: int | None
    window_seconds: float
    grace_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRule:
    """A hex HMAC-SHA256 over the raw body, in the first header of `headers` in the request.

    With `is_rewritten` a signature over the compact form of the same JSON is valid too. The sample of capsolution signs
    that form (providers/README.md, "Envelope callbacks").
    """

    headers: tuple[str, ...]
    is_rewritten: bool = False

    def verifies(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
        """Return True if `body` is signed with `secret`. The comparison takes constant time."""
        given = next((headers[name] for name in self.headers if name in headers), "")
        signature = given.strip().lower().encode("utf-8", "surrogatepass")
        signed = [body]
        if self.is_rewritten:
            with suppress(ValueError, RecursionError):
                signed.append(json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode())
        return any(
            hmac.compare_digest(signature, hmac.digest(secret, form, hashlib.sha256).hex().encode()) for form in signed
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRule:
    """The form in which a provider calls back.

    `task_id` is "documented", "observed" or "inferred" if callbacks carry the id, and "missing" if they may lack it.
    A standing URL is refused for "missing", because only a task URL can tell the task then. `shape` selects the reader
    in `client.providers.callbacks`. The shape "code" names its fields here. With `is_account_wide` the provider calls
    one address from the settings of the account, and createTask sends none.
    """

    methods: frozenset[str] = frozenset({"POST"})
    task_id: str = "documented"
    signature: SignatureRule | None = None
    shape: CallbackShape = "result"
    id_field: str = "id"
    code_field: str = "code"
    status_field: str | None = None
    is_account_wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRule:
    """A request for reporting a right or a wrong answer.

    `types` are parts of task types in small letters. The rule applies to these types, or to all if there are none.
    """

    name: str
    is_good: bool
    types: tuple[str, ...] = ()
