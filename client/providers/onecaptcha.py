"""1captcha.vip (PROVIDERS.md 3.2; seed: 1captcha).

Documented: createTask says "" for "no error" and getTaskResult null; every type, images too, is fetched with
getTaskResult; a result takes 10 to 120 s, is asked for every 3 s, and times out by itself at 300 s; an answer can be
used once and lives 120 s (60 s advised). No callback is mentioned, so polling is its main road. A limit on the number
of queries is not known.
"""

from __future__ import annotations

from client.providers.dialect import PollPlan
from client.providers.json_family import JsonDialect

__all__ = ["ONECAPTCHA"]

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
)
