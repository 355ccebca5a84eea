"""One filter of the log: it survives a query, and `matches` agrees with the SQL of the store."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.errors import BadArgumentError
from client.protocol.filters import QUERY_FIELDS, ResultFilter, TaskName, TaskSet
from client.providers.values import MAX_TASK_ID_LENGTH
from receiver.domain.deliveries import HintTask
from receiver.domain.transaction import Forget
from receiver.web.views import task_view
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, running_store, whole_log

PROVIDERS = ("capsolver", "onecaptcha")
TAGS = ("a", "b", "c")
TASKS = 6

refs = st.integers(1, TASKS + 1).map(a_ref)
task_ids = st.tuples(st.sampled_from(PROVIDERS), st.integers(1, TASKS).map(str))
filters = st.builds(
    ResultFilter,
    provider=st.none() | st.sampled_from(PROVIDERS),
    tags=st.lists(st.sampled_from(TAGS), max_size=2).map(tuple),
    tasks=st.none() | st.lists(refs | task_ids, max_size=3).map(TaskSet),
    hints=st.booleans(),
    within=st.none() | st.frozensets(st.sampled_from(PROVIDERS)),
)
tasks = st.lists(
    st.tuples(
        st.sampled_from(PROVIDERS),
        st.lists(st.sampled_from(TAGS), unique=True).map(tuple),
        st.sampled_from(["no id", "number", "text", "text with NUL"]),
        st.sampled_from(["result", "result", "hint", "deleted"]),
    ),
    min_size=1,
    max_size=TASKS,
)
# In a query, a single comma divides, and the first colon ends the provider.
words = st.text(st.characters(codec="utf-8", exclude_characters=",:"), min_size=1, max_size=20)
id_texts = st.text(st.characters(codec="utf-8") | st.just(","), max_size=MAX_TASK_ID_LENGTH)
names = st.uuids().map(str) | st.tuples(words, id_texts)
any_filters = st.builds(
    ResultFilter,
    provider=st.none() | st.text(max_size=20),
    tags=st.lists(words, max_size=3).map(tuple),
    tasks=st.none() | st.lists(names, max_size=5).map(TaskSet),
    hints=st.booleans(),
)


@given(any_filters)
def test_a_filter_survives_a_query(only: ResultFilter) -> None:
    """The receiver reads the same filter from an address as the client writes into it."""
    assert ResultFilter.from_query(only.to_query()) == only


@given(st.dictionaries(st.sampled_from(QUERY_FIELDS), st.text()))
def test_any_query_is_a_filter_or_an_error(query: dict[str, str]) -> None:
    """The error names the parameter."""
    reason = ""
    try:
        ResultFilter.from_query(query)
    except BadArgumentError as error:
        reason = str(error)

    assert not reason or reason.partition(":")[0] in query


@pytest.mark.parametrize("text", ["0199F6A2-5C1E-7C6B-8F39-2A7D4BE01C55", "0199f6a25c1e7c6b8f392a7d4be01c55"])
def test_refs_are_compared_as_the_receiver_writes_them(text: str) -> None:
    """Other ways to write a UUID name the same task."""
    assert ResultFilter.from_query({"tasks": text}).tasks == TaskSet(["0199f6a2-5c1e-7c6b-8f39-2a7d4be01c55"])


@given(st.lists(names, max_size=20, unique=True), st.integers(1, 7))
def test_a_set_in_parts_is_the_same_set(listed: list[TaskName], size: int) -> None:
    """Each part but the last has the full size."""
    parts = list(TaskSet(listed).parts(size))

    assert TaskSet(name for part in parts for name in part) == TaskSet(listed)
    assert all(len(part) == size for part in parts[:-1])


@settings(max_examples=40, deadline=None)
@given(tasks, st.lists(filters, min_size=1, max_size=12))
@example(
    [("capsolver", (), "text with NUL", "result"), ("capsolver", (), "text", "result")],
    [ResultFilter(tasks=TaskSet([("capsolver", name)])) for name in ("1\0", "1", "2\0", "2")],
)
def test_the_filter_agrees_with_the_store(
    made: list[tuple[str, tuple[str, ...], str, str]], asked: list[ResultFilter]
) -> None:
    """It does so for the receiver's record of a task and for the client's view of it."""
    asyncio.run(check(made, asked))


async def check(made: list[tuple[str, tuple[str, ...], str, str]], asked: list[ResultFilter]) -> None:
    """Write the tasks, and compare both answers for each filter."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_store(Path(folder) / "receiver.db") as store:
            for number, (provider, tags, id_kind, end) in enumerate(made, start=1):
                task_id = {"no id": None, "number": number, "text": str(number), "text with NUL": f"{number}\0"}[
                    id_kind
                ]
                await store.write(a_registration(number, provider=provider, tags=tags, task_id=task_id))
                await store.write(a_delivery(number) if end == "result" else HintTask(ref=a_ref(number), now=NOW))
                if end == "deleted":
                    await store.write(Forget(ref=a_ref(number), now=NOW))
            provider_of = {a_ref(number): provider for number, (provider, *_) in enumerate(made, start=1)}
            everything = await whole_log(store)
            for only in asked:
                read = {entry.position for entry in await whole_log(store, only)}
                for entry in everything:
                    is_read = entry.position in read
                    if entry.task is None:
                        assert entry.provider == provider_of[entry.ref]
                        assert is_read == only.admits(entry.provider)
                        may_match = only.may_match_deleted(entry.ref, entry.provider)
                        assert is_read or not may_match
                        assert may_match or not (is_read and only.is_stream)
                        continue
                    is_let_through = entry.kind == "result" or only.hints
                    assert is_read == (is_let_through and only.matches(entry.task))
                    assert only.matches(entry.task) == only.matches(task_view(entry.task, store.cursor_at))
