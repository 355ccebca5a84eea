"""The file in which users declare providers of their own; see `client.providers.declaration`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.errors import BadArgumentError
from client.providers import DIALECTS, Dialect, read_providers

__all__ = ["load_providers"]

_MAX_BYTES = 1024 * 1024


def load_providers(path: Path | str) -> Mapping[str, Dialect]:
    """The shipped providers and those of the file, for `TaskClient(dialects=...)`.

    Raises:
        BadArgumentError: the file cannot be read or is wrong; the text names it, the table and the field.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadArgumentError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(raw) > _MAX_BYTES:
        raise BadArgumentError(f"{path}: larger than {_MAX_BYTES} bytes")
    try:
        return read_providers(raw, DIALECTS)
    except BadArgumentError as error:
        raise BadArgumentError(f"{path}: {error}") from None
