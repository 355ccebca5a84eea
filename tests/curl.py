"""Commands of curl in the documents, read without curl."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from string import Template
from typing import Any

__all__ = ["CurlRequest", "curl_requests"]

_WITH_VALUE = ("-X", "-H", "-d", "--json")


@dataclass(slots=True)
class CurlRequest:
    """One request of a document, with the shell's variables filled in."""

    method: str
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None


def curl_requests(block: str, variables: dict[str, str]) -> list[CurlRequest]:
    """Return the requests of the curl commands in a block of shell."""
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    return [_read(shlex.split(line), variables) for line in lines if line.startswith("curl ")]


def _read(words: list[str], variables: dict[str, Any]) -> CurlRequest:
    request = CurlRequest("GET")
    rest = iter(words[1:])
    for word in rest:
        value = Template(next(rest) if word in _WITH_VALUE else word).safe_substitute(variables)
        match word:
            case "-X":
                request.method = value
            case "-H":
                name, _, text = value.partition(": ")
                request.headers[name] = text
            case "-d" | "--json":
                request.body = value
                if word == "--json":
                    request.headers["Content-Type"] = "application/json"
            case _ if not word.startswith("-"):
                request.url = value
    if request.body is not None and request.method == "GET":
        request.method = "POST"
    return request
