"""Arguments of a client: checked at once, errors name the argument, and keys are never shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from client import TaskClient
from client.config.arguments import ClientArguments, GivenArguments, read_arguments
from client.errors import BadArgumentError
from client.protocol.connection import ReceiverConnection
from client.providers import DIALECTS

_SECRET = "tests-only-client-key"
_KEY = {"CAPSOLVER_CLIENT_KEY": _SECRET}


def _read(provider: str = "capsolver", environ: Mapping[str, str] = _KEY, **given: Any) -> ClientArguments:
    return read_arguments(GivenArguments(provider=provider, **given), DIALECTS, environ)


def test_environment_fills_what_is_not_given() -> None:
    """Keys and the receiver's address come from variables, the endpoint and the limits from the provider."""
    environ = {**_KEY, "CALLBACK_RECEIVER_URL": "https://host.example/base/", "CALLBACK_RECEIVER_KEY": "receiver-key"}

    arguments = _read(environ=environ)

    assert arguments.client_key == _SECRET
    assert (arguments.receiver_url, arguments.receiver_key) == ("https://host.example/base", "receiver-key")
    assert arguments.provider_url == "https://api.capsolver.com"
    assert (arguments.timeout_seconds, arguments.requests_per_second) == (330.0, 20.0)


def test_arguments_win_over_the_environment() -> None:
    """A given argument is not looked up in the environment."""
    assert _read(client_key="another").client_key == "another"


def test_endpoint_from_the_environment() -> None:
    """`<PROVIDER>_URL` names another endpoint unless `provider_url` is given."""
    environ = {**_KEY, "CAPSOLVER_URL": "http://127.0.0.1:8081/"}

    assert _read(environ=environ).provider_url == "http://127.0.0.1:8081"
    assert _read(environ=environ, provider_url="http://127.0.0.1:8082").provider_url == "http://127.0.0.1:8082"


def test_no_receiver() -> None:
    """An empty variable counts as missing: the client only polls."""
    assert _read(environ={**_KEY, "CALLBACK_RECEIVER_URL": ""}).receiver_url is None


def test_receiver_itself() -> None:
    """If a receiver itself is given, the variables of another one are not read."""
    environ = {**_KEY, "CALLBACK_RECEIVER_URL": "https://host.example", "CALLBACK_RECEIVER_KEY": "receiver-key"}
    receiver = cast(ReceiverConnection, object())

    arguments = _read(environ=environ, receiver=receiver)

    assert (arguments.receiver, arguments.receiver_url, arguments.receiver_key) == (receiver, None, None)
    assert (arguments.has_receiver, arguments.has_callback, _read().has_receiver) == (True, True, False)
    assert not _read("onecaptcha", {"ONECAPTCHA_CLIENT_KEY": _SECRET}, receiver=receiver).has_callback


@pytest.mark.parametrize(
    ("given", "text"),
    [
        pytest.param(
            {"receiver": object(), "receiver_url": "http://host"}, "receiver: .* got both", id="two-receivers"
        ),
        pytest.param({"receiver": object(), "receiver_key": "key"}, "receiver: .* got both", id="a-key-too-many"),
        pytest.param({"provider": "nope"}, "unknown provider 'nope': expected one of anticaptcha", id="provider"),
        pytest.param({"environ": {}}, "CAPSOLVER_CLIENT_KEY: expected the client key of capsolver", id="no-key"),
        pytest.param({"client_key": "a b"}, "CAPSOLVER_CLIENT_KEY: expected a key of visible", id="blank-in-a-key"),
        pytest.param({"receiver_key": "a\nb"}, "CALLBACK_RECEIVER_KEY: expected a key of", id="line-break-in-a-key"),
        pytest.param({"receiver_url": "host:8080"}, "CALLBACK_RECEIVER_URL: expected http", id="receiver-without-http"),
        pytest.param({"receiver_url": "http://u:p@host"}, "CALLBACK_RECEIVER_URL: expected", id="receiver-with-user"),
        pytest.param({"provider_url": "http://host:99999"}, "provider_url: expected http", id="port-out-of-range"),
        pytest.param({"provider_url": "http://[::1"}, "provider_url: expected http", id="broken-address"),
        pytest.param({"timeout_seconds": 0}, "timeout_seconds: expected a number above 0, got 0", id="no-time"),
        pytest.param({"timeout_seconds": 1e9}, "timeout_seconds: Input should be less", id="too-much-time"),
        pytest.param({"requests_per_second": float("nan")}, "requests_per_second: expected", id="no-rate"),
        pytest.param(
            {"first_poll_seconds": 300.0},
            "first_poll_seconds: .* less than 300",
            id="poll-after-the-end",
        ),
        pytest.param({"tags": "checkout"}, "tags: expected several texts", id="tags-as-one-text"),
        pytest.param({"tags": ["a,b"]}, "tags.0: String should match", id="comma-in-a-tag"),
    ],
)
def test_wrong(given: dict[str, Any], text: str) -> None:
    """The error for a wrong argument names it or its variable."""
    with pytest.raises(BadArgumentError, match=text):
        _read(**given)


def test_app_id_where_there_is_none() -> None:
    """An appId for a provider without appIds is refused."""
    with pytest.raises(BadArgumentError, match="app_id: onecaptcha takes none"):
        _read("onecaptcha", {"ONECAPTCHA_CLIENT_KEY": "key"}, app_id="app")


def test_keys_are_not_shown() -> None:
    """The texts of the arguments and of a client hold no key."""
    client = TaskClient("capsolver", client_key=_SECRET, receiver_url="http://127.0.0.1:1", receiver_key=_SECRET)

    assert _SECRET not in repr(_read()) + repr(GivenArguments(provider="capsolver", client_key=_SECRET)) + repr(
        vars(client)
    )


def test_registration_names_the_key_by_a_hash() -> None:
    """A registration has the first 8 hex digits of the key's hash, the tags of client and task, and the time limit."""
    arguments = _read(tags=["shop", "checkout"])

    registration = arguments.registration(timeout_seconds=None, tags=["checkout", "now"], type="ImageToTextTask")

    assert registration.client_key_id == "ba3dfb9d"
    assert registration.tags == ("shop", "checkout", "now")
    assert registration.timeout_seconds == 330.0


@pytest.mark.parametrize(
    ("task", "text"),
    [
        pytest.param({}, "type: expected a task type such as ImageToTextTask, got None", id="no-type"),
        pytest.param({"type": 7}, "type: expected a task type such as ImageToTextTask, got 7", id="type-is-no-text"),
        pytest.param({"type": "T", "websiteURL": object()}, "task: the request cannot be written", id="no-json"),
    ],
)
def test_task_that_cannot_be_sent(task: dict[str, Any], text: str) -> None:
    """A task without a type, or with a value that is not JSON, is refused before its registration."""
    with pytest.raises(BadArgumentError, match=text):
        _read().check_task(task)
