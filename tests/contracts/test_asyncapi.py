"""The written contract of the streams is valid, up to date and served, and its examples keep to it."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from client.protocol.frames import NAMES_AT_ONCE, read_frame
from tests.contracts.asyncapi import document, rendered
from tests.contracts.check_streams import ContractError, check_event, check_received, check_sent
from tests.readme import ASYNCAPI
from tests.support import running_receiver

with warnings.catch_warnings():
    # At its import pydantic warns of its field names. It has no types.
    warnings.simplefilter("ignore")
    from asyncapi3.models.asyncapi import AsyncAPI3  # type: ignore[import-untyped]

DOCUMENT = document()
MESSAGES = DOCUMENT["components"]["messages"]
SENT = ("subscribe", "add", "remove")
ANSWERED = ("subscribed", "added", "removed", "problem")
TOLD = ("result", "deleted", "hint", "gap", "heartbeat", "goodbye")
CURSOR = "3f9a02c7d41e-42"


def example(name: str) -> dict[str, Any]:
    """Return a copy of the example of a message."""
    frame: dict[str, Any] = json.loads(json.dumps(MESSAGES[name]["examples"][0]["payload"]))
    return frame


def references(part: Any) -> set[str]:
    """Return every reference in a part of the document."""
    return set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(part)))


def test_the_file_is_up_to_date() -> None:
    """The file matches the models; `make docs` renews it."""
    assert ASYNCAPI.read_text("utf-8") == rendered()


async def test_it_is_served_to_anyone(tmp_path: Path) -> None:
    """It is JSON, and needs no key."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        answer = await api.send("GET", "/asyncapi.json", key=None)

    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "application/json")
    assert answer.json == DOCUMENT


def test_it_is_an_asyncapi_document() -> None:
    """Independent models of AsyncAPI 3.0 read it, and have each of its fields."""
    assert AsyncAPI3.model_validate(DOCUMENT).asyncapi == "3.0.0"


def test_every_reference_leads_somewhere() -> None:
    """Every reference leads to a part of the document."""
    for reference in references(DOCUMENT):
        part: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]
        assert part


def test_nothing_is_left_over() -> None:
    """Every schema, message and way to authenticate is used somewhere."""
    parts = DOCUMENT["components"].items()

    assert {f"#/components/{part}/{name}" for part, named in parts for name in named} <= references(DOCUMENT)


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_schema_is_one(name: str) -> None:
    """Each schema is valid in the dialect of AsyncAPI."""
    Draft7Validator.check_schema(DOCUMENT["components"]["schemas"][name])


def test_every_frame_is_told() -> None:
    """Each operation has its messages, as the websocket and the server-sent events carry them."""
    operations = DOCUMENT["operations"]
    found = {
        name: tuple(message["$ref"].rpartition("/")[2] for message in part["messages"])
        for name, part in (*operations.items(), ("reply", operations["ask"]["reply"]))
    }

    assert found == {"ask": SENT, "reply": ANSWERED, "tell": TOLD, "stream": TOLD}
    assert set(MESSAGES) == {*SENT, *ANSWERED, *TOLD}


@pytest.mark.parametrize("name", SENT)
def test_examples_of_what_is_sent(name: str) -> None:
    """Each example keeps to its schema."""
    assert check_sent(json.dumps(example(name)))["type"] == name


@pytest.mark.parametrize("name", [*ANSWERED, *TOLD])
def test_examples_of_what_is_received(name: str) -> None:
    """Each example keeps to its schema, and the client reads it."""
    text = json.dumps(example(name))

    assert check_received(text)["type"] == name
    assert read_frame(text) is not None


@pytest.mark.parametrize("name", TOLD)
def test_examples_as_events(name: str) -> None:
    """Each event has the cursor to go on from as its id."""
    frame = example(name)

    assert check_event(name, frame.get("cursor") or frame["resumesAt"], json.dumps(frame)) == frame


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"type": "unsubscribe"},
        {"type": "result"},
        {"id": None},
        {"id": 1.5},
        {"id": "x" * 65},
        {"tags": ["a,b"]},
        {"tags": "a"},
        {"tasks": [""]},
        {"tasks": [{"provider": "capsolver"}]},
        {"tasks": [{"provider": "capsolver", "taskId": "1", "more": 1}]},
        {"tasks": ["x"] * (NAMES_AT_ONCE + 1)},
        {"cursor": ""},
        {"hints": "true"},
    ],
)
def test_what_may_not_be_sent_is_no_frame(change: dict[str, Any]) -> None:
    """The contract refuses the same frames as the receiver."""
    with pytest.raises(ContractError):
        check_sent(json.dumps(example("subscribe") | change))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("result", {"more": 1}),
        ("result", {"cursor": None}),
        ("result", {"task": example("result")["task"] | {"more": 1}}),
        ("result", {"task": example("result")["task"] | {"createdAt": "2026-13-01T00:00:00Z"}}),
        ("result", {"task": example("result")["task"] | {"status": "done"}}),
        ("result", {"task": {"ref": "x", "provider": "capsolver"}}),
        ("gap", {"resumesAt": 4}),
        ("problem", {"problem": {"title": "A field is wrong"}}),
        ("heartbeat", {"type": "subscribe"}),
    ],
)
def test_what_the_receiver_would_not_say_is_no_frame(name: str, change: dict[str, Any]) -> None:
    """A field too many, one missing, or one of another type breaks the contract."""
    with pytest.raises(ContractError):
        check_received(json.dumps(example(name) | change))


@pytest.mark.parametrize("text", ["1", "[]", "{}", '{"type": ["heartbeat"]}', '{"type": "heartbeat", "cursor": NaN}'])
def test_what_is_no_frame_at_all(text: str) -> None:
    """These texts break the contract in both directions."""
    with pytest.raises(ContractError):
        check_received(text)


@pytest.mark.parametrize(("name", "event_id"), [("result", CURSOR), ("heartbeat", "other"), ("heartbeat", "")])
def test_events_are_called_like_their_frames(name: str, event_id: str) -> None:
    """An event needs the name and the id of its frame."""
    with pytest.raises(ContractError):
        check_event(name, event_id, json.dumps(example("heartbeat")))


def test_problems_may_tell_more() -> None:
    """A problem may have further members (RFC 9457, 3.2)."""
    problem = example("problem")
    problem["problem"]["retryAfterSeconds"] = 5

    assert check_received(json.dumps(problem)) == problem


async def test_every_parameter_of_the_stream_is_told(tmp_path: Path) -> None:
    """The stream takes the parameters of pages, and a ticket instead of a key. It refuses any other."""
    query = dict.fromkeys(DOCUMENT["operations"]["stream"]["bindings"]["http"]["query"]["properties"], "")
    assert query.pop("ticket") == ""
    async with running_receiver(tmp_path / "receiver.db") as api:
        wrong = await api.send("GET", "/v1/results/stream", params=query | {"hints": "?"})
        other = await api.send("GET", "/v1/results/stream", params=query | {"limit": "1"})

    assert wrong.json["detail"] == "hints: expected true or false"
    assert other.json["detail"] == "limit: there is no such parameter here"
