"""Providers of a receiver: the shipped ones, and the ones declared by its operator."""

from __future__ import annotations

from collections.abc import Mapping

from client.config.providers import load_providers
from client.errors import BadArgumentError
from client.protocol.filters import CANARY
from client.providers import DIALECTS, Dialect
from client.providers.json_family import JSON_FAMILY
from client.providers.rules import CallbackRule, PollPlan
from receiver.errors import CannotStartError
from receiver.settings import Settings

__all__ = ["CANARY_DIALECT", "known_dialects"]

CANARY_DIALECT = Dialect(
    provider=CANARY,
    base_url=None,
    callback=CallbackRule(task_id="missing"),
    polls=PollPlan(
        first_after_seconds=60, first_after_callback_seconds=60, interval_seconds=60, max_polls=None, window_seconds=60
    ),
    family=JSON_FAMILY,
    has_api=False,
)
"""The receiver itself as the sender of callbacks. Callers do not know it."""


def known_dialects(settings: Settings) -> Mapping[str, Dialect]:
    """Return all dialects by name.

    Raises:
        CannotStartError: RECEIVER_PROVIDERS_FILE cannot be read or is wrong. The text names the table and the field.
            The name `canary` is reserved.
    """
    if settings.providers_file is None:
        return DIALECTS
    try:
        dialects = load_providers(settings.providers_file)
    except BadArgumentError as error:
        raise CannotStartError(f"RECEIVER_PROVIDERS_FILE: {error}") from None
    if CANARY in dialects:
        raise CannotStartError(f"RECEIVER_PROVIDERS_FILE: {CANARY}: the receiver itself has this name; choose another")
    return dialects
