"""Redaction of the client key in a provider's answers: an error may quote it, and must not carry it into logs."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["Redaction"]

# Real keys are longer. A short key, as in tests, may be part of any word.
_SHORTEST_KEY = 16
_MARK = "(the client key)"
_ESCAPES = ("%", "\\", "&", "+")


class Redaction:
    """Replaces one client key in parsed answers by a mark.

    Parsing an answer removes the escapes of JSON. A text in it may still quote the key with escapes of its own. Any
    character may have the escape of a URL, of JSON, of a literal or of HTML.
    """

    def __init__(self, client_key: str) -> None:
        self._key = client_key
        self._is_key_long = len(client_key) >= _SHORTEST_KEY
        self._escaped_key = re.compile("".join(f"(?:{'|'.join(_forms(character))})" for character in client_key))

    def __call__(self, value: Any) -> Any:
        """Return the JSON value without the key, in names and in values."""
        return self._without_key(value) if self._is_key_long else value

    def _without_key(self, value: Any) -> Any:
        if isinstance(value, str):
            text = value.replace(self._key, _MARK)
            # Few answers hold an escape, and the pattern takes some 50 ns for each character.
            has_escapes = any(escape in text for escape in _ESCAPES)
            return self._escaped_key.sub(_MARK, text) if has_escapes else text
        if isinstance(value, dict):
            return {self._without_key(name): self._without_key(part) for name, part in value.items()}
        return [self._without_key(part) for part in value] if isinstance(value, list) else value


def _forms(character: str) -> list[str]:
    """Return patterns of a character. Their repetitions are bounded, so any text takes linear time."""
    code = ord(character)
    in_url = "".join(f"%(?:25){{0,4}}{_hex(byte, 2)}" for byte in character.encode("utf-8", "replace"))
    entity = r"&(?:amp;){0,4}#"
    escapes = (f"u{_hex(code, 4)}", f"x{_hex(code, 2)}", re.escape(character))
    return [
        re.escape(character),
        in_url,
        f"{entity}0{{0,8}}{code};",
        f"{entity}[xX]0{{0,8}}{_hex(code)};",
        *(rf"\\\\{{0,3}}{escape}" for escape in escapes),
        *([r"\+"] if character == " " else []),
    ]


def _hex(number: int, digits: int = 1) -> str:
    """Return a pattern of the number in hexadecimal, in either case."""
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{number:0{digits}x}")
