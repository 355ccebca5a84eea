"""Providers of a receiver: the shipped ones, and the ones declared by its operator."""

from __future__ import annotations

from collections.abc import Mapping

from client.config.providers import load_providers
from client.errors import BadArgumentError
from client.providers import DIALECTS, Dialect
from receiver.errors import CannotStartError
from receiver.settings import Settings

__all__ = ["known_dialects"]


def known_dialects(settings: Settings) -> Mapping[str, Dialect]:
    """Return all dialects by name.

    Raises:
        CannotStartError: RECEIVER_PROVIDERS_FILE cannot be read or is wrong. The text names the table and the field.
    """
    if settings.providers_file is None:
        return DIALECTS
    try:
        return load_providers(settings.providers_file)
    except BadArgumentError as error:
        raise CannotStartError(f"RECEIVER_PROVIDERS_FILE: {error}") from None
