"""`GET /asyncapi.json`: the written contract, as it lies beside this file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from aiohttp import web

from receiver.web.views import json_response

__all__ = ["asyncapi"]


async def asyncapi(_request: web.Request) -> web.Response:
    """The contract of the streams, for anyone."""
    return json_response(_written("asyncapi.json"))


@cache
def _written(name: str) -> bytes:
    return files("receiver.web").joinpath(name).read_bytes()
