"""Providers of which no callback is known: polling is their main road (PROVIDERS.md 1)."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from client.providers.codes import FAMILY_CODES, Code
from client.providers.dialect import KeyLimits, PollPlan, Rate
from client.providers.facts import Fact
from client.providers.json_family import JsonDialect
from client.providers.readings import Reaction

__all__ = ["EZCAPTCHA", "EZCAPTCHASYNC", "ONECAPTCHA", "POLLED", "YESCAPTCHA"]

ONECAPTCHA = JsonDialect(
    provider="onecaptcha",
    base_url="https://api.1captcha.vip",
    callback=None,
    polls=PollPlan(
        first_after_seconds=10.0,
        first_after_callback_seconds=10.0,
        interval_seconds=3.0,
        max_polls=None,
        window_seconds=300.0,
    ),
    answer_life_seconds=120.0,
    facts=(
        Fact(
            "requests",
            "createTask; ids are UUIDs in text",
            "documented",
            "the createTask and getTaskResult pages of 1captcha.vip",
        ),
        Fact(
            "polls",
            "after 10 to 120 s, every 3 s, until 300 s",
            "documented",
            "the createTask and getTaskResult pages of 1captcha.vip",
        ),
        Fact("most polls", "not known", "unknown", "not found in what it publishes"),
        Fact(
            "answer",
            "can be used once, lives 120 s, 60 s advised",
            "documented",
            "the createTask and getTaskResult pages of 1captcha.vip",
        ),
        Fact("callback", "none mentioned", "unknown", "not found in what it publishes"),
    ),
)

YESCAPTCHA = JsonDialect(
    provider="yescaptcha",
    base_url="https://api.yescaptcha.com",
    callback=None,
    polls=PollPlan(
        first_after_seconds=10.0,
        first_after_callback_seconds=10.0,
        interval_seconds=3.0,
        max_polls=120,
        window_seconds=300.0,
    ),
    answer_life_seconds=120.0,
    facts=(
        Fact(
            "requests",
            "createTask without a callback field; UUIDs in text",
            "documented",
            "https://yescaptcha.atlassian.net/wiki/x/pYDTAw",
        ),
        Fact(
            "polls",
            "at most 120, 5 minutes; answers take 10 to 80 s",
            "documented",
            "https://yescaptcha.atlassian.net/wiki/spaces/YESCAPTCHA",
        ),
        Fact(
            "interval", "3 s, as its relatives", "inferred", "https://yescaptcha.atlassian.net/wiki/spaces/YESCAPTCHA"
        ),
        Fact("answer", "lives 120 s", "inferred", "https://yescaptcha.atlassian.net/wiki/spaces/YESCAPTCHA"),
        Fact(
            "synchronous answers",
            "of recognition types",
            "inferred",
            "https://yescaptcha.atlassian.net/wiki/spaces/YESCAPTCHA",
        ),
        Fact("callback", "none found", "unknown", "not found in what it publishes"),
    ),
)

EZCAPTCHA = JsonDialect(
    provider="ezcaptcha",
    base_url="https://api.ez-captcha.com",
    callback=None,
    polls=PollPlan(
        first_after_seconds=3.0,
        first_after_callback_seconds=3.0,
        interval_seconds=3.0,
        # Of its own library; 50 of them 3 s apart are 150 s, and the task may take 180.
        max_polls=60,
        window_seconds=300.0,
    ),
    key_limits=KeyLimits(errors=Rate(30, 60.0)),
    codes=MappingProxyType(
        {
            **FAMILY_CODES,
            # Polls are banned for a minute, createTask for three: asked again each minute, it is within the tries of
            # a task.
            "ERROR_REQUEST_BANNED": Code(Reaction.SLOW, "request", 60.0),
            # Documented: ten minutes (the page of its error codes, 7045258 in ezcaptcha.atlassian.net).
            "ERROR_IP_BANNED": Code(Reaction.SLOW, "request", 600.0, is_ban=True),
        }
    ),
    answer_life_seconds=120.0,
    facts=(
        Fact(
            "requests",
            "createTask; ids are text",
            "documented",
            "https://apifox.com/apidoc/shared-ffd0ba9c-dc72-41ef-961b-5c343f2615a1/api-114241448",
        ),
        Fact("polls", "every 3 s by its own library; kept 5 minutes", "observed", "EZXLabs/ezcapsolver-py"),
        Fact("ERROR_REQUEST_LIMIT", "refuses the question, the task goes on", "observed", "EZXLabs/ezcapsolver-rs"),
        Fact(
            "bans",
            "30 errors about key or balance in a minute: createTask for 3 minutes, getTaskResult for 1",
            "observed",
            "EZXLabs/ezcapsolver-rs",
        ),
        Fact(
            "ERROR_IP_BANNED",
            "10 minutes, after many errors",
            "documented",
            "https://ezcaptcha.atlassian.net/wiki/pages/diffpagesbyversion.action"
            "?originalVersion=3&pageId=7045258&revisedVersion=6",
        ),
        Fact(
            "answer",
            "lives 120 s, 60 s advised",
            "documented",
            "https://apifox.com/apidoc/shared-ffd0ba9c-dc72-41ef-961b-5c343f2615a1/api-114241448",
        ),
        Fact(
            "callback",
            "none",
            "documented",
            "https://apifox.com/apidoc/shared-ffd0ba9c-dc72-41ef-961b-5c343f2615a1/api-114241448",
        ),
    ),
)

EZCAPTCHASYNC = replace(
    EZCAPTCHA,
    provider="ezcaptchasync",
    base_url="https://sync.ez-captcha.com",
    create_seconds=190.0,
    # Here createTask is the whole task: whether one that timed out is charged is not known, so it is not sent again.
    codes=MappingProxyType({**EZCAPTCHA.codes, "ERROR_SERVICE_TIMEOUT": Code(Reaction.AGAIN)}),
    facts=(
        Fact(
            "requests",
            "createTask answers with the solution, without taskId, in 180 s",
            "documented",
            "https://apifox.com/apidoc/shared-ffd0ba9c-dc72-41ef-961b-5c343f2615a1/api-114241448",
        ),
        Fact(
            "bans",
            "30 errors about key or balance in a minute: createTask for 3 minutes, getTaskResult for 1",
            "observed",
            "EZXLabs/ezcapsolver-rs",
        ),
        Fact(
            "answer",
            "lives 120 s, 60 s advised",
            "documented",
            "https://apifox.com/apidoc/shared-ffd0ba9c-dc72-41ef-961b-5c343f2615a1/api-114241448",
        ),
    ),
)

POLLED = (ONECAPTCHA, YESCAPTCHA, EZCAPTCHA, EZCAPTCHASYNC)
