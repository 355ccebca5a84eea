"""The JSON of tasks, made from stored text, beside the model of the contract."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from client.protocol.models import LogEntry, ResultsPage
from receiver.domain.records import Entry, Outcome, TaskRecord
from receiver.web.views import entry_json, log_entry, task_json, task_view

_LAST_TIME = 4_000_000_000_000_000

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_times = st.integers(0, _LAST_TIME)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text | st.sampled_from(["NaN", "Infinity"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(_text, values, max_size=3),
    max_leaves=8,
)
_stored = _json.map(lambda value: to_json(value).decode())
_outcomes = st.builds(
    Outcome,
    status=st.sampled_from(["ready", "failed"]),
    solution=st.none() | _stored,
    error_id=st.integers(-(2**63), 2**63 - 1),
    error_code=st.none() | _text,
    error_description=st.none() | _text,
    source=st.sampled_from(["submit", "callback", "poll", "deadline"]),
    trust=st.sampled_from(["token", "standing", "provisional"]),
    finished_at=_times,
    valid_until=st.none() | _times,
    supersedes=st.none() | st.integers(0, 2**62),
)
_tasks = st.builds(
    TaskRecord,
    row=st.just(1),
    ref=_text,
    provider=_text,
    type=st.none() | _text,
    tags=st.lists(_text, max_size=3).map(tuple),
    metadata=st.dictionaries(_text, _json, max_size=3).map(lambda value: to_json(value).decode()),
    created_by=st.none(),
    client_key_id=st.none(),
    has_url=st.booleans(),
    open_to_standing=st.booleans(),
    standing_id=st.none(),
    task_id=st.none() | st.integers() | _text,
    bound_by=st.none(),
    registered_at=st.integers(0, 2**62),
    created_at=_times,
    poll_after=_times,
    next_poll_at=st.none() | _times,
    deadline_at=_times,
    is_disputed=st.booleans(),
    position=st.none() | st.integers(1, 2**62),
    outcome=st.none() | _outcomes,
)


def _cursor_at(position: int) -> str:
    return f"0123456789ab-{position}"


@given(task=_tasks)
def test_a_task_is_the_same_from_stored_text(task: TaskRecord) -> None:
    """The bytes are those of the model, whatever the task, its solution and its metadata."""
    expected = task_view(task, _cursor_at).model_dump_json(by_alias=True).encode()

    assert task_json(task, _cursor_at) == expected
    from_json(expected, allow_inf_nan=False)


@given(task=_tasks, kind=st.sampled_from(["result", "deleted", "hint"]))
def test_an_entry_of_a_page_is_read_as_it_was_written(task: TaskRecord, kind: str) -> None:
    """A client reads the same entry from a page as from the model, and the page has no other fields than it needs."""
    entry = Entry(_cursor_at(7), 7, kind, task.ref, None if kind == "deleted" else task)
    fields = {"cursor", "task"} if kind == "result" else {"cursor", "ref", kind}

    page = b'{"results":[%b],"cursor":"c","more":false}' % entry_json(entry, _cursor_at)

    assert ResultsPage.model_validate_json(page).results == (
        LogEntry.model_validate_json(log_entry(entry, _cursor_at).model_dump_json(by_alias=True, include=fields)),
    )
    assert from_json(page)["results"][0].keys() == fields
