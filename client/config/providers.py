"""The file in which users declare providers of their own; see `client.providers.declaration`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.config.environment import read_text_file
from client.errors import BadArgumentError
from client.providers import DIALECTS, Dialect, read_providers

__all__ = ["load_providers"]


def load_providers(path: Path | str) -> Mapping[str, Dialect]:
    """Return the shipped providers and those of the file, for `TaskClient(dialects=...)`.

    Raises:
        BadArgumentError: the file cannot be read or is wrong; the text names it, the table and the field.
    """
    text = read_text_file(path)
    try:
        return read_providers(text.encode(), DIALECTS)
    except BadArgumentError as error:
        raise BadArgumentError(f"{path}: {error}") from None
