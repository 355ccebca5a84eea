"""The settings of a sandbox: every choice with its default, its reason and its option of the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from math import inf, isfinite
from types import MappingProxyType
from typing import Any, Literal, get_args

from client.errors import BadArgumentError

__all__ = [
    "CALLBACK_FAULTS",
    "HTTP_FAULTS",
    "CallbackFault",
    "FaultRates",
    "HttpFault",
    "Option",
    "SandboxLimits",
    "SandboxSettings",
]

CallbackFault = Literal["lost", "late", "twice", "early", "reordered", "truncated", "otherTaskId"]
"""A fault of a callback; `CALLBACK_FAULTS` describes each."""

CALLBACK_FAULTS: Mapping[CallbackFault, str] = MappingProxyType(
    {
        "lost": "Callbacks that are never sent.",
        "late": "Callbacks sent only after a poll has fetched the outcome, or when it can be read no longer.",
        "twice": "Callbacks sent two times.",
        "early": "Callbacks sent, and answered, before the createTask answer.",
        "reordered": "Callbacks sent after that of a task which finished later.",
        "truncated": "Callbacks with half a body, or half a query. Half a form can still be read.",
        "otherTaskId": "Callbacks that name somebody else's task.",
    }
)

HttpFault = Literal["429", "500", "html", "500json", "403", "unlisted"]
"""A fault in place of an answer; `HTTP_FAULTS` describes each. The last three strike only tasks that order them."""

HTTP_FAULTS: Mapping[HttpFault, str] = MappingProxyType(
    {
        "429": "Calls answered by HTTP 429, with JSON and Retry-After.",
        "500": "Calls answered by HTTP 500, without JSON.",
        "html": "Calls answered by an HTML page under HTTP 200.",
        "500json": "Calls answered by HTTP 500, with a JSON error that has no code.",
        "403": "Calls answered by HTTP 403, with an HTML page as of a firewall.",
        "unlisted": "Calls answered by an error whose code is on no list.",
    }
)


@dataclass(frozen=True, slots=True)
class Option:
    """An option of the command `sandbox`, for a field of the settings.

    The type of the field is the type of the option. Numbers must lie in `span`. The environment variable `variable`
    holds the value if the option is not given.
    """

    name: str
    help: str
    span: tuple[float, float] = (0, inf)
    metavar: str | None = None
    variable: str | None = None


def _setting(default: Any, *options: Option, read: Callable[..., Any] = lambda value: value, **others: Any) -> Any:
    """Declare a field and its options. `read` makes the field's value of theirs; None is an option not given."""
    return field(default=default, metadata={"options": options, "read": read}, **others)


def _rate(name: str, text: str) -> Any:
    return _setting(0.0, Option(name, text, span=(0, 1), metavar="PROBABILITY"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """The probability of each fault. At most one callback fault strikes a task.

    Raises:
        BadArgumentError: a rate is outside 0 to 1, or the rates of one kind add up to more than 1.
    """

    callback_lost: float = _rate("--callback-lost", CALLBACK_FAULTS["lost"])
    callback_late: float = _rate("--callback-late", CALLBACK_FAULTS["late"])
    callback_twice: float = _rate("--callback-twice", CALLBACK_FAULTS["twice"])
    callback_early: float = _rate("--callback-early", CALLBACK_FAULTS["early"])
    callback_reordered: float = _rate("--callback-reordered", CALLBACK_FAULTS["reordered"])
    callback_truncated: float = _rate("--callback-truncated", CALLBACK_FAULTS["truncated"])
    callback_other_task_id: float = _rate("--callback-other-task-id", CALLBACK_FAULTS["otherTaskId"])
    fails: float = _rate("--fails", "Tasks that end with ERROR_CAPTCHA_UNSOLVABLE.")
    http_429: float = _rate("--http-429", HTTP_FAULTS["429"])
    http_500: float = _rate("--http-500", HTTP_FAULTS["500"])
    html: float = _rate("--html", HTTP_FAULTS["html"])

    def __post_init__(self) -> None:
        for rate in fields(self):
            value = getattr(self, rate.name)
            if not (isfinite(value) and 0 <= value <= 1):
                raise BadArgumentError(f"{rate.name}: expected a probability from 0 to 1, got {value}")
        for kind, rates in (("callback", self.of_callbacks()), ("HTTP", self.of_calls())):
            if sum(rates.values()) > 1 + 1e-9:
                raise BadArgumentError(f"the probabilities of all {kind} faults add up to more than 1")

    def of_callbacks(self) -> dict[CallbackFault, float]:
        """Return the rate of each callback fault."""
        return {fault: getattr(self, f"callback_{_snake(fault)}") for fault in get_args(CallbackFault)}

    def of_calls(self) -> dict[HttpFault, float]:
        """Return the rate of each fault that can strike any call."""
        return {"429": self.http_429, "500": self.http_500, "html": self.html}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """The limits of a provider. A count of 0 is no limit.

    Polls: a task can be polled `max_polls` times, and for `window_seconds` after its creation. Then its id is unknown
    (ERROR_TASKID_INVALID). The task fails with ERROR_TASK_TIMEOUT after `task_timeout_seconds`. Polls closer than
    `poll_interval_seconds` are counted. If `is_interval_enforced`, they are refused too (ERROR_RATE_LIMIT).

    Bans: `ban_errors` errors within 60 s block an address for `ban_seconds` (ERROR_IP_BANNED). `key_block_errors`
    errors block a key for `key_block_seconds` (ERROR_KEY_TEMP_BLOCKED). If there are `ban_codes`, only these errors
    count for the address. `poll_ban_seconds` is the ban of polls, if it differs.

    Keys: more than `submit_count` createTask calls within `submit_seconds` are refused for `submit_ban_seconds`
    (MAX_USER_TURN). A key may poll `polls_for_each` times for each task and `polls_for_all` times besides. Beyond
    that, polls are refused for `all_polls_ban_seconds` (ERROR: 1005).

    Reports: an answer can be reported for `report_seconds` after the end of its task.

    Raises:
        BadArgumentError: a number is negative or not finite.
    """

    max_polls: int = _setting(
        120, Option("--max-polls", "Per task, 0: any. capsolver: 120; onecaptcha unknown, placeholder 120.")
    )
    window_seconds: float = _setting(
        300.0,
        Option(
            "--window",
            "Seconds from creation in which a task can be read. capsolver: 300; onecaptcha unknown, placeholder 330.",
        ),
    )
    task_timeout_seconds: float = _setting(
        120.0,
        Option(
            "--task-timeout",
            "Seconds until a task fails. capsolver: 120; onecaptcha: 300, its code unknown: ERROR_TASK_TIMEOUT.",
        ),
    )
    poll_interval_seconds: float = _setting(
        3.0, Option("--poll-interval", "Advised seconds between two polls. Both: 3.")
    )
    is_interval_enforced: bool = _setting(
        False,
        Option(
            "--enforce-interval",
            "Refuse polls that come sooner, with ERROR_RATE_LIMIT. Unknown for both; placeholder: no.",
        ),
    )
    ban_errors: int = _setting(
        1000,
        Option(
            "--ban-errors",
            "Errors in a minute that block an address; capsolver: 1000; onecaptcha unknown, placeholder 0 (none).",
        ),
    )
    ban_seconds: float = _setting(
        1800.0, Option("--ban-seconds", "capsolver: 1800; onecaptcha unknown, placeholder 1800.")
    )
    key_block_errors: int = _setting(
        0, Option("--key-block-errors", "Errors in a minute that block a key. Unknown; placeholder: 0, none do.")
    )
    key_block_seconds: float = _setting(
        300.0, Option("--key-block-seconds", "capsolver: 300; onecaptcha unknown, placeholder 300.")
    )
    ban_codes: frozenset[str] = frozenset()
    poll_ban_seconds: float | None = None
    submit_count: int = 0
    submit_seconds: float = 3.0
    submit_ban_seconds: float = 10.0
    polls_for_each: int = 0
    polls_for_all: int = 0
    all_polls_ban_seconds: float = 300.0
    report_seconds: float = 900.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if isinstance(value, int | float) and (not isfinite(value) or value < 0):
                raise BadArgumentError(f"{limit.name}: expected a number that is not negative, got {value}")


def _span(shortest: float | None, longest: float | None) -> tuple[float, float]:
    """Return the latencies. If one end is not given, its default moves as far as it must."""
    if shortest is None:
        shortest = min(0.5, 0.5 if longest is None else longest)
    return shortest, max(2.0, shortest) if longest is None else longest


def _either(has_id: bool, has_no_id: bool) -> bool | None:
    return has_id if has_id is not has_no_id else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """The behaviour of a sandbox.

    `seed` alone decides which faults strike which task. A task takes a time within `latency_seconds`. Without
    `client_keys`, any key but an empty one is right. Each key starts with `balance`. A task costs `cost`; a failed task
    costs nothing (documented by CapSolver for ERROR_CAPTCHA_UNSOLVABLE). CapSolver answers recognition types in
    createTask; `async_images` makes them asynchronous. `is_status_sent` False leaves `status` out of asynchronous
    createTask answers. `error_status` is the HTTP status of errors, if the provider's own is unknown. `limits` None
    takes the provider's limits.

    CapSolver documents its callbacks in one sentence. So their body (`callback_body`, `callback_has_task_id`), their
    time-out and callbacks for synchronous tasks (`is_sync_called_back`) are guesses, and yours to change. With
    None, `callback_has_task_id` and `callback_timeout_seconds` do as the provider is thought to.

    At capsolution the address of callbacks belongs to the account. It is `account_webhook_url`, and `webhook_secret`
    signs them. 2captcha calls back only `registered_hosts` (providers/README.md, "Form callbacks"). A `reordered`
    callback waits `reorder_seconds` at most.

    Raises:
        BadArgumentError: a value is out of its range; the text names it.
    """

    seed: int = _setting(
        0,
        Option("--seed", "Repeats the faults and latencies of another run. Default: a random one.", span=(-inf, inf)),
    )
    latency_seconds: tuple[float, float] = _setting(
        (0.5, 2.0),
        Option("--latency-min", "Shortest time of a task, in seconds. Default: 0.5."),
        Option("--latency-max", "Longest time of a task, in seconds. Default: 2."),
        read=_span,
    )
    rates: FaultRates = field(default_factory=FaultRates)
    limits: SandboxLimits | None = None
    client_keys: frozenset[str] = _setting(
        frozenset(), Option("--client-key", "Accept only this key; may be repeated."), read=frozenset, repr=False
    )
    balance: float = _setting(1000.0, Option("--balance", "What each key has at the start. Default: 1000."))
    cost: float = _setting(0.001, Option("--cost", "What a task that does not fail costs. Default: 0.001."))
    async_images: bool = _setting(
        False, Option("--async-images", "capsolver: recognition types are not answered by createTask.")
    )
    is_status_sent: bool = _setting(
        True,
        Option("--no-status", "capsolver: no status in createTask answers, instead of idle."),
        read=lambda is_left_out: not is_left_out,
    )
    error_status: int | None = _setting(
        None,
        Option(
            "--error-status",
            "onecaptcha: HTTP status of errors. Unknown; placeholder: 200. nextcaptcha: some other, placeholder "
            "400. (capsolver: 400 and 401, documented.)",
            span=(200, 599),
        ),
    )
    callback_body: Literal["result", "solution"] = _setting(
        "result",
        Option(
            "--callback-body",
            "capsolver: what is POSTed, a getTaskResult answer or just the solution. Inferred, not documented.",
        ),
    )
    callback_has_task_id: bool | None = _setting(
        None,
        Option("--callback-with-task-id", "capmonster and providers like it: add taskId. Unknown; placeholder: no."),
        Option(
            "--callback-without-task-id",
            "capsolver: leave taskId out of callbacks. That it is there is inferred, not documented.",
        ),
        read=_either,
    )
    callback_timeout_seconds: float | None = _setting(
        None,
        Option(
            "--callback-timeout",
            "In seconds. capmonster: 2, hardcaptcha: 5, ucaptcha: 10; of others unknown, placeholder 10.",
        ),
    )
    account_webhook_url: str | None = _setting(
        None,
        Option("--account-webhook-url", "capsolution: the address for all events of the account; tasks name none."),
        repr=False,
    )
    webhook_secret: bytes | None = _setting(
        None,
        Option(
            "--webhook-secret", "capsolution: what signs them. Default: not signed.", variable="SANDBOX_WEBHOOK_SECRET"
        ),
        read=lambda secret: secret.encode() or None,
        repr=False,
    )
    registered_hosts: frozenset[str] = _setting(
        frozenset({"127.0.0.1", "localhost"}),
        Option(
            "--registered-host",
            "2captcha, ruCaptcha: a host that may be called back; may be repeated. Default: this machine.",
        ),
        read=frozenset,
    )
    is_sync_called_back: bool = _setting(
        False, Option("--callback-for-sync", "Call back for synchronous tasks too. Unknown; placeholder: no.")
    )
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
