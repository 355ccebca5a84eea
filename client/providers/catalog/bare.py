"""Providers whose callback is an id and a bare answer, by form or by query (PROVIDERS.md 2.2, 2.3)."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from client.providers.codes import FAMILY_CODES, Code
from client.providers.declared import ReportRule
from client.providers.dialect import CallbackRule, KeyLimits, PollPlan, Rate
from client.providers.facts import Fact
from client.providers.json_family import JsonDialect
from client.providers.readings import Reaction
from client.providers.v1_family import V1Dialect

__all__ = ["BARE", "CAPTCHAAI", "RUCAPTCHA", "RUCAPTCHAV1", "TWOCAPTCHA", "TWOCAPTCHAV1", "UCAPTCHA"]

_FORM = CallbackRule(shape="code")
_BANS = MappingProxyType(
    {
        **FAMILY_CODES,
        "ERROR_IP_BANNED": Code(Reaction.SLOW, "request", 300.0, is_ban=True),
        # Both documented (PROVIDERS.md 3.6).
        "ERROR_ZERO_BALANCE": Code(Reaction.STOP, "balance", 60.0),
    }
)
_POLLS = PollPlan(
    first_after_seconds=5.0,
    # Answers take 90 s at most, those to reCAPTCHA 300 s.
    first_after_callback_seconds=60.0,
    interval_seconds=5.0,
    max_polls=None,
    window_seconds=900.0,
)
_LIMITS = KeyLimits(submits=Rate(60, 3.0), polls_for_each=20, polls_for_all=1200)
_BOTH = (
    Fact(
        "callback",
        "POST of a form with id and code, which may be an error code",
        "documented",
        "https://2captcha.com/2captcha-api#pingback",
    ),
    Fact("rate in the callback", "a third field, the price", "observed", "adrianmeraz/captcha-service"),
    Fact(
        "callback address",
        "only on a registered domain or IP",
        "documented",
        "https://2captcha.com/api-docs/create-task",
    ),
    Fact("host verification", "GET /2captcha.txt", "observed", "adrianmeraz/captcha-service, Furry/2captcha"),
    Fact("retries, time limit, signature", "not known", "unknown", "not found in what it publishes"),
    Fact(
        "polls",
        "first after 5 s, then every 5 to 10 s; readable for 15 minutes",
        "documented",
        "https://2captcha.com/api-docs/limits",
    ),
    Fact(
        "ERROR_ZERO_BALANCE",
        "not again before 60 s have passed",
        "documented",
        "https://2captcha.com/api-docs/limits",
    ),
    Fact(
        "bans",
        "60 submits in 3 s; 20 polls for each task and 1200 more",
        "documented",
        "https://2captcha.com/2captcha-api",
    ),
)

TWOCAPTCHA = JsonDialect(
    provider="twocaptcha",
    base_url="https://api.2captcha.com",
    callback=_FORM,
    polls=_POLLS,
    key_limits=_LIMITS,
    codes=_BANS,
    id_type="integer",
    solutions=MappingProxyType(
        {
            "ImageToTextTask": ("text",),
            "RecaptchaV2TaskProxyless": ("gRecaptchaResponse", "token"),
            "RecaptchaV2Task": ("gRecaptchaResponse", "token"),
        }
    ),
    reports=(ReportRule(name="reportCorrect", is_good=True), ReportRule(name="reportIncorrect", is_good=False)),
    facts=(
        Fact(
            "requests",
            "createTask with callbackUrl; integer ids of 11 digits",
            "documented",
            "https://2captcha.com/api-docs/create-task",
        ),
        Fact(
            "errors",
            "under HTTP 200; failure has errorId 12 and no status",
            "documented",
            "https://2captcha.com/api-docs/error-codes",
        ),
        Fact("solution of RecaptchaV2Task*", "one token under two names", "observed", "AndreiDrang/python-rucaptcha"),
        Fact(
            "solution of other types",
            "more than a callback carries: polled",
            "inferred",
            "https://2captcha.com/api-docs",
        ),
        Fact("reports", "reportCorrect, reportIncorrect", "documented", "https://2captcha.com/api-docs"),
        *_BOTH,
    ),
)
RUCAPTCHA = replace(TWOCAPTCHA, provider="rucaptcha", base_url="https://api.rucaptcha.com")

TWOCAPTCHAV1 = V1Dialect(
    provider="twocaptchav1",
    base_url="https://2captcha.com",
    callback=_FORM,
    polls=_POLLS,
    key_limits=_LIMITS,
    codes=_BANS,
    reports=(ReportRule(name="reportgood", is_good=True), ReportRule(name="reportbad", is_good=False)),
    facts=(
        Fact(
            "requests",
            "in.php and res.php with json=1, or plain text",
            "documented",
            "https://2captcha.com/2captcha-api",
        ),
        Fact(
            "tasks",
            "type is the method of in.php, the other fields its parameters",
            "documented",
            "https://2captcha.com/2captcha-api",
        ),
        Fact("points", "a list with json=1, else text", "observed", "astubbs/captcha-fun"),
        Fact("reports", "reportgood, reportbad", "documented", "https://2captcha.com/2captcha-api"),
        *_BOTH,
    ),
)
RUCAPTCHAV1 = replace(TWOCAPTCHAV1, provider="rucaptchav1", base_url="https://rucaptcha.com")

UCAPTCHA = JsonDialect(
    provider="ucaptcha",
    base_url="https://api.ucaptcha.net",
    callback=CallbackRule(
        methods=frozenset({"GET"}), shape="code", id_field="captcha_id", code_field="code", status_field="status"
    ),
    polls=PollPlan(
        first_after_seconds=5.0,
        first_after_callback_seconds=45.0,
        interval_seconds=5.0,
        max_polls=60,
        window_seconds=300.0,
    ),
    reports=(ReportRule(name="feedbackTask", is_good=True), ReportRule(name="feedbackTask", is_good=False)),
    facts=(
        Fact(
            "requests",
            "createTask with callbackUrl; ids are UUIDs in text",
            "documented",
            "https://ucaptcha.net/docs/api/ucaptcha/get-task-result",
        ),
        Fact("endpoint", "https://api.ucaptcha.net", "observed", "a client that others wrote"),
        Fact(
            "polls",
            "every 5 s, about 5 minutes",
            "documented",
            "https://ucaptcha.net/docs/api/ucaptcha/get-task-result",
        ),
        Fact(
            "failure",
            "status failed with errorId 0",
            "documented",
            "https://ucaptcha.net/docs/api/ucaptcha/get-task-result",
        ),
        Fact(
            "callback",
            "GET with captcha_id, status 1 or 0, and code",
            "documented",
            "https://ucaptcha.net/docs/api/callbacks",
        ),
        Fact("solution", "how code becomes one is not shown: polled", "unknown", "not found in what it publishes"),
        Fact(
            "feedbackTask",
            "its fields are taken from CapSolver",
            "inferred",
            "https://ucaptcha.net/docs/api/ucaptcha/get-task-result",
        ),
    ),
)

CAPTCHAAI = V1Dialect(
    provider="captchaai",
    base_url="https://ocr.captchaai.com",
    callback=CallbackRule(methods=frozenset({"GET"}), shape="code"),
    polls=replace(_POLLS, first_after_callback_seconds=45.0),
    # Here it says that no thread is free (PROVIDERS.md 3.7).
    codes=MappingProxyType({**FAMILY_CODES, "ERROR_ZERO_BALANCE": Code(Reaction.SLOW, "request", 5.0)}),
    facts=(
        Fact(
            "requests",
            "in.php and res.php; HTML under 500 and 502 now and then",
            "documented",
            "https://docs.captchaai.com/api/api-error-handling",
        ),
        Fact("endpoint", "https://ocr.captchaai.com", "observed", "clients that others wrote"),
        Fact("ERROR_ZERO_BALANCE", "no free thread", "documented", "https://docs.captchaai.com/api/api-error-handling"),
        Fact(
            "callback",
            "GET with id and code, not signed",
            "documented",
            "https://blog.captchaai.com/captchaai-pingback-task-notification-patterns",
        ),
        Fact("polls, window", "taken from 2captcha", "inferred", "https://2captcha.com/2captcha-api"),
        Fact("failure callback", "not known", "unknown", "not found in what it publishes"),
    ),
)

BARE = (TWOCAPTCHA, RUCAPTCHA, TWOCAPTCHAV1, RUCAPTCHAV1, UCAPTCHA, CAPTCHAAI)
