"""Rules for every input: dialects are total, and read the same from the same facts."""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import UnreadableError
from client.providers import DIALECTS, Dialect, SignatureRule, callbacks
from client.providers.readings import CallbackReading, Failed, Pending, Ready, Refused, Submitted, Unknown
from client.providers.values import canonical_json, parse_json, parse_object, read_task_id, same_value, task_id_text
from tests.client.providers.strategies import (
    MANY,
    answers,
    as_json,
    asked_in,
    json_values,
    reordered,
    task_ids,
    unknown_fields,
)

CAPSOLVER, ONECAPTCHA = DIALECTS["capsolver"], DIALECTS["onecaptcha"]

both = pytest.mark.parametrize("dialect", [CAPSOLVER, ONECAPTCHA], ids=lambda dialect: dialect.provider)

READINGS = (Ready, Failed, Pending, Unknown, Refused)
RULE = SignatureRule(headers=("X-Webhook-Signature", "hmac"))


@MANY
@given(body=st.binary() | answers.map(as_json) | st.text().map(str.encode))
def test_parsing_is_total_over_bytes(body: bytes) -> None:
    """Any bytes give an object or our error."""
    with suppress(UnreadableError):
        assert isinstance(parse_object(body), dict)


@both
@MANY
@given(answer=answers | json_values)
def test_reading_create_task_is_total(dialect: Dialect, answer: Any) -> None:
    """Any JSON value gives an id or none, and a reading, or our error."""
    with suppress(UnreadableError):
        submitted = dialect.read_create_task(answer)
        assert isinstance(submitted, Submitted)
        assert isinstance(submitted.reading, READINGS)
        assert submitted.task_id not in (0, "")


@both
@MANY
@given(answer=answers | json_values)
def test_reading_task_results_is_total(dialect: Dialect, answer: Any) -> None:
    """Any JSON value gives a reading or our error."""
    with suppress(UnreadableError):
        assert isinstance(dialect.read_task_result(answer), READINGS)


@both
@MANY
@given(answer=answers | json_values)
def test_reading_balances_is_total(dialect: Dialect, answer: Any) -> None:
    """Any JSON value gives an amount, a reading or our error."""
    with suppress(UnreadableError):
        assert isinstance(dialect.read_balance(answer), float | Ready | Failed | Unknown | Refused)


@both
@MANY
@given(
    query=st.binary(max_size=40),
    body=st.binary()
    | answers.map(as_json)
    | st.tuples(answers.map(as_json), st.integers(0, 80)).map(lambda cut: cut[0][: cut[1]]),
)
def test_reading_callbacks_is_total(dialect: Dialect, query: bytes, body: bytes) -> None:
    """Any bytes, whole or cut, give a permitted reading or our error."""
    with suppress(UnreadableError):
        callback = dialect.read_callback(query=query, body=body)
        assert isinstance(callback, CallbackReading)
        assert isinstance(callback.reading, Ready | Failed | Pending)


@both
@MANY
@given(answer=answers)
def test_failures_always_have_a_number_and_a_code(dialect: Dialect, answer: dict[str, Any]) -> None:
    """Even if the provider leaves fields out, an error has an `errorId` from 1 to 2^31 - 1 and a code."""
    with suppress(UnreadableError):
        reading = dialect.read_task_result({**answer, "status": "failed"})
        assert not isinstance(reading, Ready)
        assert isinstance(reading, Pending) or (1 <= reading.error_id < 2**31 and reading.error_code != "")


@both
@MANY
@given(
    task_id=task_ids,
    solution=json_values.filter(lambda value: value is not None),
    unknown=unknown_fields,
    data=st.data(),
)
def test_a_real_answer_survives_new_fields_in_any_order(
    dialect: Dialect, task_id: int | str, solution: Any, unknown: dict[str, Any], data: st.DataObject
) -> None:
    """Unknown fields and another order of the known ones change nothing."""
    real = {
        "errorId": 0,
        "errorCode": None,
        "errorDescription": "",
        "status": "ready",
        "taskId": task_id,
        "solution": solution,
    }
    answer = dict(data.draw(st.permutations([*real.items(), *unknown.items()])))

    assert dialect.read_create_task(answer) == Submitted(task_id, Ready(solution))
    assert dialect.read_task_result(answer) == Ready(solution)
    assert dialect.read_callback(query=b"", body=as_json(answer)) == CallbackReading(task_id, Ready(solution))


@both
@MANY
@given(answer=answers, unknown=unknown_fields)
def test_any_reading_survives_new_fields_in_the_opposite_order(
    dialect: Dialect, answer: dict[str, Any], unknown: dict[str, Any]
) -> None:
    """Errors and states too are read from the known fields alone."""
    with suppress(UnreadableError):
        assert dialect.read_task_result(reordered({**unknown, **answer})) == dialect.read_task_result(reordered(answer))


@both
@MANY
@given(task_id=task_ids)
def test_ids_keep_their_type_there_and_back(dialect: Dialect, task_id: int | str) -> None:
    """From the createTask answer to the getTaskResult request an id stays the same JSON value."""
    given_id = dialect.read_create_task(parse_json(as_json({"errorId": 0, "taskId": task_id}))).task_id
    assert given_id is not None

    asked = asked_in(dialect.get_task_result("k", given_id))["taskId"]

    assert (type(asked), asked) == (type(task_id), task_id)
    assert task_id_text(asked) == str(task_id)


@MANY
@given(value=json_values)
def test_ids_are_total(value: Any) -> None:
    """Any JSON value is an id, none, or our error."""
    with suppress(UnreadableError):
        assert read_task_id(value) is None or type(value) in (int, str)


@MANY
@given(value=json_values)
def test_canonical_json_does_not_depend_on_order(value: Any) -> None:
    """The same value with its names in another order has the same canonical text."""
    assert canonical_json(reordered(value)) == canonical_json(value)


@MANY
@given(value=json_values)
def test_canonical_json_loses_nothing(value: Any) -> None:
    """The canonical text reads back as the same value, so two values share it only if they are the same."""
    assert parse_json(canonical_json(value).encode()) == value


@MANY
@given(one=json_values, other=json_values)
def test_sameness_is_equal_to_sorted_json(one: Any, other: Any) -> None:
    """Two values are the same exactly where their JSON with sorted names is."""
    assert same_value(one, other) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


@MANY
@given(
    headers=st.dictionaries(st.sampled_from(["X-Webhook-Signature", "hmac", "Other"]), st.text(st.characters())),
    body=st.binary(),
    secret=st.binary(),
)
def test_no_guess_verifies(headers: dict[str, str], body: bytes, secret: bytes) -> None:
    """Any headers over any bytes give false, and no error; surrogates and other oddities included."""
    assert RULE.verifies(headers, body, secret) is False


@MANY
@given(body=st.binary(), secret=st.binary(), place=st.integers(0, 63), step=st.integers(1, 15))
def test_the_right_signature_alone_verifies(body: bytes, secret: bytes, place: int, step: int) -> None:
    """The HMAC of the body verifies; with one digit changed, for another body or under another secret it does not."""
    right = hmac.new(secret, body, hashlib.sha256).hexdigest()
    digit = f"{(int(right[place], 16) + step) % 16:x}"

    assert RULE.verifies({"hmac": right}, body, secret)
    assert not RULE.verifies({"hmac": right[:place] + digit + right[place + 1 :]}, body, secret)
    assert not RULE.verifies({"hmac": right}, body + b"\x00", secret)
    assert not RULE.verifies({"hmac": right}, body, secret + b"x")


nearly_plain: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "errorId": st.sampled_from([0, 0, 0, 1, 0.0, "0", False, None]),
        "status": st.sampled_from(["ready", "ready", "ready", "Ready", "failed", "", None, True]),
        "solution": st.sampled_from([{"text": "x"}, {"text": "x"}, {}, [], "", 0, False, None]),
        "taskId": st.sampled_from(["7", "7", "x", "", "0", 7, 0, None, True, 1.5, [], "x" * 256, "x" * 257, "é" * 256]),
    },
    optional={"errorCode": st.sampled_from(["", None, "", 0, False, [], "ERROR_NOBODY_KNOWS"])},
)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@MANY
@given(answer=nearly_plain | answers)
def test_the_quick_reading_is_that_of_the_general_one(dialect: Dialect, answer: Any) -> None:
    """A callback in the usual form of a ready answer is read as without the quick way."""
    body = as_json(answer)
    quick = reading_of(dialect, body)
    with pytest.MonkeyPatch.context() as without:
        without.setattr(callbacks, "_is_plain", lambda _fields: False)
        general = reading_of(dialect, body)

    assert repr(quick) == repr(general)


def reading_of(dialect: Dialect, body: bytes) -> CallbackReading | str:
    """Return the reading, or the text of the error."""
    try:
        return dialect.read_callback(query=b"", body=body)
    except UnreadableError as error:
        return str(error)
