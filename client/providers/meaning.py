"""The meaning of an HTTP status and the body under it: one rule for createTask, for polls and for everything else.

Providers of this family send errors under 200, 400, 401 and others, and what stands between (balancers, firewalls,
gateways) sends JSON of its own. So neither the status nor the body decides alone. Pure.
"""

from __future__ import annotations

from enum import Enum

from client.providers.codes import REASON_NOT_GIVEN
from client.providers.readings import Failed, Pending, Ready, Refused, Submitted, Unknown

__all__ = ["Meaning", "meaning_of"]

# 425: a server that was not ready to carry it out (RFC 8470, 5.2).
_OVERLOADED = (425, 429, 503)
# Some gateways send it for a slow server behind them, which may have carried the request out.
_REQUEST_TIMEOUT = 408


class Meaning(Enum):
    """The possible meanings of an answer for whoever asked."""

    ANSWER = "answer"
    """The body counts, as the dialect reads it."""
    BUSY = "busy"
    """The request was not carried out, because there was too much to do: the same may work later."""
    NOT_CARRIED_OUT = "not carried out"
    """The request was not carried out, and the same one will not be: a wrong address, a firewall, a redirect."""
    UNCLEAR = "unclear"
    """The request may or may not have been carried out."""


def meaning_of(status: int, said: object, *, is_poll: bool) -> Meaning:
    """Return the meaning of an answer under this HTTP status; `said` is what the dialect reads in it, None: nothing.

    Under 5xx a poll is answered only by what is known to be about the task, or by a pause that was asked for: the rest
    comes from a server that fails, whatever it says. CapMonster's own client takes 500 for "not yet"
    (ZennoLab/capmonstercloud-client-js). For other requests, a listed refusal counts under 5xx as well.
    """
    if _counts(status, said, is_poll=is_poll):
        return Meaning.ANSWER
    if status in _OVERLOADED:
        return Meaning.BUSY
    return Meaning.NOT_CARRIED_OUT if 300 <= status < 500 and status != _REQUEST_TIMEOUT else Meaning.UNCLEAR


def _counts(status: int, said: object, *, is_poll: bool) -> bool:
    match said:
        case None | Submitted(task_id=None, reading=Pending()):
            return False
        case Submitted(task_id=task_id, reading=reading):
            is_made = task_id is not None and isinstance(reading, Pending)
            return is_made or _counts(status, reading, is_poll=is_poll)
        case Ready():
            return True
        case Pending(state):
            return status < 300 or bool(state)
        case Failed() | Refused() | Unknown():
            return _is_error_of_the_provider(status, said, is_poll=is_poll)
        case _:
            # A balance.
            return status < 300


def _is_error_of_the_provider(status: int, said: Failed | Refused | Unknown, *, is_poll: bool) -> bool:
    if status < 500 and status not in _OVERLOADED:
        return True
    if said.error_code == REASON_NOT_GIVEN:
        return False
    match said:
        case Failed(is_listed=is_listed):
            return is_listed
        case Refused(is_passing=is_passing):
            return is_passing or not is_poll or status < 500
        case Unknown():
            return not is_poll or status < 500
