"""The older in.php / res.php API of 2captcha and its likes (PROVIDERS.md 3.6, 3.7): a provider of it is a `V1Dialect`.

A task is what in.php takes: its `type` is sent as `method`, the other fields as they are. The answer is one text, and
stands as `code` in the solution, as it does in a callback; an answer that is JSON stays what it is. Points come as text
(`coordinates:x=49,y=235;x=52,y=31`) or, with json=1, as a list (`[{"x":"49","y":"235"},…]`). APITest in
astubbs/captcha-fun shows both. Here they are always that list, and a number is always its text.
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
from client.providers.declared import DeclaredDialect
from client.providers.dialect import Call
from client.providers.json_family import read_amount
from client.providers.readings import Pending, Reading, Ready, Submitted, TaskId
from client.providers.values import parse_json, parse_object, read_task_id

__all__ = ["V1Dialect"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Dialect(DeclaredDialect):
    """A provider of the family, declared by its facts."""

    # The method of in.php that takes an image as text (https://2captcha.com/2captcha-api).
    image_type: str | None = "base64"

    def create_task(
        self, client_key: str, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> Call:
        """in.php, by POST: asked by GET it would keep only the first parameter of the pingback address.

        Raises:
            BadArgumentError: a field is neither text, number nor boolean, or is one that is set here.
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
        return Call(name="in.php", path="/in.php", headers=_FORM, body=_form(fields))

    def get_task_result(self, client_key: str, task_id: TaskId) -> Call:
        """res.php, action get."""
        return _res(client_key, "get", id=str(task_id))

    def get_balance(self, client_key: str) -> Call:
        """res.php, action getbalance."""
        return _res(client_key, "getbalance")

    def report(self, client_key: str, task_id: TaskId, task_type: str | None, *, is_good: bool) -> Call:
        """res.php, action reportgood or reportbad (PROVIDERS.md 7).

        Raises:
            BadArgumentError: none is known.
        """
        return _res(client_key, self.report_rule(task_type, is_good=is_good).name, id=str(task_id))

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """`{"status": 1, "request": …}`, or what stands for it in plain text: `OK|…`, a code, an amount."""
        text = raw.strip()
        if text.startswith((b"{", b"\xef\xbb\xbf")):
            return parse_object(text)
        try:
            said = text.decode()
        except UnicodeDecodeError:
            raise UnreadableError("neither JSON nor text") from None
        if said == "OK" or said.startswith("OK|"):
            return {"status": 1, "request": _json_or_text(said[3:])}
        if _DONE.fullmatch(said):
            return {"status": 1, "request": said}
        if _NUMBER.fullmatch(said):
            return {"status": 1, "request": said}
        if _CODE.fullmatch(said):
            return {"status": 0, "request": said}
        raise UnreadableError("expected OK, a code or JSON")

    def read_create_task(self, answer: Any) -> Submitted:
        """Return the id, which is digits in text."""
        said = self._read(answer)
        if not isinstance(said, Ready):
            return Submitted(None, said)
        return Submitted(read_task_id(said.solution), Pending(""))

    def read_task_result(self, answer: Any) -> Reading:
        """Return the state of the task, or what was wrong with asking."""
        said = self._read(answer)
        if not isinstance(said, Ready):
            return said
        if said.solution == "":
            # A bare OK is what a proxy says, too.
            raise UnreadableError("request: expected an answer")
        return Ready(_solution(said.solution))

    def read_balance(self, answer: Any) -> float | Reading:
        """Return the balance, or the error that came in its place."""
        said = self._read(answer)
        if not isinstance(said, Ready):
            return said
        amount = said.solution
        return read_amount(float(amount) if isinstance(amount, str) and _NUMBER.fullmatch(amount) else amount)

    def read_report(self, answer: Any) -> Reading:
        """`Pending` where it was recorded."""
        said = self._read(answer)
        return Pending("") if isinstance(said, Ready) else said

    def solution_of(self, code: str, task_type: str | None) -> Any | None:
        """`{"code": …}`, or a list of points; None where a poll may bring the parts of the text as JSON."""
        if task_type is not None and _IN_PARTS.match(code) and not _POINTS.fullmatch(code):
            return None
        return _solution(code)

    def _read(self, answer: Any) -> Reading:
        """`Ready` with what stands in `request`, where `status` is 1."""
        if not isinstance(answer, dict) or "request" not in answer:
            raise UnreadableError("expected an object with status and request")
        status, said = answer.get("status"), answer["request"]
        if isinstance(status, bool) or str(status) not in ("0", "1"):
            raise UnreadableError("status: expected 0 or 1")
        if str(status) == "1" and said is not None:
            return Ready(said)
        if not isinstance(said, str) or not said:
            raise UnreadableError("request: expected an error code")
        text = answer.get("error_text")
        return read_error(self.codes, 1, said, text if isinstance(text, str) and text else None)


def _res(client_key: str, action: str, **more: str) -> Call:
    query = {"key": client_key, "action": action, "json": "1", **more}
    return Call(name=f"res.php {action}", path="/res.php", method="GET", query=tuple(query.items()))


def _solution(said: Any) -> Any:
    """Return an answer in the one shape that it has here."""
    if isinstance(said, str) and (points := _POINTS.fullmatch(said)):
        pairs = (point[2:].split(",y=") for point in points[1].split(";"))
        return [{"x": x, "y": y} for x, y in pairs]
    if isinstance(said, list) and said and all(_is_point(part) for part in said):
        return [{"x": str(part["x"]), "y": str(part["y"])} for part in said]
    if isinstance(said, str) or (isinstance(said, int | float) and not isinstance(said, bool)):
        return {"code": str(said)}
    return said


def _is_point(part: Any) -> bool:
    return isinstance(part, dict) and part.keys() == {"x", "y"} and all(type(at) in (int, str) for at in part.values())


def _json_or_text(said: str) -> Any:
    """Return the JSON object or list in an answer of plain text: with json=1 it would stand there as such."""
    if said.lstrip().startswith(("{", "[")):
        with suppress(UnreadableError):
            return parse_json(said.encode())
    return said


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
