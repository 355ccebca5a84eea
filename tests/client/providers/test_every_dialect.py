"""Rules for every provider with callbacks, for any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.providers import DIALECTS
from tests.client.providers.deliveries import CALLING, changed, check_delivery, enriched
from tests.client.providers.strategies import MANY
from tests.client.providers.wire_facts import Delivered


@pytest.mark.parametrize("provider", CALLING)
@MANY
@given(sent=changed(), task_type=st.none() | st.text(max_size=20) | st.just("ImageToTextTask"))
def test_any_delivery_is_read_or_told(provider: str, sent: tuple[bytes, bytes], task_type: str | None) -> None:
    """Any query and body give an outcome, "not final", a hint, or our error."""
    check_delivery(DIALECTS[provider], *sent, task_type)


@MANY
@given(sent=enriched())
def test_a_real_delivery_survives_new_fields_in_any_order(sent: tuple[Delivered, bytes, bytes]) -> None:
    """Unknown fields and another order of the known ones change nothing."""
    real, query, body = sent

    assert DIALECTS[real.provider].read_callback(query=query, body=body) == real.means
