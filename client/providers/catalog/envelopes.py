"""Providers whose callback is an envelope of its own, sometimes signed (PROVIDERS.md 2.4)."""

from __future__ import annotations

from dataclasses import replace

from client.providers.dialect import CallbackRule, PollPlan, SignatureRule
from client.providers.facts import Fact
from client.providers.json_family import JsonDialect
from client.providers.scrapeless_family import ScrapelessDialect

__all__ = ["CAPSOLUTION", "ENVELOPES", "HARDCAPTCHA", "SCRAPELESS"]

# Of none of them more is known than that two seconds are not too fast.
_POLLS = PollPlan(
    first_after_seconds=5.0,
    first_after_callback_seconds=35.0,
    interval_seconds=3.0,
    max_polls=None,
    window_seconds=300.0,
)

HARDCAPTCHA = JsonDialect(
    provider="hardcaptcha",
    base_url=None,
    has_api=False,
    callback=CallbackRule(shape="hardcaptcha", signature=SignatureRule(headers=("X-HardCaptcha-Hmac-SHA256", "hmac"))),
    polls=_POLLS,
    facts=(
        Fact("requests", "not known: only callbacks are read", "unknown", "not found in what it publishes"),
        Fact(
            "callback",
            "POST of {id, status, result}, under maintenance",
            "documented",
            "https://api-docs.hardcaptcha.com/webhook-under-maintenance",
        ),
        Fact(
            "signature",
            "hex HMAC-SHA256 over the raw body, keyed by the API key",
            "documented",
            "https://api-docs.hardcaptcha.com/webhook-under-maintenance",
        ),
        Fact(
            "signature header",
            "another one in its own sample: both are read",
            "documented",
            "https://api-docs.hardcaptcha.com/webhook-under-maintenance",
        ),
        Fact(
            "retries",
            "3, 5 s apart, unless answered 20x within 5 s",
            "documented",
            "https://api-docs.hardcaptcha.com/webhook-under-maintenance",
        ),
    ),
)

CAPSOLUTION = JsonDialect(
    provider="capsolution",
    base_url=None,
    callback=CallbackRule(
        shape="capsolution", signature=SignatureRule(headers=("X-Webhook-Signature",), is_rewritten=True)
    ),
    # It calls the account's address alone, so that nothing is to be waited for on a URL of a task.
    polls=replace(_POLLS, first_after_callback_seconds=_POLLS.first_after_seconds),
    pending_error_ids=frozenset({21}),
    facts=(
        Fact(
            "requests",
            "createTask and getTaskResult; ids such as task_…",
            "documented",
            "https://www.capsolution.xyz/docs/guides/error-handling",
        ),
        Fact("endpoint", "not known: it has to be given", "unknown", "not found in what it publishes"),
        Fact(
            "errorId 21",
            "not ready, keep polling, at least 2 s apart",
            "documented",
            "https://www.capsolution.xyz/docs/guides/error-handling",
        ),
        Fact(
            "callback",
            "one address for the account; POST of {event, taskId, …}",
            "documented",
            "https://www.capsolution.xyz/docs/guides/webhooks",
        ),
        Fact(
            "balance.low", "an event without a task", "documented", "https://www.capsolution.xyz/docs/guides/webhooks"
        ),
        Fact(
            "signature",
            "hex HMAC-SHA256 with a signing secret",
            "documented",
            "https://www.capsolution.xyz/docs/guides/webhooks",
        ),
        Fact(
            "what is signed",
            "the raw body, or JSON written again: both verify",
            "inferred",
            "https://www.capsolution.xyz/docs/guides/webhooks",
        ),
    ),
)

SCRAPELESS = ScrapelessDialect(
    provider="scrapeless",
    base_url="https://api.scrapeless.com",
    callback=CallbackRule(shape="scrapeless"),
    polls=_POLLS,
    facts=(
        Fact(
            "requests",
            "createTask with actor and input; UUIDs in text",
            "documented",
            "https://docs.scrapeless.com/zh/captcha-solver/quickstart/createtask",
        ),
        Fact("key", "in the header x-api-token", "observed", "clients that others wrote"),
        Fact(
            "result",
            "GET getTaskResult with the id in the path",
            "documented",
            "https://docs.scrapeless.com/zh/captcha-solver/quickstart/createtask",
        ),
        Fact(
            "callback",
            "POST of {taskId, state, success, …}, of the scraping API",
            "documented",
            "https://docs.scrapeless.com/pt/scraping-api/features/webhook",
        ),
        Fact(
            "webhook for captcha tasks",
            "not documented; asked for in webhook.url",
            "inferred",
            "https://docs.scrapeless.com/pt/scraping-api/features/webhook",
        ),
        Fact(
            "solution", "how a response becomes one is not shown: polled", "unknown", "not found in what it publishes"
        ),
        Fact("retries", "none", "documented", "https://docs.scrapeless.com/pt/scraping-api/features/webhook"),
        Fact("polls, window", "not known", "unknown", "not found in what it publishes"),
    ),
)

ENVELOPES = (HARDCAPTCHA, CAPSOLUTION, SCRAPELESS)
