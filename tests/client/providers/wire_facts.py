"""The known messages of every provider, and the reading of each. Every row names sections of providers/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from client.providers.codes import REASON_NOT_GIVEN
from client.providers.readings import (
    Bare,
    CallbackReading,
    Failed,
    Notice,
    Pending,
    Reaction,
    Ready,
    Refused,
    Submitted,
    Unknown,
)

__all__ = ["ANSWERS", "CALLBACKS", "Answer", "Delivered"]

UUID = "37223a89-06ed-442c-a0b8-22067b79c5b4"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a provider to one of our requests."""

    provider: str
    to: Literal["createTask", "getTaskResult", "getBalance", "report"]
    raw: bytes
    means: Any
    source: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """A callback: `query` by GET, `body` by POST."""

    provider: str
    kind: Literal["success", "failure", "notFinal", "notice"]
    means: CallbackReading
    source: str
    body: bytes = b""
    query: bytes = b""


def _answers(names: str, to: Any, raw: bytes, means: Any, source: str) -> list[Answer]:
    return [Answer(name, to, raw, means, source) for name in names.split()]


_INTEGERS = "anticaptcha twocaptcha rucaptcha nextcaptcha"
_TEXTS = "capsolver onecaptcha yescaptcha"
_V1 = "twocaptchav1 rucaptchav1 captchaai"

ANSWERS: Sequence[Answer] = (
    *_answers(
        _TEXTS,
        "createTask",
        b'{"errorId":0,"errorCode":"","errorDescription":"","taskId":"%s"}' % UUID.encode(),
        Submitted(UUID, Pending("")),
        "JSON requests",
    ),
    *_answers(
        "capsolver yescaptcha",
        "createTask",
        b'{"errorId":0,"errorCode":"","errorDescription":"","taskId":"a1","status":"ready","solution":{"text":"t"}}',
        Submitted("a1", Ready({"text": "t"})),
        "JSON requests",
    ),
    *_answers(
        "capsolver",
        "createTask",
        b'{"errorId":0,"errorCode":"","errorDescription":"","taskId":"a1","status":"idle"}',
        Submitted("a1", Pending("idle")),
        "CapSolver",
    ),
    *_answers(
        _INTEGERS,
        "createTask",
        b'{"errorId":0,"taskId":73043008354}',
        Submitted(73043008354, Pending("")),
        "JSON requests",
    ),
    *_answers(
        "nextcaptcha",
        "createTask",
        b'{"errorId":0,"taskId":1692863536123}',
        Submitted(1692863536123, Pending("")),
        "NextCaptcha",
    ),
    *_answers(
        "capmonster capkill captcha69",
        "createTask",
        b'{"errorId":1,"errorCode":"ERROR_KEY_DOES_NOT_EXIST","errorDescription":"no such key","taskId":0}',
        Submitted(None, Refused(1, "ERROR_KEY_DOES_NOT_EXIST", "no such key", Reaction.STOP, "key")),
        "JSON requests",
    ),
    *_answers(
        "ezcaptchasync",
        "createTask",
        b'{"errorId":0,"status":"ready","solution":{"gRecaptchaResponse":"t"}}',
        Submitted(None, Ready({"gRecaptchaResponse": "t"})),
        "EZ-Captcha, synchronous host",
    ),
    *_answers(
        "ucaptcha",
        "createTask",
        b'{"errorId":0,"status":"processing","taskId":"a1"}',
        Submitted("a1", Pending("processing")),
        "uCaptcha",
    ),
    *_answers(
        "capsolution", "createTask", b'{"errorId":0,"taskId":"task_x"}', Submitted("task_x", Pending("")), "capsolution"
    ),
    *_answers(
        "scrapeless",
        "createTask",
        b'{"state":"idle","success":true,"taskId":"a1"}',
        Submitted("a1", Pending("idle")),
        "Scrapeless",
    ),
    *_answers(
        "scrapeless",
        "createTask",
        b'{"success":false,"message":"bad key"}',
        Submitted(None, Refused(1, REASON_NOT_GIVEN, "bad key")),
        "Scrapeless",
    ),
    *_answers(_V1, "createTask", b"OK|2122988149", Submitted("2122988149", Pending("")), "Older API"),
    *_answers(
        _V1, "createTask", b'{"status":1,"request":"2122988149"}', Submitted("2122988149", Pending("")), "Older API"
    ),
    *_answers(
        "twocaptchav1 rucaptchav1",
        "createTask",
        b"ERROR_ZERO_BALANCE",
        Submitted(None, Refused(1, "ERROR_ZERO_BALANCE", None, Reaction.STOP, "balance", 60.0)),
        "Older API",
    ),
    *_answers(
        "captchaai",
        "createTask",
        b"ERROR_ZERO_BALANCE",
        Submitted(None, Refused(1, "ERROR_ZERO_BALANCE", None, Reaction.SLOW, "request", 5.0)),
        "CaptchaAI",
    ),
    *_answers(
        _V1,
        "createTask",
        b"MAX_USER_TURN",
        Submitted(None, Refused(1, "MAX_USER_TURN", None, Reaction.SLOW, "request", 10.0)),
        "Older API",
    ),
    *_answers(
        _V1,
        "getTaskResult",
        b"ERROR: 1005",
        Refused(1, "ERROR: 1005", None, Reaction.SLOW, "request", 300.0),
        "Older API",
    ),
    *_answers(
        "twocaptcha rucaptcha anticaptcha",
        "getTaskResult",
        b'{"errorId":0,"status":"processing"}',
        Pending("processing"),
        "JSON requests",
    ),
    *_answers(
        "capmonster onecaptcha yescaptcha",
        "getTaskResult",
        b'{"errorId":0,"errorCode":null,"errorDescription":null,"status":"processing"}',
        Pending("processing"),
        "JSON requests",
    ),
    *_answers(
        "onecaptcha yescaptcha",
        "getTaskResult",
        b'{"errorId":0,"errorCode":null,"errorDescription":null,"status":"ready","solution":{"gRecaptchaResponse":"t"}}',
        Ready({"gRecaptchaResponse": "t"}),
        "JSON requests",
    ),
    *_answers(
        "anticaptcha twocaptcha rucaptcha",
        "getTaskResult",
        b'{"errorId":0,"status":"ready","solution":{"text":"t"},"cost":"0.0007","ip":"46.98.54.221",'
        b'"createTime":1472205564,"endTime":1472205570,"solveCount":"0"}',
        Ready({"text": "t"}),
        "JSON requests",
    ),
    *_answers(
        "twocaptcha",
        "getTaskResult",
        b'{"errorId":0,"status":"ready","solution":"a bare string","cost":"0.1","solveCount":1}',
        Ready("a bare string"),
        "2captcha and ruCaptcha",
    ),
    *_answers(
        _INTEGERS,
        "getTaskResult",
        b'{"errorId":12,"errorCode":"ERROR_CAPTCHA_UNSOLVABLE","errorDescription":"no worker could"}',
        Failed(12, "ERROR_CAPTCHA_UNSOLVABLE", "no worker could"),
        "JSON requests",
    ),
    *_answers(
        "ucaptcha capsolver",
        "getTaskResult",
        b'{"errorId":0,"errorCode":"ERROR_CAPTCHA_UNSOLVABLE","status":"failed"}',
        Failed(1, "ERROR_CAPTCHA_UNSOLVABLE"),
        "JSON requests; CapSolver",
    ),
    *_answers(
        "capsolver ucaptcha", "getTaskResult", b'{"errorId":0,"status":"idle"}', Pending("idle"), "CapSolver; uCaptcha"
    ),
    *_answers("nextcaptcha", "getTaskResult", b'{"errorId":0,"status":"pending"}', Pending("pending"), "NextCaptcha"),
    *_answers(
        "capsolver", "getTaskResult", b'{"errorId":0,"status":"new in 2027"}', Pending("new in 2027"), "JSON requests"
    ),
    *_answers(
        "capsolver anticaptcha twocaptcha ucaptcha nextcaptcha",
        "getTaskResult",
        b'{"errorId":0,"status":"done","solution":{"text":"t"}}',
        Pending("done"),
        "CapSolver; JSON requests",
    ),
    *_answers(
        "capsolver yescaptcha",
        "createTask",
        b'{"errorId":0,"taskId":"a1","status":"idle","solution":{"text":"t"}}',
        Submitted("a1", Pending("idle")),
        "CapSolver; JSON requests",
    ),
    *_answers(
        "scrapeless",
        "getTaskResult",
        b'{"state":"running","solution":{"token":"t"},"success":true,"taskId":"a1"}',
        Pending("running"),
        "Scrapeless; JSON requests",
    ),
    *_answers(
        "capmonster",
        "getTaskResult",
        b'{"errorId":1,"errorCode":"CAPTCHA_NOT_READY","errorDescription":""}',
        Pending("CAPTCHA_NOT_READY"),
        "CapMonster Cloud",
    ),
    *_answers(
        "capmonster",
        "getTaskResult",
        b'{"errorId":1,"errorCode":"ERROR_TOO_MUCH_REQUESTS"}',
        Refused(1, "ERROR_TOO_MUCH_REQUESTS", None, Reaction.WAIT),
        "CapMonster Cloud; Error codes",
    ),
    *_answers(
        "ezcaptcha",
        "getTaskResult",
        b'{"errorId":1,"errorCode":"ERROR_REQUEST_LIMIT"}',
        Refused(1, "ERROR_REQUEST_LIMIT", None, Reaction.WAIT),
        "EZ-Captcha; Error codes",
    ),
    *_answers(
        "ezcaptcha ezcaptchasync",
        "createTask",
        b'{"errorId":1,"errorCode":"ERROR_REQUEST_BANNED"}',
        Submitted(None, Refused(1, "ERROR_REQUEST_BANNED", None, Reaction.SLOW, "request", 60.0)),
        "EZ-Captcha; EZ-Captcha, synchronous host",
    ),
    *_answers(
        "capsolution",
        "getTaskResult",
        b'{"errorId":21,"errorCode":"TASK_NOT_READY"}',
        Pending("TASK_NOT_READY"),
        "capsolution",
    ),
    *_answers(
        "anticaptcha twocaptcha",
        "getTaskResult",
        b'{"errorId":16,"errorCode":"ERROR_NO_SUCH_CAPCHA_ID","errorDescription":"gone"}',
        Unknown(16, "ERROR_NO_SUCH_CAPCHA_ID", "gone"),
        "Error codes",
    ),
    *_answers(
        "scrapeless",
        "getTaskResult",
        b'{"actor":"captcha.recaptcha","createTime":1730800000000,"elapsed":2254,"solution":{"token":"t"},"success":true,"taskId":"a1"}',
        Ready({"token": "t"}),
        "Scrapeless",
    ),
    *_answers(
        "scrapeless",
        "getTaskResult",
        b'{"state":"running","success":true,"taskId":"a1"}',
        Pending("running"),
        "Scrapeless",
    ),
    *_answers(_V1, "getTaskResult", b"CAPCHA_NOT_READY", Pending("CAPCHA_NOT_READY"), "Older API"),
    *_answers(
        _V1, "getTaskResult", b'{"status":0,"request":"CAPCHA_NOT_READY"}', Pending("CAPCHA_NOT_READY"), "Older API"
    ),
    *_answers(_V1, "getTaskResult", b"OK|44795sds", Ready({"code": "44795sds"}), "Older API"),
    *_answers(_V1, "getTaskResult", b'{"status":1,"request":"44795sds"}', Ready({"code": "44795sds"}), "Older API"),
    *_answers(
        _V1, "getTaskResult", b'{"status":1,"request":"click:3/6/8"}', Ready({"code": "click:3/6/8"}), "Older API"
    ),
    *_answers(
        _V1,
        "getTaskResult",
        b"ERROR_CAPTCHA_UNSOLVABLE",
        Failed(1, "ERROR_CAPTCHA_UNSOLVABLE"),
        "Older API; Error codes",
    ),
    *_answers(
        "capsolver", "getBalance", b'{"errorId":0,"balance":1071810,"packages":[]}', 1071810.0, "Balance and reports"
    ),
    *_answers(_V1, "getBalance", b"2.73688", 2.73688, "Balance and reports"),
    *_answers(_V1, "getBalance", b'{"status":1,"request":"2.73688"}', 2.73688, "Balance and reports"),
    *_answers(
        "anticaptcha",
        "getBalance",
        b'{"errorId":1,"errorCode":"ERROR_KEY_DOES_NOT_EXIST"}',
        Refused(1, "ERROR_KEY_DOES_NOT_EXIST", None, Reaction.STOP, "key"),
        "Error codes",
    ),
    *_answers("anticaptcha", "report", b'{"errorId":0,"status":"success"}', Pending("success"), "Balance and reports"),
    *_answers("capsolver twocaptcha", "report", b'{"errorId":0}', Pending(""), "Balance and reports"),
    *_answers("twocaptchav1", "report", b"OK_REPORT_RECORDED", Pending(""), "Balance and reports"),
    *_answers(
        "twocaptchav1", "report", b'{"status":1,"request":"OK_REPORT_RECORDED"}', Pending(""), "Balance and reports"
    ),
    *_answers("twocaptchav1", "report", b"REPORT_NOT_RECORDED", Refused(1, "REPORT_NOT_RECORDED"), "Error codes"),
)

_UNSOLVABLE = b'{"errorId":12,"errorCode":"ERROR_CAPTCHA_UNSOLVABLE","errorDescription":"no worker could"%s}'

CALLBACKS: Sequence[Delivered] = (
    Delivered(
        "anticaptcha",
        "success",
        CallbackReading(73043008354, Ready({"text": "t"})),
        "Result callbacks",
        body=b'{"errorId":0,"status":"ready","solution":{"text":"t"},"cost":"0.0007","taskId":73043008354}',
    ),
    Delivered(
        "anticaptcha",
        "failure",
        CallbackReading(73043008354, Failed(12, "ERROR_CAPTCHA_UNSOLVABLE", "no worker could")),
        "Result callbacks",
        body=_UNSOLVABLE % b',"taskId":73043008354',
    ),
    *(
        row
        for name in ("capmonster", "capkill", "captcha69")
        for row in (
            Delivered(
                name,
                "success",
                CallbackReading(None, Ready({"text": "t"})),
                "Result callbacks",
                body=b'{"errorId":0,"status":"ready","solution":{"text":"t"}}',
            ),
            Delivered(
                name,
                "failure",
                CallbackReading(None, Failed(12, "ERROR_CAPTCHA_UNSOLVABLE", "no worker could")),
                "Result callbacks",
                body=_UNSOLVABLE % b"",
            ),
            Delivered(
                name,
                "notFinal",
                CallbackReading(None, Pending("CAPTCHA_NOT_READY")),
                "CapMonster Cloud",
                body=b'{"errorId":1,"errorCode":"CAPTCHA_NOT_READY"}',
            ),
        )
    ),
    *(
        row
        for name, task_id in (("capsolver", '"a1"'), ("nextcaptcha", "1692863536123"))
        for row in (
            Delivered(
                name,
                "success",
                CallbackReading("a1" if name == "capsolver" else 1692863536123, Ready({"text": "t"})),
                "Result callbacks",
                body=b'{"errorId":0,"status":"ready","solution":{"text":"t"},"taskId":%s}' % task_id.encode(),
            ),
            Delivered(
                name,
                "failure",
                CallbackReading(
                    "a1" if name == "capsolver" else 1692863536123,
                    Failed(12, "ERROR_CAPTCHA_UNSOLVABLE", "no worker could"),
                ),
                "Result callbacks",
                body=_UNSOLVABLE % f',"taskId":{task_id}'.encode(),
            ),
        )
    ),
    *(
        row
        for name in ("twocaptcha", "rucaptcha", "twocaptchav1", "rucaptchav1")
        for row in (
            Delivered(
                name,
                "success",
                CallbackReading(73043008354 if "v1" not in name else "73043008354", Bare("44795 sds")),
                "Form callbacks",
                body=b"id=73043008354&code=44795+sds&rate=0.00299",
            ),
            Delivered(
                name,
                "failure",
                CallbackReading(
                    73043008354 if "v1" not in name else "73043008354", Failed(1, "ERROR_CAPTCHA_UNSOLVABLE")
                ),
                "Form callbacks",
                body=b"id=73043008354&code=ERROR_CAPTCHA_UNSOLVABLE",
            ),
            Delivered(
                name,
                "notFinal",
                CallbackReading(73043008354 if "v1" not in name else "73043008354", Pending("CAPCHA_NOT_READY")),
                "Older API",
                body=b"id=73043008354&code=CAPCHA_NOT_READY",
            ),
        )
    ),
    Delivered(
        "ucaptcha",
        "success",
        CallbackReading(UUID, Bare("44795sds")),
        "Query callbacks",
        query=b"captcha_id=%s&status=1&code=44795sds" % UUID.encode(),
    ),
    Delivered(
        "ucaptcha",
        "failure",
        CallbackReading(UUID, Failed(1, REASON_NOT_GIVEN)),
        "Query callbacks",
        query=b"captcha_id=%s&status=0" % UUID.encode(),
    ),
    Delivered(
        "captchaai",
        "success",
        CallbackReading("2122988149", Bare("44795sds")),
        "Query callbacks",
        query=b"id=2122988149&code=44795sds",
    ),
    Delivered(
        "captchaai",
        "failure",
        CallbackReading("2122988149", Failed(1, "ERROR_CAPTCHA_UNSOLVABLE")),
        "Query callbacks; Error codes",
        query=b"id=2122988149&code=ERROR_CAPTCHA_UNSOLVABLE",
    ),
    Delivered(
        "hardcaptcha",
        "success",
        CallbackReading("h1", Ready({"token": "t"})),
        "Envelope callbacks",
        body=b'{"id":"h1","status":"SUCCESS","result":{"token":"t"}}',
    ),
    Delivered(
        "hardcaptcha",
        "failure",
        CallbackReading("h1", Failed(1, REASON_NOT_GIVEN)),
        "Envelope callbacks",
        body=b'{"id":"h1","status":"FAILED","result":{"token":null}}',
    ),
    Delivered(
        "capsolution",
        "success",
        CallbackReading("task_x", Ready({"token": "t"})),
        "Envelope callbacks",
        body=b'{"event":"task.completed","taskId":"task_x","status":"ready","solution":{"token":"t"},'
        b'"timestamp":"2026-01-02T03:04:05Z"}',
    ),
    Delivered(
        "capsolution",
        "failure",
        CallbackReading("task_x", Failed(1, "ERROR_CAPTCHA_UNSOLVABLE")),
        "Envelope callbacks",
        body=b'{"event":"task.failed","taskId":"task_x","errorId":1,"errorCode":"ERROR_CAPTCHA_UNSOLVABLE"}',
    ),
    Delivered(
        "capsolution",
        "notice",
        CallbackReading(None, Notice("balance.low")),
        "Envelope callbacks",
        body=b'{"event":"balance.low"}',
    ),
    Delivered(
        "scrapeless",
        "success",
        CallbackReading("a1", Bare('{"data":"dA==","encoding":"base64"}')),
        "Envelope callbacks",
        body=b'{"taskId":"a1","state":"completed","success":true,"response":{"data":"dA==","encoding":"base64"}}',
    ),
    Delivered(
        "scrapeless",
        "failure",
        CallbackReading("a1", Failed(1, "14500", "blocked")),
        "Envelope callbacks",
        body=b'{"taskId":"a1","state":"completed","success":false,"status":{"code":14500,"message":"blocked"}}',
    ),
    Delivered(
        "scrapeless",
        "success",
        CallbackReading("a1", Bare('{"answer":"t"}')),
        "Envelope callbacks",
        body=b'{"task_id":"a1","status":"success","input":"{}","task_result":{"answer":"t"}}',
    ),
    Delivered(
        "scrapeless",
        "success",
        CallbackReading("a1", Ready({"token": "t"})),
        "Scrapeless",
        body=b'{"actor":"captcha.recaptcha","solution":{"token":"t"},"success":true,"taskId":"a1"}',
    ),
)
