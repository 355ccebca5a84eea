"""The common parts of all dialects: names, limits, and the check of a signature."""

from __future__ import annotations

import hmac
import re
from itertools import count

import pytest
from multidict import CIMultiDict

from client.errors import BadArgumentError
from client.providers import DIALECTS, Dialect, SignatureRule, dialect_named

every = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)

RULE = SignatureRule(headers=("X-Webhook-Signature", "hmac"))

# RFC 4231, test case 2.
SECRET = b"Jefe"
BODY = b"what do ya want for nothing?"
SIGNATURE = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_a_dialect_by_its_name() -> None:
    """A known name gives its dialect."""
    assert dialect_named("capsolver") is DIALECTS["capsolver"]


def test_an_unknown_name_is_told_the_known_ones() -> None:
    """An unknown provider is the caller's error, and the text lists the known ones."""
    with pytest.raises(BadArgumentError, match=r"'capsolvr': expected one of anticaptcha, .*capsolver"):
        dialect_named("capsolvr")


@every
def test_names_fit_into_a_url(dialect: Dialect) -> None:
    """A provider's name stands in callback URLs and rows as it is; its endpoint is https without a slash."""
    assert re.fullmatch(r"[a-z0-9]{1,32}", dialect.provider)
    assert dialect.base_url is None or re.fullmatch(r"https://[a-z0-9.-]+", dialect.base_url)
    assert DIALECTS[dialect.provider] is dialect


@every
def test_the_first_poll_leaves_time_for_more(dialect: Dialect) -> None:
    """Behind a callback the first poll comes no earlier than without one, and well inside the window."""
    polls = dialect.polls

    assert 0 < polls.first_after_seconds <= polls.first_after_callback_seconds <= polls.window_seconds / 2
    assert polls.interval_seconds >= 2.0


def test_the_right_signature_verifies() -> None:
    """The hex HMAC-SHA256 of the raw body, in either header, whatever the case of the digits or white space around."""
    assert RULE.verifies({"X-Webhook-Signature": SIGNATURE}, BODY, SECRET)
    assert RULE.verifies({"hmac": SIGNATURE}, BODY, SECRET)
    assert RULE.verifies({"hmac": f" {SIGNATURE.upper()} "}, BODY, SECRET)
    assert RULE.verifies(CIMultiDict({"x-webhook-signature": SIGNATURE}), BODY, SECRET)


def test_the_first_header_decides() -> None:
    """A right value in a later header does not make up for a wrong one in an earlier."""
    assert not RULE.verifies({"hmac": SIGNATURE, "X-Webhook-Signature": "0" * 64}, BODY, SECRET)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Signature": SIGNATURE},
        {"hmac": ""},
        {"hmac": SIGNATURE[:-1]},
        {"hmac": SIGNATURE + "0"},
        {"hmac": "sha256=" + SIGNATURE},
        {"hmac": "0" * 64},
        {"hmac": "é" * 64},
        {"hmac": chr(0xDC80)},
        {"hmac": chr(0xD800)},
    ],
    ids=count(),
)
def test_other_headers_do_not_verify(headers: dict[str, str]) -> None:
    """A missing, cut, longer, other or non-ASCII signature is false, and never an error."""
    assert not RULE.verifies(headers, BODY, SECRET)


def test_the_raw_body_is_signed() -> None:
    """The same JSON in other bytes does not verify."""
    assert not RULE.verifies({"hmac": SIGNATURE}, BODY + b"\n", SECRET)


def test_a_rewritten_body_is_signed_where_the_provider_may_do_so() -> None:
    """Capsolution's sample signs JSON after reading and writing it. Raw bytes verify there as well."""
    written = b'{"event":"balance.low","n":1}'
    signature = hmac.digest(SECRET, written, "sha256").hex()
    spaced = b'{ "event": "balance.low",\n "n": 1 }'
    lenient = SignatureRule(headers=("hmac",), is_rewritten=True)

    assert lenient.verifies({"hmac": signature}, spaced, SECRET)
    assert lenient.verifies({"hmac": signature}, written, SECRET)
    assert not RULE.verifies({"hmac": signature}, spaced, SECRET)
    assert not lenient.verifies({"hmac": signature}, spaced.replace(b"1", b"2"), SECRET)
    assert not lenient.verifies({"hmac": signature}, b"[" * 100_000, SECRET)


def test_another_secret_does_not_verify() -> None:
    """A signature holds under its own secret only."""
    assert not RULE.verifies({"hmac": SIGNATURE}, BODY, b"Jeff")
