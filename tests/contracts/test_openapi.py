"""The written contract of the API is valid, up to date and served, and the application keeps to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from client.protocol.models import Registered
from receiver.app import create_app
from receiver.settings import Settings
from receiver.web.routes import ROUTES, Route
from tests.contracts.check_answers import check_answer
from tests.contracts.check_streams import ContractError
from tests.contracts.openapi import document, rendered
from tests.readme import OPENAPI
from tests.support import READ_ONLY, SUBMIT_ONLY, running_receiver

KEYED = [route for route in ROUTES if route.scope is not None]
PROBLEM = {"type": "urn:x", "title": "x", "status": 404, "detail": "x", "errorId": 1, "errorCode": "X"}


def address(route: Route) -> str:
    """Return a path of the route, with an id that does not exist."""
    return route.path.replace("{id}", "nothing")


def named(route: Route) -> str:
    """Return the name of the route in test ids."""
    return f"{route.method} {route.path}"


def test_the_file_is_up_to_date() -> None:
    """The file matches the routes and models; `make docs` renews it."""
    assert OPENAPI.read_text("utf-8") == rendered()


def test_it_is_an_openapi_document() -> None:
    """An independent validator finds no error in it."""
    validate(document(), cls=OpenAPIV31SpecValidator)


async def test_it_is_served_to_anyone(tmp_path: Path) -> None:
    """It is JSON, and needs no key."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        answer = await api.send("GET", "/openapi.json", key=None)

    assert (answer.status, answer.json) == (200, document())


def test_every_route_is_an_operation(tmp_path: Path) -> None:
    """The document has exactly the routes of the application. HEAD comes with GET for probes.

    Callback URLs with too many slashes are another spelling, not another operation.
    """
    app = create_app(Settings(database=tmp_path / "receiver.db", verification_text="text", _env_file=None))
    routes = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD" and not route.resource.canonical.startswith("/{lead}")
    }

    assert routes == {(route.method, route.path) for route in ROUTES}


@pytest.mark.parametrize("route", KEYED, ids=named)
async def test_the_scope_is_the_one_that_is_asked_for(tmp_path: Path, route: Route) -> None:
    """A request without a key gets 401, and with a key without the scope 403."""
    keys = {"submit": SUBMIT_ONLY, "read": READ_ONLY}
    async with running_receiver(tmp_path / "receiver.db") as api:
        answers = [
            await api.send(route.method, address(route), key=key)
            for key in (None, *(key for scope, key in keys.items() if scope != route.scope))
        ]

    assert [answer.status for answer in answers] == [401, *[403] * (len(answers) - 1)]


@pytest.mark.parametrize("route", [route for route in KEYED if route.query and not route.is_stream], ids=named)
async def test_the_parameters_are_those_that_are_read(tmp_path: Path, route: Route) -> None:
    """Each parameter is read: given twice, it is refused by its name. Any other is unknown."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        for name in route.query or ():
            twice = await api.send(route.method, f"{address(route)}?{name}=1&{name}=1")
            assert (twice.status, twice.json["detail"]) == (422, f"{name}: expected once")
        other = await api.send(route.method, f"{address(route)}?other=1")

    assert other.json["detail"] == "other: there is no such parameter here"


def test_what_is_always_written_is_required() -> None:
    """Fields that are always written are required, so that typed readers need not check for them."""
    schemas = document()["components"]["schemas"]

    assert set(schemas["Registered"]["required"]) == {
        field.alias or name for name, field in Registered.model_fields.items()
    }
    assert "solution" in schemas["Task"]["required"]
    assert "supersedes" not in schemas["Task"]["required"]
    assert schemas["Registration"]["required"] == ["provider"]


@pytest.mark.parametrize(
    ("status", "kind", "body", "text"),
    [
        (418, "application/json", {}, "no answer with the status 418"),
        (200, "text/html", {}, "no text/html with the status 200"),
        (200, "application/json", {"tasks": [], "nextPage": None, "more": True}, "more"),
        (200, "application/json", {"tasks": []}, "nextPage"),
        (401, "application/problem+json", {**PROBLEM, "errorId": "1"}, "errorId"),
    ],
)
def test_an_answer_that_is_not_in_it_is_noticed(status: int, kind: str, body: object, text: str) -> None:
    """The check that all tests use finds wrong responses."""
    with pytest.raises(ContractError, match=text):
        check_answer("GET", "/v1/tasks", status, kind, json.dumps(body).encode())
