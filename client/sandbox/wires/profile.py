"""The behaviour of one provider in the sandbox, and that of an ordinary provider, made from its dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import Literal

from uuid_utils import uuid7

from client.providers import CallbackRule, Dialect
from client.providers.rules import CallbackShape
from client.providers.scrapeless_family import SCRAPELESS_FAMILY
from client.providers.v1_family import V1_FAMILY
from client.sandbox.settings import SandboxLimits, SandboxSettings
from client.sandbox.wires.answers import JsonWire, ScrapelessWire, V1Wire, Wire
from client.sandbox.wires.messages import (
    WriteMessage,
    capsolution_event,
    code_message,
    hardcaptcha_envelope,
    json_result,
    scrapeless_envelope,
)
from client.sandbox.wires.solutions import SolutionOf, bare_solution, family_solution, token_solution

__all__ = ["Profile", "fixed", "numbers", "of_unknown_status", "ordinary", "prefixed"]

_IdMaker = Callable[[], Callable[[], str]]
_MakeWire = Callable[[SandboxSettings], Wire]


def _uuids() -> Callable[[], str]:
    return lambda: str(uuid7())


def prefixed(prefix: str) -> _IdMaker:
    """Make ids in text with this beginning."""
    return lambda: lambda: prefix + uuid7().hex


def numbers(first: int) -> _IdMaker:
    """Make integer ids in a row; `first` decides how long they are."""

    def new_maker() -> Callable[[], str]:
        row = count(first)
        return lambda: str(next(row))

    return new_maker


def fixed(wire: Wire) -> _MakeWire:
    """Let the settings change nothing about the answers."""
    return lambda _: wire


def of_unknown_status(wire: JsonWire | ScrapelessWire) -> _MakeWire:
    """Let the settings choose the HTTP status of errors, because it is unknown.

    Source: providers/README.md, "JSON requests".
    """

    def made(settings: SandboxSettings) -> Wire:
        return wire if settings.error_status is None else replace(wire, refused_status=settings.error_status)

    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The behaviour of one provider.

    `wire` makes its answers, `limits` are its own unless the settings have others. `sync` names the tasks that
    createTask answers itself. `has_known_error_status`: the settings cannot choose the HTTP status of errors.
    `has_error_pages`: a failing server answers with HTML under 502. `not_ready_code` is an error that means processing.

    `is_id_in_callback` holds unless the settings say otherwise. A callback must be answered within `callback_seconds`.
    Without a status of 200 to 299 it is sent `callback_retries` times more, `callback_retry_seconds` apart.
    `is_account_wide`: the address of callbacks belongs to the account, not to the task. `has_registered_hosts`: only
    these are called back.

    `reports` are its reports, by name. Each is for types with one of these parts in their names; for all, if there are
    none. They are answered with `report_fields`.
    """

    wire: _MakeWire
    limits: SandboxLimits
    api: Literal["json", "v1", "scrapeless"] = "json"
    id_maker: _IdMaker = _uuids
    solution: SolutionOf = family_solution
    sync: Literal["none", "recognition", "all"] = "none"
    has_callback: bool = True
    is_account_wide: bool = False
    is_id_in_callback: bool = True
    write: WriteMessage = json_result
    callback_seconds: float = 10.0
    callback_retries: int = 0
    callback_retry_seconds: float = 5.0
    signed_with: Literal["nothing", "key", "secret"] = "nothing"
    has_known_error_status: bool = False
    has_error_pages: bool = False
    not_ready_code: str | None = None
    reports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    report_fields: Mapping[str, str] = field(default_factory=dict)
    has_registered_hosts: bool = False


# 11 digits, beyond 2^31 (providers/README.md, "anti-captcha", "2captcha and ruCaptcha").
_LONG_NUMBERS = numbers(73_043_008_354)

_ENVELOPES: Mapping[CallbackShape, WriteMessage] = MappingProxyType(
    {"hardcaptcha": hardcaptcha_envelope, "capsolution": capsolution_event, "scrapeless": scrapeless_envelope}
)


def ordinary(dialect: Dialect) -> Profile:
    """Return the profile of a provider without peculiarities: all of it is in the declaration.

    Its error codes are those of the family, its times those of CapSolver, and its callbacks are not signed.
    """
    rule = dialect.callback
    has_integer_ids = dialect.id_type == "integer"
    pending_error_id = min(dialect.pending_error_ids, default=0)
    profile = Profile(
        wire=of_unknown_status(JsonWire(has_integer_ids=has_integer_ids, pending_error_id=pending_error_id)),
        limits=_limits(dialect),
        id_maker=_LONG_NUMBERS if has_integer_ids else _uuids,
        has_callback=rule is not None,
        is_account_wide=rule is not None and rule.is_account_wide,
        is_id_in_callback=rule is None or rule.task_id != "missing",
        write=_writer(rule),
        reports={report.name: report.types for report in dialect.reports},
    )
    if dialect.family is V1_FAMILY:
        # No task is answered at once, and every value is text.
        return replace(
            profile,
            wire=fixed(V1Wire()),
            has_known_error_status=True,
            api="v1",
            id_maker=numbers(2_122_988_149),
            solution=bare_solution,
        )
    if dialect.family is SCRAPELESS_FAMILY:
        wire = of_unknown_status(ScrapelessWire())
        return replace(profile, wire=wire, api="scrapeless", solution=token_solution)
    return profile


def _limits(dialect: Dialect) -> SandboxLimits:
    """Return the limits of the catalogue. If no count of errors that bans is known, there is none."""
    polls, key = dialect.polls, dialect.key_limits
    limits = SandboxLimits(
        max_polls=polls.max_polls or 0,
        window_seconds=polls.window_seconds,
        poll_interval_seconds=polls.interval_seconds,
        ban_errors=0 if key.errors is None else key.errors.count,
        polls_for_each=key.polls_for_each or 0,
        polls_for_all=key.polls_for_all,
    )
    if key.submits is None:
        return limits
    return replace(limits, submit_count=key.submits.count, submit_seconds=key.submits.seconds)


def _writer(rule: CallbackRule | None) -> WriteMessage:
    if rule is None or rule.shape == "result":
        return json_result
    return code_message(rule) if rule.shape == "code" else _ENVELOPES[rule.shape]
