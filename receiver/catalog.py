"""The providers that a receiver knows: the shipped ones, and those that its operator declares."""

from __future__ import annotations

from collections.abc import Mapping

from client.errors import BadArgumentError
from client.providers import DIALECTS, Dialect, read_providers
from receiver.errors import CannotStartError
from receiver.settings import Settings

__all__ = ["known_dialects"]


def known_dialects(settings: Settings) -> Mapping[str, Dialect]:
    """The dialects by name.

    Raises:
        CannotStartError: RECEIVER_PROVIDERS_FILE cannot be read or is wrong; the text names the table and the field.
    """
    path = settings.providers_file
    if path is None:
        return DIALECTS
    try:
        return read_providers(path.read_bytes(), DIALECTS)
    except OSError as error:
        raise CannotStartError(f"RECEIVER_PROVIDERS_FILE: {path} cannot be read ({error.strerror})") from None
    except BadArgumentError as error:
        raise CannotStartError(f"RECEIVER_PROVIDERS_FILE: {path}: {error}") from None
