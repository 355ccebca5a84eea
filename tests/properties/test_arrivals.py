"""Callbacks and answers of any bytes, by any method: each is read or refused. No other error escapes."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import UnreadableError
from client.providers import DIALECTS
from client.providers.readings import Bare, Failed, Notice, Pending, Ready, Refused, Submitted, Unknown
from receiver.domain.deliveries import DeliveryRules, delivery_command
from receiver.domain.reading import CallbackRequest, meaning_for_type
from receiver.domain.tokens import CallbackToken, Kind
from receiver.domain.verdicts import UNREAD
from tests.client.providers.deliveries import CALLING, changed
from tests.client.providers.strategies import MANY, answers, as_json
from tests.receiver.storage.stores import QUOTAS

_MEANINGS = (Ready, Bare, Failed, Pending, Notice)
# aiohttp gives bytes of a header that are no UTF-8 as surrogates.
_header = st.text(st.characters(max_codepoint=0xDFFF), max_size=40)
_raw = (
    st.binary(max_size=80)
    | answers.map(as_json)
    | st.from_regex(rb"(OK\|?|ERROR: ?|[A-Z_]{1,12})[0-9a-z|_]{0,9}", fullmatch=True)
)


@pytest.mark.parametrize("provider", CALLING)
@MANY
@given(
    sent=changed(),
    method=st.sampled_from(["GET", "POST"]),
    content_type=st.none() | _header,
    signature=_header,
    kind=st.sampled_from([Kind.TASK, Kind.STANDING]),
    secret=st.none() | st.binary(max_size=8),
    task_type=st.none() | st.just("ImageToTextTask"),
)
def test_any_delivery_is_read_or_refused(
    provider: str,
    sent: tuple[bytes, bytes],
    method: str,
    content_type: str | None,
    signature: str,
    kind: Kind,
    secret: bytes | None,
    task_type: str | None,
) -> None:
    """It has a meaning, or a verdict without a reading. Every field of the kept delivery can be stored."""
    dialect, (query, body) = DIALECTS[provider], sent
    headers = {"X-HardCaptcha-Hmac-SHA256": signature, "X-Webhook-Signature": signature}
    if content_type is not None:
        headers["Content-Type"] = content_type

    command = delivery_command(
        DeliveryRules(dialect=dialect, quotas=QUOTAS, secret=secret),
        CallbackRequest(method=method, headers=headers, query=query, body=body),
        CallbackToken(kind, str(UUID(int=1))),
        now=1,
        new_ref=lambda: UUID(int=2),
    )

    reading, delivery = command.reading, command.delivery
    if isinstance(reading, str):
        assert reading in UNREAD
    else:
        assert isinstance(meaning_for_type(dialect, reading, task_type), _MEANINGS)
    assert delivery.body == (query if method == "GET" else body)
    assert (delivery.standing_id is None) == (kind is Kind.TASK)
    (delivery.content_type or "").encode()


@pytest.mark.parametrize("provider", sorted(DIALECTS))
@MANY
@given(raw=_raw)
def test_any_answer_is_read_or_refused(provider: str, raw: bytes) -> None:
    """An answer of any bytes gives a reading for each request, or our error."""
    dialect = DIALECTS[provider]
    with suppress(UnreadableError):
        answer = dialect.parse_answer(raw)
        with suppress(UnreadableError):
            assert isinstance(dialect.read_create_task(answer), Submitted)
        for read in (dialect.read_task_result, dialect.read_report):
            with suppress(UnreadableError):
                assert isinstance(read(answer), Ready | Failed | Pending | Unknown | Refused)
        with suppress(UnreadableError):
            assert isinstance(dialect.read_balance(answer), float | Ready | Failed | Unknown | Refused)
