"""The table of verdicts: complete, and enough for the reader of each row."""

from __future__ import annotations

from itertools import chain
from typing import get_args

import pytest

from receiver.domain.verdicts import VERDICTS, Verdict, VerdictRow, is_refusal

rows = pytest.mark.parametrize("row", VERDICTS.values(), ids=list(VERDICTS))


def test_each_verdict_has_a_row() -> None:
    """The types name the same verdicts as the table."""
    assert list(VERDICTS) == list(chain.from_iterable(map(get_args, get_args(Verdict))))


@rows
def test_a_refusal_has_a_remedy(row: VerdictRow) -> None:
    """An operator can do something about a refusal, and about nothing else."""
    assert row.is_refused == (row.status >= 400) == (row.remedy is not None)


@pytest.mark.parametrize(("status", "refused"), [(200, False), (202, False), (204, False), (400, True), (503, True)])
def test_a_success_is_no_refusal(status: int, refused: bool) -> None:
    """Only an error status refuses, whatever success a verdict answers with."""
    assert is_refusal(status) is refused


@rows
def test_a_timeline_names_only_facts_of_the_delivery(row: VerdictRow) -> None:
    """The wording has no other placeholders than those that are filled in."""
    assert row.timeline.format(id="the taskId 'T'", size=1, content="'text/html'", provider="capsolver")
