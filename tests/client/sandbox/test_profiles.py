"""The sandbox of a provider without a row of its own: its declaration is enough."""

from __future__ import annotations

import pytest

from client.providers import DIALECTS, read_providers
from client.providers.readings import Bare, CallbackReading, Failed, Ready
from client.sandbox import SandboxSettings
from client.sandbox.wires.messages import CallbackContent
from client.sandbox.wires.profile import Profile, ordinary

JSON = """
[mine]
api = "json"
idType = "integer"
reports = [{ name = "reportBad", isGood = false, types = ["image"] }]
[mine.callback]
taskId = "missing"
[mine.polls]
maxPolls = 7
intervalSeconds = 4
windowSeconds = 60
[mine.limits]
errors = { count = 5, seconds = 60 }
submits = { count = 3, seconds = 2 }
pollsForEach = 20
"""
CODE = """
[mine]
api = "json"
[mine.callback]
shape = "code"
"""
QUERY = (
    CODE
    + """
methods = ["GET"]
idField = "job"
codeField = "answer"
statusField = "state"
"""
)


def profile_of(declaration: str) -> Profile:
    """Return the profile of a declared provider."""
    return ordinary(read_providers(declaration.encode(), DIALECTS)["mine"])


def test_the_figures_are_those_of_the_declaration() -> None:
    """Limits and reports follow from the declaration."""
    profile = profile_of(JSON)
    limits = profile.limits

    assert (limits.max_polls, limits.poll_interval_seconds, limits.window_seconds) == (7, 4, 60)
    assert (limits.ban_errors, limits.submit_count, limits.submit_seconds, limits.polls_for_each) == (5, 3, 2, 20)
    assert profile.reports == {"reportBad": ("image",)}
    assert (profile.has_callback, profile.is_id_in_callback) == (True, False)


@pytest.mark.parametrize(("declaration", "kind"), [(JSON, int), (CODE, str)], ids=["integer", "text"])
def test_ids_have_the_declared_type(declaration: str, kind: type) -> None:
    """An id of the sandbox has its JSON type on the wire."""
    profile = profile_of(declaration)
    new_id = profile.id_maker()

    assert type(profile.wire(SandboxSettings()).wire_id(new_id())) is kind


@pytest.mark.parametrize("declaration", [JSON, CODE, QUERY], ids=["result", "form", "query"])
@pytest.mark.parametrize("error_code", [None, "ERROR_CAPTCHA_UNSOLVABLE"], ids=["success", "failure"])
def test_the_dialect_reads_the_callback(declaration: str, error_code: str | None) -> None:
    """A callback of the sandbox is in the declared form."""
    dialect = read_providers(declaration.encode(), DIALECTS)["mine"]
    profile = ordinary(dialect)
    solution = None if error_code else {"code": "t"}
    outcome = {"errorId": 1, "errorCode": error_code} if error_code else {"status": "ready", "solution": solution}

    message = profile.write(
        CallbackContent(
            task_id="7",
            wire_id=profile.wire(SandboxSettings()).wire_id,
            answer={"errorId": 0, **outcome},
            solution=solution,
            error_code=error_code,
            secret=None,
        )
    )
    read = dialect.read_callback(query=message.query.encode(), body=message.body)

    assert read.task_id == (7 if declaration is JSON else "7")
    assert isinstance(read, CallbackReading)
    assert isinstance(read.reading, Failed if error_code else Ready | Bare)
