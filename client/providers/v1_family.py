"""The wire format of the older in.php / res.php API of 2captcha and its relatives.

Source: providers/README.md, "Older API", "CaptchaAI".

A task holds the parameters of in.php: its `type` is sent as `method`, the other fields unchanged. The answer is one
text. It becomes `code` in the solution, as in a callback. A JSON answer stays JSON. Points come as text
(`coordinates:x=49,y=235;x=52,y=31`) or, with json=1, as a list (`[{"x":"49","y":"235"},…]`). APITest in
astubbs/captcha-fun shows both. Here they always become a list, and a number always becomes text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

from client.errors import BadArgumentError, UnreadableError
from client.providers.codes import read_error
from client.providers.dialect import Call, Dialect
from client.providers.json_family import read_amount
from client.providers.readings import Pending, Reading, Ready, Submitted, TaskId
from client.providers.rules import ReportRule
from client.providers.values import parse_json, parse_object, read_task_id

__all__ = ["V1_FAMILY"]

_RESERVED = frozenset({"key", "json", "pingback", "method"})
_FORM = (("Content-Type", "application/x-www-form-urlencoded"),)
# "ERROR: 1005" is a code too.
_CODE = re.compile(r"[A-Z][A-Z0-9_]{2,63}(: ?[0-9]{1,6})?")
_DONE = re.compile(r"OK_[A-Z_]{1,60}")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,12})?")
_POINT = r"x=[0-9]{1,6},y=[0-9]{1,6}"
_POINTS = re.compile(f"coordinates:({_POINT}(?:;{_POINT})*)")
# JSON (openbullet/CaptchaSharp#8: a list where there was an object before), `click:1/2/3`, `canvas:…`.
_IN_PARTS = re.compile(r"\s*([\[{]|[a-z_]{2,30}:)")


@dataclass(frozen=True, slots=True)
class _V1Family:
    """Forms over POST for in.php, query strings over GET for res.php, with the client key among the fields."""

    requests: str = "in.php, res.php"
    # The method of in.php for an image as text (https://2captcha.com/2captcha-api).
    image_type: str | None = "base64"

    def create_task(
        self,
        dialect: Dialect,
        client_key: str,
        task: Mapping[str, Any],
        *,
        callback_url: str | None,
        app_id: str | None,
    ) -> Call:
        """Return an in.php request by POST. Over GET, it would keep only the first parameter of the pingback URL.

        Raises:
            BadArgumentError: a field is neither text, number nor boolean, or the client sets this field itself.
        """
        del app_id
        fields = {"key": client_key, "method": str(task.get("type", "")), "json": "1"}
        for name, value in task.items():
            if name in _RESERVED:
                raise BadArgumentError(f"{name}: is set by the client; give the method of in.php as type")
            if name != "type":
                fields[name] = _text(name, value)
        if callback_url is not None:
            fields["pingback"] = callback_url
        seconds = dialect.create_seconds
        return Call(name="in.php", path="/in.php", headers=_FORM, body=_form(fields), seconds=seconds)

    def get_task_result(self, dialect: Dialect, client_key: str, task_id: TaskId) -> Call:
        """Return a res.php request with the action get."""
        del dialect
        return _res(client_key, "get", id=str(task_id))

    def get_balance(self, dialect: Dialect, client_key: str) -> Call:
        """Return a res.php request with the action getbalance."""
        del dialect
        return _res(client_key, "getbalance")

    def report(self, dialect: Dialect, client_key: str, task_id: TaskId, rule: ReportRule) -> Call:
        """Return a res.php request with the action reportgood or reportbad.

        Source: providers/README.md, "Balance and reports".
        """
        del dialect
        return _res(client_key, rule.name, id=str(task_id))

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """Return `{"status": 1, "request": …}`, or the same for plain text: `OK|…`, a code, an amount."""
        text = raw.strip()
        if text.startswith((b"{", b"\xef\xbb\xbf")):
            return parse_object(text)
        try:
            plain = text.decode()
        except UnicodeDecodeError:
            raise UnreadableError("neither JSON nor text") from None
        if plain == "OK" or plain.startswith("OK|"):
            return {"status": 1, "request": _json_or_text(plain[3:])}
        if _DONE.fullmatch(plain):
            return {"status": 1, "request": plain}
        if _NUMBER.fullmatch(plain):
            return {"status": 1, "request": plain}
        if _CODE.fullmatch(plain):
            return {"status": 0, "request": plain}
        raise UnreadableError("expected OK, a code or JSON")

    def read_create_task(self, dialect: Dialect, answer: Any) -> Submitted:
        """Return the id. It is digits in text."""
        reading = _read(dialect, answer)
        if not isinstance(reading, Ready):
            return Submitted(None, reading)
        return Submitted(read_task_id(reading.solution), Pending(""))

    def read_task_result(self, dialect: Dialect, answer: Any) -> Reading:
        """Return the state of the task, or the error about the request."""
        reading = _read(dialect, answer)
        if not isinstance(reading, Ready):
            return reading
        if reading.solution == "":
            # Proxies too answer with a bare OK.
            raise UnreadableError("request: expected an answer")
        return Ready(_solution(reading.solution))

    def read_balance(self, dialect: Dialect, answer: Any) -> float | Reading:
        """Return the balance, or the error in its place."""
        reading = _read(dialect, answer)
        if not isinstance(reading, Ready):
            return reading
        amount = reading.solution
        return read_amount(float(amount) if isinstance(amount, str) and _NUMBER.fullmatch(amount) else amount)

    def read_report(self, dialect: Dialect, answer: Any) -> Reading:
        """Return `Pending` if it was recorded."""
        reading = _read(dialect, answer)
        return Pending("") if isinstance(reading, Ready) else reading

    def solution_of(self, dialect: Dialect, code: str, task_type: str | None) -> Any | None:
        """Return `{"code": …}`, or a list of points; None if a poll may bring the parts of the text as JSON."""
        del dialect
        if task_type is not None and _IN_PARTS.match(code) and not _POINTS.fullmatch(code):
            return None
        return _solution(code)


V1_FAMILY = _V1Family()


def _read(dialect: Dialect, answer: Any) -> Reading:
    """Return `Ready` with the content of `request` if `status` is 1."""
    if not isinstance(answer, dict) or "request" not in answer:
        raise UnreadableError("expected an object with status and request")
    status, content = answer.get("status"), answer["request"]
    if isinstance(status, bool) or str(status) not in ("0", "1"):
        raise UnreadableError("status: expected 0 or 1")
    if str(status) == "1" and content is not None:
        return Ready(content)
    if not isinstance(content, str) or not content:
        raise UnreadableError("request: expected an error code")
    text = answer.get("error_text")
    return read_error(dialect.codes, 1, content, text if isinstance(text, str) and text else None)


def _res(client_key: str, action: str, **more: str) -> Call:
    query = {"key": client_key, "action": action, "json": "1", **more}
    return Call(name=f"res.php {action}", path="/res.php", method="GET", query=tuple(query.items()))


def _solution(content: Any) -> Any:
    """Return an answer in its one shape."""
    if isinstance(content, str) and (points := _POINTS.fullmatch(content)):
        pairs = (point[2:].split(",y=") for point in points[1].split(";"))
        return [{"x": x, "y": y} for x, y in pairs]
    if isinstance(content, list) and content and all(_is_point(part) for part in content):
        return [{"x": str(part["x"]), "y": str(part["y"])} for part in content]
    if isinstance(content, str) or (isinstance(content, int | float) and not isinstance(content, bool)):
        return {"code": str(content)}
    return content


def _is_point(part: Any) -> bool:
    return isinstance(part, dict) and part.keys() == {"x", "y"} and all(type(at) in (int, str) for at in part.values())


def _json_or_text(text: str) -> Any:
    """Return the JSON object or list in a plain-text answer. With json=1 the answer would hold it as JSON."""
    if text.lstrip().startswith(("{", "[")):
        with suppress(UnreadableError):
            return parse_json(text.encode())
    return text


def _form(fields: Mapping[str, str]) -> bytes:
    try:
        return urlencode(fields, quote_via=quote_plus).encode()
    except UnicodeEncodeError as error:
        raise BadArgumentError(f"the request cannot be written as a form: {error}") from None


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str | int | float):
        raise BadArgumentError(f"{name}: expected text, a number or a boolean")
    return str(value)
