"""The table of verdicts: complete, and enough for the reader of each row."""

from __future__ import annotations

from itertools import chain
from typing import get_args

import pytest

from receiver.domain.verdicts import VERDICTS, Verdict, VerdictRow

rows = pytest.mark.parametrize("row", VERDICTS.values(), ids=list(VERDICTS))


def test_each_verdict_has_a_row() -> None:
    """The types name the same verdicts as the table."""
    assert list(VERDICTS) == list(chain.from_iterable(map(get_args, get_args(Verdict))))


@rows
def test_a_refusal_has_a_remedy(row: VerdictRow) -> None:
    """An operator can do something about a refusal, and about nothing else."""
    assert row.is_refused == (row.status >= 400) == (row.remedy is not None)


@rows
def test_a_timeline_names_only_facts_of_the_delivery(row: VerdictRow) -> None:
    """The wording has no other placeholders than those that are filled in."""
    assert row.timeline.format(id="the taskId 'T'", size=1, content="'text/html'", provider="capsolver")
