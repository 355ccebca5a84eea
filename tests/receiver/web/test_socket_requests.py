"""The requests of a subscriber. Any text can be answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from client.protocol.frames import Add, ProblemFrame, Remove, Subscribe, read_frame, read_request
from client.protocol.models import Registration
from receiver.errors import ReceiverError
from receiver.web.streaming.socket_requests import problem_frame, read_text_frame

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
    """The contract allows the id in the answer, even if the id itself was wrong."""
    given_id, asked = read_text_frame(text)

    answer = read_frame(problem_frame(given_id, ReceiverError("wrong-field", "")).model_dump_json(by_alias=True))
    assert isinstance(answer, ProblemFrame)
    assert isinstance(asked, Subscribe | Add | Remove | ReceiverError)


@pytest.mark.parametrize(
    ("given_id", "answer_id"), [("a" * 64, "a" * 64), ("a" * 65, None), (7, 7), (True, None), (1.5, None), (None, None)]
)
def test_the_id_is_given_back_where_it_is_one(given_id: Any, answer_id: Any) -> None:
    """Otherwise the id is null."""
    assert read_text_frame(json.dumps({"type": "nothing", "id": given_id}))[0] == answer_id


def test_a_problem_repeats_little_of_what_was_sent() -> None:
    """A field with a long name is named by its beginning."""
    _, error = read_text_frame(json.dumps({"type": "subscribe", "id": 1, "x" * 100_000: 1}))

    assert isinstance(error, ReceiverError)
    assert len(error.detail) < 200


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "add", "id": 1, "tasks": [7] * 5000},
        {"type": "remove", "id": 1, "tasks": [{}] * 5000},
        {"type": "subscribe", "id": 1, "tags": [7] * 5000},
        {"type": "subscribe", "id": 1} | dict.fromkeys(map(str, range(5000))),
        {"type": "add", "id": 1, "tasks": [dict.fromkeys(map(str, range(5000)))]},
    ],
    ids=["tasks", "objects", "tags", "fields", "fields of a task"],
)
def test_reading_ends_at_the_first_errors(fields: dict[str, Any]) -> None:
    """A frame of nothing but errors would otherwise hold the loop for seconds."""
    with pytest.raises(ValidationError) as caught:
        read_request(fields)

    assert caught.value.error_count() < 10


def test_the_tags_of_a_registration_end_at_the_first_error() -> None:
    """Tags over HTTP do so, too."""
    with pytest.raises(ValidationError) as caught:
        Registration.model_validate({"provider": "capsolver", "tags": [7] * 5000})

    assert caught.value.error_count() == 1
