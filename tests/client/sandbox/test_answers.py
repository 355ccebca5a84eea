"""The right solution is a function of the task's content alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import BadArgumentError
from client.sandbox import expected_solution
from tests.client.sandbox.support import IMAGE, TOKEN

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)
_TASKS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), _JSON, max_size=5)
_DIALECTS = st.sampled_from(["capsolver", "onecaptcha"])


@given(_DIALECTS, _TASKS)
def test_order_of_fields_does_not_matter(dialect: str, task: dict[str, object]) -> None:
    """Equal contents have equal solutions, in any order of their fields."""
    turned = dict(reversed(task.items()))

    assert expected_solution(dialect, turned) == expected_solution(dialect, task)


@given(_DIALECTS, _TASKS, _JSON)
def test_ordered_faults_are_no_content(dialect: str, task: dict[str, object], faults: object) -> None:
    """The field `sandbox` does not change the solution."""
    bare = {name: value for name, value in task.items() if name != "sandbox"}

    assert expected_solution(dialect, {**bare, "sandbox": faults}) == expected_solution(dialect, bare)


@given(
    _DIALECTS,
    st.sampled_from([IMAGE, TOKEN]),
    st.text(st.characters(codec="utf-8")),
    st.text(st.characters(codec="utf-8")),
)
def test_other_content_has_another_solution(dialect: str, task: dict[str, object], one: str, other: str) -> None:
    """Two tasks have the same solution only if they have the same content."""
    solutions = [expected_solution(dialect, {**task, "body": body}) for body in (one, other)]

    assert (solutions[0] == solutions[1]) == (one == other)


def test_solution_of_an_image_at_capsolver() -> None:
    """CapSolver answers an image with `text` and nothing else."""
    assert expected_solution("capsolver", IMAGE) == {"text": "k4qyszkm"}


def test_solution_of_a_token_task_at_capsolver() -> None:
    """CapSolver answers a token task with `gRecaptchaResponse` and `userAgent`."""
    assert expected_solution("capsolver", TOKEN).keys() == {"gRecaptchaResponse", "userAgent"}


def test_solution_of_a_turnstile_at_capsolver() -> None:
    """CapSolver calls the answer of some types `token`."""
    assert expected_solution("capsolver", {**TOKEN, "type": "AntiTurnstileTaskProxyLess"}).keys() == {
        "token",
        "userAgent",
    }


def test_solution_of_a_classification_at_capsolver() -> None:
    """CapSolver answers a classification with the numbers of the pictures."""
    assert expected_solution("capsolver", {"type": "ReCaptchaV2Classification"}).keys() == {"objects"}


def test_solution_at_onecaptcha_is_called_grecaptcharesponse_for_text_too() -> None:
    """1captcha.vip answers an image under the name of a token (seed: 1captcha, line 89)."""
    assert isinstance(expected_solution("onecaptcha", IMAGE)["gRecaptchaResponse"], str)


def test_onecaptcha_gives_a_respkey_for_some_content() -> None:
    """A `respKey` comes with some answers, as an integer, and not with others (seed: 1captcha, line 77)."""
    keys = [expected_solution("onecaptcha", {**IMAGE, "body": str(number)}).get("respKey") for number in range(50)]

    assert {type(key) for key in keys} == {int, type(None)}


def test_unknown_dialect_is_named() -> None:
    """An unknown dialect is an error with its name."""
    with pytest.raises(BadArgumentError, match="twocaptcher"):
        expected_solution("twocaptcher", IMAGE)
