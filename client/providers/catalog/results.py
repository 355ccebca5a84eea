"""Providers whose callback repeats the getTaskResult answer as JSON (PROVIDERS.md 2.1).

The first poll behind a callback is ours to choose: a little after most answers are there.
"""

from __future__ import annotations

from dataclasses import replace

from client.providers.declared import ReportRule
from client.providers.dialect import CallbackRule, KeyLimits, PollPlan, Rate
from client.providers.facts import Fact
from client.providers.json_family import JsonDialect

__all__ = ["ANTICAPTCHA", "CAPMONSTER", "CAPSOLVER", "NEXTCAPTCHA", "RESULTS"]

CAPSOLVER = JsonDialect(
    provider="capsolver",
    base_url="https://api.capsolver.com",
    callback=CallbackRule(task_id="inferred"),
    polls=PollPlan(
        first_after_seconds=3.0,
        # The documented 30 s and a margin.
        first_after_callback_seconds=35.0,
        interval_seconds=3.0,
        max_polls=120,
        window_seconds=300.0,
    ),
    key_limits=KeyLimits(errors=Rate(1000, 60.0)),
    has_app_id=True,
    reports=(ReportRule(name="feedbackTask", is_good=True), ReportRule(name="feedbackTask", is_good=False)),
    facts=(
        Fact(
            "requests",
            "createTask with appId and callbackUrl; ids are UUIDs in text",
            "documented",
            "https://docs.capsolver.com/en/guide/api-createtask",
        ),
        Fact(
            "polls",
            "every 3 s, at most 120, readable for 5 minutes",
            "documented",
            "https://docs.capsolver.com/en/guide/api-gettaskresult",
        ),
        Fact(
            "synchronous answers",
            "of recognition types, status ready",
            "documented",
            "https://docs.capsolver.com/en/guide/api-createtask",
        ),
        Fact(
            "state idle",
            "in asynchronous createTask answers",
            "observed",
            "https://github.com/AndreiDrang/python3-capsolver/issues/150",
        ),
        Fact(
            "callback",
            "POST of the token to callbackUrl",
            "documented",
            "https://docs.capsolver.com/en/guide/api-createtask",
        ),
        Fact(
            "callback body",
            "the getTaskResult answer with its taskId",
            "inferred",
            "https://docs.capsolver.com/en/guide/api-gettaskresult",
        ),
        Fact("failure callback, retries", "not known", "unknown", "not found in what it publishes"),
        Fact(
            "bans",
            "1000 errors in a minute block the address for 30 minutes",
            "documented",
            "https://docs.capsolver.com/guide/api-error",
        ),
        Fact(
            "reports",
            "feedbackTask with result.invalid",
            "documented",
            "https://docs.capsolver.com/en/guide/api-feedback",
        ),
    ),
)

ANTICAPTCHA = JsonDialect(
    provider="anticaptcha",
    base_url="https://api.anti-captcha.com",
    callback=CallbackRule(task_id="observed"),
    polls=PollPlan(
        first_after_seconds=5.0,
        first_after_callback_seconds=45.0,
        interval_seconds=2.0,
        max_polls=None,
        window_seconds=300.0,
    ),
    id_type="integer",
    reports=(
        ReportRule(name="reportIncorrectImageCaptcha", is_good=False, types=("imagetotext",)),
        ReportRule(name="reportIncorrectRecaptcha", is_good=False, types=("recaptcha",)),
        ReportRule(name="reportIncorrectHcaptcha", is_good=False, types=("hcaptcha",)),
        ReportRule(name="reportCorrectRecaptcha", is_good=True, types=("recaptcha",)),
    ),
    facts=(
        Fact(
            "requests",
            "createTask with callbackUrl; ids are integers beyond 2^31",
            "documented",
            "https://anti-captcha.com/apidoc/methods/createTask",
        ),
        Fact(
            "polls",
            "first after 5 s, then every 2 s; readable for 5 minutes",
            "documented",
            "https://anti-captcha.com/llms-full.txt",
        ),
        Fact(
            "callback",
            "POST with the content of a getTaskResult answer",
            "documented",
            "https://anti-captcha.com/apidoc/methods/createTask",
        ),
        Fact("callback body", "JSON with taskId", "observed", "AndreiDrang/python-rucaptcha, ad-m/python-anticaptcha"),
        Fact("failure callback, retries", "not known", "unknown", "not found in what it publishes"),
        Fact("reports", "by kind of task, within 60 s", "documented", "https://anti-captcha.com/apidoc"),
        Fact(
            "abuse",
            "the same faulty request again and again gets banned",
            "documented",
            "https://anti-captcha.com/apidoc/errors",
        ),
    ),
)

CAPMONSTER = JsonDialect(
    provider="capmonster",
    base_url="https://api.capmonster.cloud",
    callback=CallbackRule(task_id="missing"),
    polls=PollPlan(
        first_after_seconds=2.0,
        first_after_callback_seconds=35.0,
        interval_seconds=2.0,
        max_polls=120,
        window_seconds=300.0,
    ),
    id_type="integer",
    reports=(
        ReportRule(name="reportIncorrectImageCaptcha", is_good=False, types=("imagetotext",)),
        ReportRule(name="reportIncorrectTokenCaptcha", is_good=False),
    ),
    facts=(
        Fact(
            "requests",
            "createTask with callbackUrl; integer ids, 0 on error",
            "documented",
            "https://zennolab.atlassian.net/wiki/pages/viewpage.action?pageId=2127396885",
        ),
        Fact("endpoint", "https://api.capmonster.cloud", "observed", "ZennoLab/capmonstercloud-client-python"),
        Fact(
            "polls",
            "at least 2 s apart, at most 120, kept about 5 minutes",
            "documented",
            "https://docs.capmonster.cloud/docs/api/methods/get-task-result/",
        ),
        Fact(
            "callback",
            "POST like getTaskResult, accepted within 2 s, answer ignored",
            "documented",
            "https://zennolab.atlassian.net/wiki/pages/viewpage.action?pageId=2127396885",
        ),
        Fact(
            "taskId in the callback",
            "perhaps missing",
            "inferred",
            "https://docs.capmonster.cloud/docs/api/methods/get-task-result/",
        ),
        Fact("failure callback, retries", "not known", "unknown", "not found in what it publishes"),
        Fact(
            "CAPTCHA_NOT_READY",
            "an error that means processing",
            "documented",
            "https://zennolab.atlassian.net/wiki/spaces/APIS/pages/295396/Error+Types",
        ),
        Fact("reports", "of wrong answers only", "documented", "https://docs.capmonster.cloud/docs/api/bad-tokens/"),
    ),
)

_LIKE_CAPMONSTER = (
    Fact(
        "requests",
        "as CapMonster's",
        "documented",
        "https://capkill.com/documentation/createTask, https://captcha69.com/docs-max1/create-task",
    ),
    Fact("endpoint", "not known: it has to be given", "unknown", "not found in what it publishes"),
    Fact(
        "callback",
        "POST like getTaskResult, accepted within 2 s",
        "documented",
        "https://capkill.com/documentation/createTask, https://captcha69.com/docs-max1/create-task",
    ),
    Fact("polls, limits", "taken from CapMonster", "inferred", "https://docs.capmonster.cloud"),
)

CAPKILL = replace(CAPMONSTER, provider="capkill", base_url=None, reports=(), facts=_LIKE_CAPMONSTER)
CAPTCHA69 = replace(CAPMONSTER, provider="captcha69", base_url=None, reports=(), facts=_LIKE_CAPMONSTER)

NEXTCAPTCHA = JsonDialect(
    provider="nextcaptcha",
    base_url="https://api.nextcaptcha.com",
    callback=CallbackRule(task_id="inferred"),
    polls=PollPlan(
        first_after_seconds=3.0,
        # Its own library gives up after 45 s.
        first_after_callback_seconds=30.0,
        interval_seconds=3.0,
        max_polls=None,
        window_seconds=300.0,
    ),
    id_type="integer",
    facts=(
        Fact(
            "requests",
            "createTask with callbackUrl; integer ids of 13 digits",
            "observed",
            "nextcaptcha/nextcaptcha-python",
        ),
        Fact("endpoint", "https://api.nextcaptcha.com", "observed", "nextcaptcha/nextcaptcha-python"),
        Fact(
            "polls",
            "every 0.5 s for 45 s by its own library; ours are slower",
            "observed",
            "nextcaptcha/nextcaptcha-python",
        ),
        Fact("window", "5 minutes, as its relatives", "inferred", "https://nextcaptcha.com/pl/apidocs/get-task-result"),
        Fact("callback body", "JSON like getTaskResult", "inferred", "nextcaptcha/nextcaptcha-python"),
        Fact(
            "failure", "errorId 12 without status", "documented", "https://nextcaptcha.com/pl/apidocs/get-task-result"
        ),
    ),
)

RESULTS = (CAPSOLVER, ANTICAPTCHA, CAPMONSTER, CAPKILL, CAPTCHA69, NEXTCAPTCHA)
