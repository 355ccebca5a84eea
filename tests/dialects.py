"""Providers for tests, with features beyond the shipped ones: signatures, callbacks by GET, news of the account."""

from __future__ import annotations

from types import MappingProxyType
from urllib.parse import parse_qs

from client.errors import UnreadableError
from client.providers import DIALECTS, CallbackRule, Dialect, PollPlan, SignatureRule
from client.providers.json_family import JSON_FAMILY
from client.providers.readings import CallbackReading, Failed, Notice, Ready
from client.providers.values import parse_object

__all__ = ["ALL_DIALECTS"]

_POLLS = PollPlan(
    first_after_seconds=1.0,
    first_after_callback_seconds=5.0,
    interval_seconds=1.0,
    max_polls=10,
    window_seconds=60.0,
    grace_seconds=5.0,
)


class _Signing(Dialect):
    """Signs its callbacks and sends events of the account, as capsolution does.

    Source: providers/README.md, "Envelope callbacks".
    """

    def read_callback(self, *, query: bytes, body: bytes) -> CallbackReading:
        if parse_object(body).get("event") == "balance.low":
            return CallbackReading(None, Notice("balance.low"))
        return super().read_callback(query=query, body=body)


class _ByGet(Dialect):
    """Calls back by GET, with all in the query, as uCaptcha does (providers/README.md, "Query callbacks")."""

    def read_callback(self, *, query: bytes, body: bytes) -> CallbackReading:
        fields = {name: values[0] for name, values in parse_qs(query.decode("ascii", "replace")).items()}
        if "captcha_id" not in fields:
            raise UnreadableError("captcha_id: expected")
        if fields.get("status") == "1":
            return CallbackReading(fields["captcha_id"], Ready({"token": fields.get("code", "")}))
        return CallbackReading(fields["captcha_id"], Failed(1, "RECEIVER_REASON_NOT_GIVEN"))


ALL_DIALECTS = MappingProxyType(
    {
        **DIALECTS,
        "capsolution": _Signing(
            provider="capsolution",
            base_url="https://signing.invalid",
            callback=CallbackRule(signature=SignatureRule(headers=("X-Webhook-Signature",))),
            polls=_POLLS,
            family=JSON_FAMILY,
        ),
        "ucaptcha": _ByGet(
            provider="ucaptcha",
            base_url="https://by-get.invalid",
            callback=CallbackRule(methods=frozenset({"GET"})),
            polls=_POLLS,
            family=JSON_FAMILY,
        ),
    }
)
"""The shipped dialects and those of the tests."""
