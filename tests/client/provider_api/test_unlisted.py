"""Unlisted codes: repeated answers to polls, and the counts by name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from client.logs import Log
from client.provider_api.unlisted import MOST_CODES, OTHER, WIDEST, UnlistedCodes, UnlistedRow, row_after
from client.providers import DIALECTS
from client.providers.codes import REASON_NOT_GIVEN
from client.providers.readings import Failed, Pending, Reading, Submitted, Unknown

CAPSOLVER = DIALECTS["capsolver"]


def odd(code: str = "ERROR_OF_TOMORROW") -> Failed:
    """Return an error with an unlisted code."""
    return Failed(1, code, is_listed=False)


def rows(*answers: tuple[float, Reading]) -> UnlistedRow | None:
    """Return the row after these answers."""
    row = None
    for at, reading in answers:
        row = row_after(row, reading, at)
    return row


def test_three_times_over_fifteen_seconds_are_enough() -> None:
    """Three times in less time are not enough, and neither are two in more."""
    three = rows((0, odd()), (6, odd()), (14.9, odd()))
    two = rows((0, odd()), (60, odd()))

    assert three is not None
    assert two is not None
    assert (three.is_enough(14.9), two.is_enough(60)) == (False, False)
    assert UnlistedRow(three.code, three.times, three.since).is_enough(15.0)


def test_what_is_known_ends_a_row() -> None:
    """An unknown id, a listed failure and another code end a row as well."""
    for reading in (Pending("processing"), Unknown(1, "ERROR_TASKID_INVALID"), Failed(1, "ERROR_CAPTCHA_UNSOLVABLE")):
        assert rows((0, odd()), (6, odd()), (8, reading)) is None
    assert rows((0, odd()), (6, odd()), (8, odd("ERROR_2"))) == UnlistedRow("ERROR_2", 1, 8)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from(["A", "B", ""]))))
def test_laws_of_rows(answers: list[tuple[float, str]]) -> None:
    """A row never begins in the future, even after the clock was set back, and the waits are bounded."""
    row = None
    for at, code in answers:
        row = row_after(row, odd(code) if code else Pending("idle"), at)
        assert (row is None) == (not code)
        assert row is None or (row.since <= at and 2.0 <= row.intervals <= WIDEST and row.code == code)


def test_waits_double() -> None:
    """The waits double up to the longest one."""
    assert [UnlistedRow("A", times, 0).intervals for times in (1, 2, 3, 10_000)] == [2.0, 4.0, 4.0, 4.0]


def test_a_doubled_wait_ends_within_the_window() -> None:
    """If the wait would reach the end of the window, then the row asks for none."""
    row = UnlistedRow("A", 1, 0)

    assert [row.least_wait(3.0, window_left=left) for left in (6.1, 6.0, -1.0)] == [6.0, 0.0, 0.0]


def test_codes_are_counted_by_name_and_bounded() -> None:
    """Only unlisted codes are counted. Implausible codes, and codes beyond the bound, share one name."""
    counted: list[tuple[str, str]] = []
    codes = UnlistedCodes(lambda provider, name: counted.append((provider, name)))
    for reading in (odd(), Submitted(None, odd()), Failed(1, "ERROR_CAPTCHA_UNSOLVABLE"), odd(REASON_NOT_GIVEN), None):
        codes.note(CAPSOLVER, reading)
    for text in ("<b>", "E" * 81, 'A"} 1\nx{', "ERROR_é"):
        codes.note(CAPSOLVER, odd(text))
    for number in range(2 * MOST_CODES):
        codes.note(CAPSOLVER, odd(f"ERROR_{number}"))

    names = [name for _, name in counted]
    assert (names[:2], names[2:6]) == (["ERROR_OF_TOMORROW"] * 2, [OTHER] * 4)
    assert (len(set(names)), names[-1]) == (MOST_CODES, OTHER)
    assert {provider for provider, _ in counted} == {"capsolver"}


def test_codes_are_logged_once_and_then_seldom() -> None:
    """The first, tenth and hundredth code of a name is logged."""
    codes = UnlistedCodes()
    with capture_logs() as lines:
        for _ in range(150):
            codes.note(CAPSOLVER, odd())
        Log().info("end")

    assert [(line["event"], line.get("errorCode"), line.get("times")) for line in lines] == [
        ("code.unlisted", "ERROR_OF_TOMORROW", 1),
        ("code.unlisted", "ERROR_OF_TOMORROW", 10),
        ("code.unlisted", "ERROR_OF_TOMORROW", 100),
        ("end", None, None),
    ]
