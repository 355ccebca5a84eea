"""What a subscriber sends: whatever it is, it can be answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.frames import Add, ProblemFrame, Remove, Subscribe, read_frame
from receiver.errors import ReceiverError
from receiver.web.requests import problem_bytes, read_request

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(("subscribe", "add", "remove")) | _JSON,
        "id": st.integers() | st.text(max_size=100) | _JSON,
        "tasks": st.lists(_JSON, max_size=3) | _JSON,
        "cursor": _JSON,
        "provider": _JSON,
        "tags": _JSON,
    },
)


@given(st.text() | _JSON.map(json.dumps) | _FRAMES.map(json.dumps))
def test_any_text_is_a_request_or_a_problem_that_can_be_sent(text: str) -> None:
    """The id that is given back is one that the contract allows, also where that was what is wrong."""
    given_id, asked = read_request(text)

    answer = read_frame(problem_bytes(given_id, ReceiverError("wrong-field", "")))
    assert isinstance(answer, ProblemFrame)
    assert isinstance(asked, Subscribe | Add | Remove | ReceiverError)


@pytest.mark.parametrize(
    ("given_id", "answered"), [("a" * 64, "a" * 64), ("a" * 65, None), (7, 7), (True, None), (1.5, None), (None, None)]
)
def test_the_id_is_given_back_where_it_is_one(given_id: Any, answered: Any) -> None:
    """Otherwise it is null."""
    assert read_request(json.dumps({"type": "nothing", "id": given_id}))[0] == answered


def test_a_problem_repeats_little_of_what_was_sent() -> None:
    """A field whose name is long is named by its beginning."""
    _, error = read_request(json.dumps({"type": "subscribe", "id": 1, "x" * 100_000: 1}))

    assert isinstance(error, ReceiverError)
    assert len(error.detail) < 200
