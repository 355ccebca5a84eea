"""The client key in a provider's answer is redacted in any spelling."""

from __future__ import annotations

import html
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given

from client.provider_api.redaction import Redaction
from tests.client.providers.strategies import MANY, json_values

KEY = "CAP-0123456789ABCDEF/0123456789abc+_"


def in_json(text: str, times: int = 1) -> str:
    """Return a text with each character escaped as in JSON, in `times` JSON strings inside each other."""
    escaped = "".join(f"\\u{ord(character):04X}" for character in text)
    for _ in range(times - 1):
        escaped = json.dumps(escaped)[1:-1]
    return escaped


WRITTEN = {
    "as it is": KEY,
    "percent, some": quote(KEY, safe=""),
    "percent, all": "".join(f"%{ord(character):02x}" for character in KEY),
    "percent, twice": quote(quote(KEY, safe=""), safe=""),
    "json in json": in_json(KEY),
    "json in json in json": in_json(KEY, 2),
    "one escape": "\\u0043" + KEY[1:],
    "literal": "".join(f"\\x{ord(character):02x}" for character in KEY),
    "escaped slash": KEY.replace("/", "\\/"),
    "entities": "".join(f"&#{ord(character)};" for character in KEY),
    "entities, hex, twice": html.escape("".join(f"&#x{ord(character):04X};" for character in KEY)),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_the_key_is_gone_however_it_is_written(written: str) -> None:
    """The key is replaced in values, names and lists. The text around it stays."""
    answer = {"errorDescription": f"key={written}; unknown", f"a {written}": [{"b": written}, 7, None, True]}

    redacted = Redaction(KEY)(answer)

    assert redacted == {
        "errorDescription": "key=(the client key); unknown",
        "a (the client key)": [{"b": "(the client key)"}, 7, None, True],
    }


def test_a_key_with_blanks_and_letters_beyond_ascii() -> None:
    """A blank may be a plus sign, and a letter may be several bytes."""
    key = "ключ of the operator"

    redacted = Redaction(key)([key, quote(key), quote_plus(key), in_json(key)])

    assert redacted == ["(the client key)"] * 4


@MANY
@given(value=json_values)
def test_what_does_not_hold_the_key_stays_as_it_is(value: Any) -> None:
    """An answer without the key keeps its values and types."""
    assert json.dumps(Redaction(KEY)(value)) == json.dumps(value)


def test_a_key_that_may_be_part_of_any_word_is_left_alone() -> None:
    """Keys of less than 16 characters, as in tests and sandboxes, are not replaced."""
    assert Redaction("anything")({"text": "anything"}) == {"text": "anything"}


@pytest.mark.parametrize("unit", ["\\", "%25", "&amp;", KEY[:-1], "+", "C%"])
def test_no_text_is_backtracked(unit: str) -> None:
    """A text of repeated beginnings of the key takes linear time. Quadratic work would take hours."""
    text = unit * (1_000_000 // len(unit)) + "%"

    assert Redaction(KEY)(text) == text
