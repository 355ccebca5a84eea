"""What distinguishes one provider of the sandbox from another: a `Profile`, and the ways to number tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from uuid_utils import uuid7

from client.sandbox.settings import Settings
from client.sandbox.wires.capsolver import Wire
from client.sandbox.wires.messages import WriteMessage, json_result
from client.sandbox.wires.solutions import SolutionOf, family_solution

__all__ = ["Profile", "numbers", "prefixed", "uuids"]

IdMaker = Callable[[], Callable[[], str]]


def uuids() -> Callable[[], str]:
    """Make UUIDs."""
    return lambda: str(uuid7())


def prefixed(prefix: str) -> IdMaker:
    """Makers of ids that begin with `prefix`."""
    return lambda: lambda: prefix + uuid7().hex


def numbers(first: int) -> IdMaker:
    """Makers of integer ids in a row; `first` decides how long they are."""

    def new_maker() -> Callable[[], str]:
        row = count(first)
        return lambda: str(next(row))

    return new_maker


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one provider shows itself.

    `is_id_in_callback` is what it does where the settings do not say; its callback has to be answered within
    `callback_seconds`, and is sent again `callback_retries` times where it was not answered 20x. `is_account_wide`:
    the address of callbacks belongs to the account, not to the task. `has_registered_hosts`: no others are called back.

    `sync` says which tasks createTask answers itself. `has_known_error_status`: the HTTP status of errors is not for
    the settings to choose. `has_error_pages`: a failing server answers with HTML under 502. `not_ready_code` is an
    error that means processing. `reports` are its reports, by name, with the parts of type names that each is for
    (none: all), answered with `report_fields`.
    """

    wire: Callable[[Settings], Wire]
    api: Literal["json", "v1", "scrapeless"] = "json"
    id_maker: IdMaker = uuids
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
