"""The meaning of an HTTP status with the body under it: one rule for createTask, polls and all other requests.

Providers of this family send errors under 200, 400, 401 and others. Balancers, firewalls and gateways between them and
us send JSON of their own. So neither the status nor the body decides alone. Pure.
"""

from __future__ import annotations

from enum import Enum

from client.providers.codes import REASON_NOT_GIVEN
from client.providers.readings import Failed, Pending, Ready, Refused, Submitted, Unknown

__all__ = ["Meaning", "meaning_of"]

# 425: the server was not ready to carry out the request (RFC 8470, 5.2).
_OVERLOADED = (425, 429, 503)
# Some gateways send it for a slow server behind them. That server may have carried out the request.
_REQUEST_TIMEOUT = 408


class Meaning(Enum):
    """The possible meanings of an answer for the caller."""

    ANSWER = "answer"
    """The body counts, by the dialect's reading of it."""
    BUSY = "busy"
    """The request was not carried out, because the server was overloaded. The same request may work later."""
    NOT_CARRIED_OUT = "not carried out"
    """The request was not carried out, and will not be if repeated: a wrong address, a firewall, a redirect."""
    UNCLEAR = "unclear"
    """The request may or may not have been carried out."""


def meaning_of(status: int, reading: object, *, is_poll: bool) -> Meaning:
    """Return the meaning of an answer under this HTTP status.

    `reading` is the dialect's reading of the body, or None for an unreadable body. Under 5xx only a listed error about
    the task or a requested pause answers a poll. Everything else then comes from a failing server. CapMonster's own
    client reads 500 as "not yet" (ZennoLab/capmonstercloud-client-js). For other requests, a listed refusal counts
    under 5xx as well.
    """
    if _counts(status, reading, is_poll=is_poll):
        return Meaning.ANSWER
    if status in _OVERLOADED:
        return Meaning.BUSY
    return Meaning.NOT_CARRIED_OUT if 300 <= status < 500 and status != _REQUEST_TIMEOUT else Meaning.UNCLEAR


def _counts(status: int, reading: object, *, is_poll: bool) -> bool:
    match reading:
        case None | Submitted(task_id=None, reading=Pending()):
            return False
        case Submitted(task_id=task_id, reading=state):
            is_made = task_id is not None and isinstance(state, Pending)
            return is_made or _counts(status, state, is_poll=is_poll)
        case Ready():
            return True
        case Pending(state):
            return status < 300 or bool(state)
        case Failed() | Refused() | Unknown():
            return _is_error_of_the_provider(status, reading, is_poll=is_poll)
        case _:
            # A balance.
            return status < 300


def _is_error_of_the_provider(status: int, error: Failed | Refused | Unknown, *, is_poll: bool) -> bool:
    if status < 500 and status not in _OVERLOADED:
        return True
    if error.error_code == REASON_NOT_GIVEN:
        return False
    match error:
        case Failed(is_listed=is_listed):
            return is_listed
        case Refused(is_passing=is_passing):
            return is_passing or not is_poll or status < 500
        case Unknown():
            return not is_poll or status < 500
