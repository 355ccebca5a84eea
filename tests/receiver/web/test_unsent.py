"""Limits on unread bytes of responses, in all and for each key. Small responses and single ones are never refused."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from receiver.errors import PROBLEMS, ReceiverError
from receiver.storage.store import PAGE_BYTES
from receiver.web.server.unsent import Unsent

_SIZE = 10_000


def test_a_key_has_its_part_and_all_have_theirs() -> None:
    """The limit of a key gives 429 and the limit in all 503, each with Retry-After. Reading makes room again."""
    unsent = Unsent(most=5 * _SIZE, most_each=2 * _SIZE)
    with ExitStack() as held:
        for owner in ("a", "a", "b", "b", "c"):
            unsent.check_answer(owner, _SIZE)
            held.enter_context(unsent.counted(owner, _SIZE))
        slugs = []
        for owner in ("a", "c", ""):
            with pytest.raises(ReceiverError) as refused:
                unsent.check_answer(owner, _SIZE)
            assert refused.value.retry_after_seconds
            slugs.append((refused.value.slug, PROBLEMS[refused.value.slug].status))
        with pytest.raises(ReceiverError):
            unsent.check("a")
        unsent.check("c")
        unsent.check_answer("a", 100)

    assert slugs == [("too-much-unsent", 429), ("receiver-full", 503), ("receiver-full", 503)]
    assert len(unsent) == 0
    unsent.check("a")
    unsent.check_answer("a", _SIZE)


def test_an_answer_that_is_alone_is_never_too_large() -> None:
    """A single response is never refused. Otherwise a task with a large solution could never be read."""
    unsent = Unsent(most=_SIZE, most_each=_SIZE)

    unsent.check_answer("a", 100 * _SIZE)
    with unsent.counted("a", 100 * _SIZE), pytest.raises(ReceiverError):
        unsent.check_answer("b", _SIZE)


async def test_few_pages_are_in_memory_at_once() -> None:
    """A hundred pages are read four at a time, in the order of the requests."""
    unsent, began, most = Unsent(), list[int](), 0
    inside: set[int] = set()

    async def read(number: int) -> None:
        nonlocal most
        async with unsent.turn("a"):
            began.append(number)
            inside.add(number)
            most = max(most, len(inside))
            await asyncio.sleep(0)
            inside.discard(number)

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(read(number))

    assert (began, most) == (list(range(100)), 4)


async def test_a_page_that_could_not_be_sent_is_not_read() -> None:
    """The turn is given back, and the next key has it."""
    unsent = Unsent(most_each=2 * PAGE_BYTES)
    with unsent.counted("a", PAGE_BYTES + 1):
        for _ in range(10):
            with pytest.raises(ReceiverError) as refused:
                async with unsent.turn("a"):
                    pytest.fail("it was read")
            assert refused.value.slug == "too-much-unsent"
        async with unsent.turn("b"):
            pass
    async with unsent.turn("a"):
        pass
