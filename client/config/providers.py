"""The file with users' own providers. `client.providers.declaration` describes its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.config.environment import read_text_file
from client.errors import BadArgumentError
from client.providers import DIALECTS, Dialect, read_providers

__all__ = ["load_providers"]


def load_providers(path: Path | str) -> Mapping[str, Dialect]:
    """Return the shipped providers together with those of the file.

    Example::

        async with TaskClient("myprovider", dialects=load_providers("providers.toml")) as tasks:
            solved = await tasks.solve({"type": "ImageToTextTask", "body": Path("captcha.png")})
            print(solved.solution["text"])

    Raises:
        BadArgumentError: the file cannot be read or is wrong. The text names the file, the table and the field.
    """
    text = read_text_file(path)
    try:
        return read_providers(text.encode(), DIALECTS)
    except BadArgumentError as error:
        raise BadArgumentError(f"{path}: {error}") from None
