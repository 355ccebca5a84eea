"""The contract of the HTTP API as an OpenAPI 3.1 document, for people and for tools of any language.

Operations come from the table of routes, schemas from the models of the handlers, and problems from the table of
problems. `make docs` writes the document to `openapi.json`, and the server serves that file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from client.protocol.models import LogEntry
from client.providers.values import MAX_TASK_ID_LENGTH
from client.version import VERSION
from receiver.errors import PROBLEMS
from receiver.web.routes import ROUTES, Route
from tests.contracts.schemas import ref_to, require, schemas_of

__all__ = ["document", "rendered"]

_ABOUT = """\
The scopes of API keys are `submit`, `read` and `admin`; each operation names its scope. Errors are
`application/problem+json` (RFC 9457), and errors of the createTask family as well. Unknown parameters and unknown
fields of bodies are refused. Ignore unknown fields in answers. `/asyncapi.json` describes the streams."""

_PARTIAL = ("Task", "Problem", "LogEntry")
"""Models with fields that are not always written."""

_SECURITY = {
    "key": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <secret>`"},
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "For pages in a browser, and server-sent events only; `POST /v1/tickets` makes one.",
    },
}
_HEADERS = {
    "Retry-After": ("Seconds until the same request may work.", "integer"),
    "RateLimit": ('For `too-many-requests`: the limit that was met, as `"key";r=0;t=SECONDS`.', "string"),
    "RateLimit-Policy": (
        'For `too-many-requests`: the limit, as `"key";q=REQUESTS;w=SECONDS` (draft-ietf-httpapi-ratelimit-headers).',
        "string",
    ),
}
_LIMITED = {"headers": {name: ref_to("components", "headers", name) for name in _HEADERS}}


def rendered() -> str:
    """Return the document as the text of its file."""
    return to_json(document(), indent=1).decode() + "\n"


def document() -> dict[str, Any]:
    """Return the document, made anew from the models and the table of routes."""
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for route in ROUTES:
        paths[route.path][route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Callback receiver", "version": VERSION, "description": _ABOUT},
        # Below the public URL's path, if it has one.
        "servers": [{"url": "."}],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(),
            "headers": {
                name: {"description": about, "schema": {"type": kind}} for name, (about, kind) in _HEADERS.items()
            },
            "securitySchemes": _SECURITY,
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    query = route.query or {}
    scheme = [{"key": [route.scope]}] if route.scope is not None else []
    if "ticket" in query:
        scheme.append({"ticket": []})
    body = {} if route.body is None else {"requestBody": {"required": True, "content": _json(route.body)}}
    return {
        "summary": route.summary,
        "operationId": _name(route),
        "security": scheme,
        "parameters": [
            *(_parameter("path", name, "", is_required=True) for name in re.findall(r"\{(\w+)\}", route.path)),
            *(_parameter("query", name, about) for name, about in query.items() if name != "ticket"),
            *(_parameter("header", name, about) for name, about in route.headers.items()),
        ],
        **body,
        "responses": _answers(route),
    }


def _answers(route: Route) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, (about, content) in sorted(route.answers.items()):
        limited = _LIMITED if status == 429 else {}
        answers[f"{status}"] = {"description": about, **limited, **_content(content)}
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for slug in route.problems:
        by_status[PROBLEMS[slug].status].append(slug)
    for status, slugs in sorted(by_status.items()):
        described = "; ".join(f"`{slug}`: {PROBLEMS[slug].title}" for slug in slugs)
        limited = _LIMITED if status == 429 else {}
        answers[f"{status}"] = {"description": described, **limited, "content": _problem()}
    return answers


def _content(content: type[BaseModel] | str | None) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, str):
        return {"content": _json(content)}
    return {"content": {content: {"schema": {"type": "object" if content.endswith("json") else "string"}}}}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": ref_to("components", "schemas", model.__name__)}}


def _problem() -> dict[str, Any]:
    return {"application/problem+json": {"schema": ref_to("components", "schemas", "Problem")}}


def _parameter(place: str, name: str, about: str, *, is_required: bool = False) -> dict[str, Any]:
    described = {"description": about} if about else {}
    bounded = {"maxLength": MAX_TASK_ID_LENGTH} if name == "id" else {}
    return {"name": name, "in": place, "required": is_required, **described, "schema": {"type": "string", **bounded}}


def _name(route: Route) -> str:
    """Return a name for the operation, such as `getTasksIdTimeline` for `GET /v1/tasks/{id}/timeline`."""
    parts = re.findall(r"\w+", route.path.removeprefix("/v1"))
    return route.method.lower() + "".join(part[0].upper() + part[1:] for part in parts)


def _schemas() -> dict[str, Any]:
    read = [route.body for route in ROUTES if route.body is not None]
    schemas = schemas_of(read, _written())
    sent = {model.__name__ for model in read} | {"FirstOutcome"}
    for name, schema in schemas.items():
        if "properties" in schema and name not in (*_PARTIAL, *sent):
            require(schema, schema["properties"])
    return schemas


def _written() -> Iterable[type[BaseModel]]:
    models = [content for route in ROUTES for _, content in route.answers.values()]
    return [*(model for model in models if isinstance(model, type)), LogEntry]
