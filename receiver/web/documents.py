"""`GET /asyncapi.json` and `GET /openapi.json`: the written contracts, as they lie beside this file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from aiohttp import web

from receiver.web.views import json_response

__all__ = ["asyncapi", "openapi"]


async def asyncapi(_request: web.Request) -> web.Response:
    """The contract of the streams, for anyone."""
    return json_response(_written("asyncapi.json"))


async def openapi(_request: web.Request) -> web.Response:
    """The contract of everything else, for anyone."""
    return json_response(_written("openapi.json"))


@cache
def _written(name: str) -> bytes:
    return files("receiver.web").joinpath(name).read_bytes()
