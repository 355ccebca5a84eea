"""A receiver process is driven through use, misuse and errors. No text that it leaves anywhere has a secret in it."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from client.protocol.frames import SUBPROTOCOL
from receiver.settings import Settings
from tests.client.support import Reply, scripted_provider
from tests.faults.commands import run_command
from tests.faults.hostile import heads, paths, smuggled
from tests.faults.peers import sent_alone
from tests.faults.secret_search import found
from tests.faults.wire import ANSWER, request
from tests.postgres import execute
from tests.receiver.storage.stores import query as rows_of
from tests.support import free_port, receiver_process

ADMIN_KEY = "Tz5kQw8mVr2hXn7cJd4pLs9bGf3y"
READ_KEY = "Ug6wRy1nBt4jZk8xMv3qHc7eDa5s"
CLIENT_KEY = "Wm9xPd2tKc6vRj4hYb8nQz3gLf7s"
OTHER_CLIENT_KEY = "Xn3cVf7yMd1wTk5jSb9rPh2zGq6u"
SIGNING_KEY = "Yp4dLg8zNc2xUk6mTv1rQh5wJb9fEs3a"
WEBHOOK_SECRET = "Zr5eMh9aPd3yVj7nUw2sRk6xKc1g"
PASSWORD = "Bs6fNj1bQe4zWk8pVx3tSm7yLd2h"
HEX_KEY = "d41f8c0a93b7e65214fa0c7d38be9162"
NOTICE_PASSWORD = "Du8hRl3dSg6bYn1rXz5vTp9wNf4k"
NOTICE_TOKEN = "Ev9jSm4fTh7cZp2sAy6xUq1zQg5n"
DATABASE_PASSWORD = "Fw1kTn5gUi8dAq3tBz7vYr2xRh6p"
LISTEN_PASSWORD = "Gx2mUp6hVj9eBr4uCa8wZs3yTi7q"
WRONG_KEY = "Ct7gPk2cRf5aXm9qWy4uTn8zMe3j"
SETTINGS: Mapping[str, str] = {
    "API_KEYS": f"admin:{ADMIN_KEY}:submit+read+admin,reader:{READ_KEY}:read",
    "SIGNING_KEYS": SIGNING_KEY,
    "CALLBACK_SECRETS": json.dumps({"capsolution": WEBHOOK_SECRET}),
    "PROVIDER_KEYS": json.dumps({"capsolver": CLIENT_KEY, "capmonster": OTHER_CLIENT_KEY}),
    # Nothing listens there.
    "NOTICES": f"json://user:{NOTICE_PASSWORD}@127.0.0.1:1/{NOTICE_TOKEN}",
}
"""A value for every setting that holds a secret, but for those of the database."""
DATABASE_SETTINGS = ("DATABASE", "DATABASE_LISTEN")

WRONG_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "an API key without a name": {"API_KEYS": ADMIN_KEY},
    "an API key with a wrong scope": {"API_KEYS": f"admin:{ADMIN_KEY}:root"},
    "a secret as a scope": {"API_KEYS": f"admin:tests-only-key-0123456789:{ADMIN_KEY}"},
    "a secret as a name": {"API_KEYS": f"{ADMIN_KEY}!:{READ_KEY}"},
    "the same API key twice": {"API_KEYS": f"a:{ADMIN_KEY},b:{ADMIN_KEY}"},
    "an invisible character": {"API_KEYS": f"a:{ADMIN_KEY}\u200b"},
    "a short signing key": {"SIGNING_KEYS": SIGNING_KEY[:26]},
    "client keys without braces": {"PROVIDER_KEYS": f'"capsolver": "{CLIENT_KEY}"'},
    "client keys as a list": {"PROVIDER_KEYS": json.dumps([CLIENT_KEY])},
    "a client key of nobody": {"PROVIDER_KEYS": json.dumps({"nobody": CLIENT_KEY})},
    "a client key as a provider": {"PROVIDER_KEYS": json.dumps({CLIENT_KEY: "capsolver"})},
    "a hexadecimal client key as a provider": {"PROVIDER_KEYS": json.dumps({HEX_KEY: "twocaptcha"})},
    "a webhook secret as a provider": {"CALLBACK_SECRETS": json.dumps({WEBHOOK_SECRET: "capsolution"})},
    "a client key as a provider with a balance": {"BALANCE_LOW": json.dumps({CLIENT_KEY: 0.5})},
    "a client key as a provider with a URL": {"PROVIDER_URLS": json.dumps({CLIENT_KEY: "https://example.com"})},
    "a client key with a line break": {"PROVIDER_KEYS": json.dumps({"capsolver": f"{CLIENT_KEY}\n{CLIENT_KEY}"})},
    "a client key in an object": {"PROVIDER_KEYS": json.dumps({"capsolver": {"key": CLIENT_KEY}})},
    "a webhook secret in an object": {"CALLBACK_SECRETS": json.dumps({"capsolution": [WEBHOOK_SECRET]})},
    "a webhook secret of nobody": {"CALLBACK_SECRETS": json.dumps({"nobody": WEBHOOK_SECRET})},
    "a password in the public URL": {"PUBLIC_URL": f"https://user:{PASSWORD}@receiver.example"},
    "a password in a provider's URL": {"PROVIDER_URLS": json.dumps({"capsolver": f"http://user:{PASSWORD}@127.0.0.1"})},
    "a database URL without a database": {"DATABASE": f"postgresql://receiver:{PASSWORD}@database.example"},
    "a database URL with a slash": {"DATABASE": f"postgresql://receiver:123/{PASSWORD}@database.example/receiver"},
    "a database URL of a driver": {"DATABASE": f"postgresql+asyncpg://receiver:{PASSWORD}@database.example/receiver"},
    "a database URL in capitals": {"DATABASE": f"MySQL://receiver:{PASSWORD}@database.example/receiver"},
    "a database URL without its scheme": {"DATABASE": f"receiver:{PASSWORD}@database.example/receiver"},
    "a database in another notation": {"DATABASE": f"host=database.example password={PASSWORD} dbname=receiver"},
    "a database URL for notifications": {"DATABASE_LISTEN": f"receiver:{PASSWORD}@database.example/receiver"},
    "a password in an origin": {"ALLOWED_ORIGINS": f"https://user:{PASSWORD}@app.example"},
    "a notice to an unknown kind of service": {"NOTICES": f"nowhere://user:{PASSWORD}@notices.example"},
    "a notice without a service": {"NOTICES": f"{PASSWORD}"},
    "a misspelt variable": {"API_KEY": ADMIN_KEY},
    "a key as a port": {"PORT": ADMIN_KEY},
    "a key as a format": {"LOG_FORMAT": ADMIN_KEY},
}
DISCONNECT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
SIGNING_KEYS = "SELECT key FROM signing_key"
# `receiver_process` sets these itself.
_OWN = ("PORT", "DATABASE")
_COMMANDS = (
    ("doctor",),
    ("doctor", "--json"),
    ("doctor", "--test-notices"),
    ("healthcheck",),
    ("canary",),
    ("providers",),
    ("providers", "--observed"),
    ("callback-url", "--list"),
    ("keys", "list"),
    ("keys", "list", "--json"),
    ("prune",),
    ("prune", "--apply"),
    ("redeliver",),
    ("redeliver", "--apply"),
    ("explain", "no-such-task"),
    ("copy", "--to", "moved.db"),
    ("new-log",),
    ("new-signing-key", "--accept-old", "1"),
    ("backup", "copy.db"),
    ("restore", "copy.db"),
    ("--help",),
    ("copy", "--help"),
)


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_no_secret_leaves_the_receiver(
    databases: Callable[[str], Path | str], tmp_path: Path, log_format: str
) -> None:
    """Log, answers, metrics, messages of all commands and the process list are searched for every secret."""
    secrets: dict[str, str | bytes] = {
        "the admin's key": ADMIN_KEY,
        "the reader's key": READ_KEY,
        "the client key": CLIENT_KEY,
        "the other client key": OTHER_CLIENT_KEY,
        "the signing key": SIGNING_KEY,
        "the webhook secret": WEBHOOK_SECRET,
        "the password of notices": NOTICE_PASSWORD,
        "the token of notices": NOTICE_TOKEN,
        "a wrong key": WRONG_KEY,
        "the password of the database": DATABASE_PASSWORD,
        "the password for notifications": LISTEN_PASSWORD,
    }
    place = databases("receiver")
    texts: dict[str, bytes] = {}
    database, port = tmp_path / "receiver.db", free_port()
    async with scripted_provider() as provider:
        for method in ("createTask", "getTaskResult", "getBalance"):
            provider.answers(method, *quoting_replies())
        settings = {
            **SETTINGS,
            "PROVIDER_URLS": json.dumps({"capsolver": provider.url, "capmonster": provider.url}),
            "PORT": str(port),
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "DATABASE": str(database),
        }
        if isinstance(place, str):
            settings["DATABASE"] = place.replace("hush", DATABASE_PASSWORD)
            settings["DATABASE_LISTEN"] = place.replace("hush", LISTEN_PASSWORD)
        environment: dict[str, Any] = {name.lower(): settings[name] for name in settings if name not in _OWN}
        async with (
            receiver_process(
                database,
                port=port,
                log_format=log_format,
                variables={"RECEIVER_DATABASE": settings["DATABASE"]},
                **environment,
            ) as receiver,
            aiohttp.ClientSession() as session,
        ):
            user = User(receiver.url, session)
            await user.use(secrets)
            if isinstance(place, str):
                execute(place, DISCONNECT)
                await user.answer("GET", "/v1/results", key=ADMIN_KEY)
            texts["an answer"] = user.answers
            texts["the metrics"] = await user.answer("GET", "/metrics", key=ADMIN_KEY)
            texts["the process list"] = command_line(receiver.process.pid)
            # They don't depend on the format of the receiver's log.
            for command in _COMMANDS if log_format == "json" else ():
                finished = await run_command(tmp_path, *command, **settings)
                texts[" ".join(command)] = (finished.out + finished.err).encode()
            for command in (("callback-url", "capsolver"), ("keys", "add", "another")):
                finished = await run_command(tmp_path, *command, **settings)
                assert finished.code == 0, finished
                # This output is for the secret.
                secrets[" ".join(command)] = finished.out.strip().rpartition("/")[2]
                texts[" ".join(command)] = finished.err.encode()
            await user.misuse(str(secrets["keys add another"]))
            code = await receiver.stop()
    secrets |= {f"signing key {key.hex()[:4]} of the database": key for (key,) in rows_of(place, SIGNING_KEYS)}
    texts["the log"] = b"".join(receiver.lines)

    assert code == 0
    assert len([name for name in secrets if name.startswith("signing key")]) >= 1
    assert texts["the log"].count(b"callback.stored") > 1
    assert b"request.malformed" in texts["the log"]
    assert b"ERROR_KEY_DOES_NOT_EXIST" in texts["an answer"]
    assert found(secrets, texts) == []


@pytest.mark.sqlite
@pytest.mark.parametrize("name", WRONG_SETTINGS)
async def test_a_wrong_setting_is_refused_without_its_secret(tmp_path: Path, name: str) -> None:
    """One line names the setting. It shows no part of a value that may be a secret."""
    secrets = {"a secret": ADMIN_KEY, "a client key": CLIENT_KEY, "a webhook secret": WEBHOOK_SECRET}
    secrets |= {"a reader's key": READ_KEY, "a signing key": SIGNING_KEY[:26], "a password": PASSWORD, "hex": HEX_KEY}

    finished = await run_command(tmp_path, "serve", **{**SETTINGS, "PORT": str(free_port()), **WRONG_SETTINGS[name]})

    assert (finished.code, finished.out, finished.err.count("\n")) == (2, "", 1), finished
    assert any(setting in finished.err for setting in WRONG_SETTINGS[name]), finished
    assert found(secrets, {"the message": finished.err.encode()}) == []


@pytest.mark.sqlite
def test_every_setting_with_a_secret_is_searched_for() -> None:
    """A new setting of that kind needs a value here, too."""
    secret = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in repr(field.annotation)}

    assert secret == {*SETTINGS, *DATABASE_SETTINGS}


def test_settings_show_no_secret_of_theirs() -> None:
    """A traceback with values, or a debugger, shows none either."""
    url = f"postgresql://receiver:{DATABASE_PASSWORD}@database.example/receiver"
    listen = url.replace(DATABASE_PASSWORD, LISTEN_PASSWORD)
    settings = Settings(database=url, database_listen=listen, _env_file=None)
    shown = {
        "repr": repr(settings),
        "str": str(settings),
        "dump": repr(settings.model_dump()),
        "name": settings.database_name,
    }

    assert found({"one": DATABASE_PASSWORD, "other": LISTEN_PASSWORD}, {k: v.encode() for k, v in shown.items()}) == []
    assert settings.database_name == "postgresql://database.example/receiver"


@pytest.mark.parametrize(
    "text",
    [
        ADMIN_KEY,
        ADMIN_KEY[:14],
        ADMIN_KEY[14:],
        ADMIN_KEY.encode().hex(),
        "VHo1a1F3OG1WcjJoWG43Y0pkNHBMczliR2YzeQ==",
    ],
)
def test_the_search_finds_a_secret(text: str) -> None:
    """It is found whole, in halves, and in other codings."""
    assert len(found({"a key": ADMIN_KEY}, {"a text": f"key={text};".encode()})) >= 1
    assert found({"a key": ADMIN_KEY}, {"a text": text[:11].encode()}) == []


class User:
    """Requests to a receiver, and everything that it has answered."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.answers = b""
        self._session = session

    async def answer(self, method: str, path: str, *, key: str | None, **options: Any) -> bytes:
        """Send a request, keep its answer, and return the body."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        headers |= options.pop("headers", {})
        async with self._session.request(method, self.url + path, headers=headers, **options) as response:
            body = await response.read()
            self.answers += repr(response.headers).encode() + body + b"\n"
            return body

    async def use(self, secrets: dict[str, str | bytes]) -> None:
        """Use the receiver as clients and providers do, with errors of a provider that quotes the client key."""
        create: dict[str, Any] = {"task": {"type": "ImageToTextTask", "body": "aGk="}}
        for provider in ("capsolver", "capmonster") * 3:
            await self.answer("POST", "/v1/tasks", key=ADMIN_KEY, json={"provider": provider, **create})
        tokens = {}
        for provider in ("capsolver", "capsolution", "twocaptcha"):
            registered = json.loads(await self._registered({"provider": provider}))
            tokens[provider] = urlsplit(registered["callbackUrl"]).path
            secrets[f"the token of {provider}"] = tokens[provider].rpartition("/")[2]
        path, signed = tokens["capsolver"], tokens["capsolution"]
        signature = hmac.new(WEBHOOK_SECRET.encode(), ANSWER, hashlib.sha256).hexdigest()
        secrets["a signature"] = signature
        for body in (ANSWER, ANSWER, ANSWER.replace(b"44795sds", b"other"), b"no JSON", b"", b"x" * 300_000):
            await self.answer("POST", path, key=None, data=body)
        await self.answer("POST", signed, key=None, data=ANSWER, headers={"X-Webhook-Signature": "0" * 64})
        await self.answer("POST", signed, key=None, data=ANSWER, headers={"X-Webhook-Signature": signature})
        for method in ("GET", "HEAD", "PUT", "OPTIONS"):
            await self.answer(method, path, key=None)
        for wrong in (
            path[:-1],
            f"{path}x",
            path.replace("capsolver", "capmonster"),
            f"{path}/",
            f"/{path}",
            f"{path}?id=1",
        ):
            await self.answer("POST", wrong, key=None, data=ANSWER)
        for target in ("/v1/tasks", "/v1/results", "/readyz", "/healthz", "/openapi.json", "/nowhere"):
            for key in (ADMIN_KEY, READ_KEY, WRONG_KEY, None):
                await self.answer("GET", target, key=key)
        await self._open_streams(secrets)
        # Malformed requests with the token in their first line.
        targets = [f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1") for target in paths(path).values()]
        await sent_alone(self.url, iter([*heads(path).values(), *smuggled(path).values(), *targets]))

    async def misuse(self, made_key: str) -> None:
        """Send keys to wrong places. An answer may show its sender what was sent, so these answers are not kept."""
        answers = self.answers
        await self.answer("GET", "/v1/tasks", key=made_key)
        for key in (ADMIN_KEY, CLIENT_KEY, made_key):
            for target in (
                f"/v1/tasks/{key}",
                f"/v1/tasks?key={key}",
                f"/v1/results?after={key}",
                f"/{key}",
                f"/callback/{key}/{key}",
            ):
                await self.answer("GET", target, key=ADMIN_KEY)
                await self.answer("POST", target, key=ADMIN_KEY, data=key)
            headers = {
                "X-Api-Key": key,
                "Cookie": f"key={key}",
                "Referer": f"https://x.example/{key}",
                "Origin": f"https://{key}",
            }
            await self.answer("GET", "/v1/tasks", key=None, headers={"Authorization": f"Basic {key}", **headers})
            await self.answer(
                "POST", "/v1/tasks", key=ADMIN_KEY, json={"provider": key}, headers={"Idempotency-Key": key}
            )
            await self.answer("POST", "/v1/tasks", key=ADMIN_KEY, json={"provider": "capsolver", key: key})
            await sent_alone(
                self.url, iter([request("GET", f"{self.url}/{key}", Authorization=f"{key}\x00"), key.encode() * 2000])
            )
        self.answers = answers

    async def _registered(self, fields: dict[str, Any]) -> bytes:
        """Register a task. This answer is for the callback URL, so it is not kept."""
        answers = self.answers
        body = await self.answer("POST", "/v1/tasks", key=ADMIN_KEY, json=fields)
        self.answers = answers
        return body

    async def _open_streams(self, secrets: dict[str, str | bytes]) -> None:
        """Open streams with tickets and keys, right ones and wrong ones."""
        tickets = []
        answers = self.answers
        for number in range(3):
            ticket = json.loads(await self.answer("POST", "/v1/tickets", key=READ_KEY))["ticket"]
            secrets[f"ticket {number}"] = ticket
            tickets.append(ticket)
        self.answers = answers
        for query in (f"?ticket={tickets[0]}", f"?ticket={tickets[0]}x", f"?ticket={tickets[1]}&after=wrong"):
            async with self._session.get(f"{self.url}/v1/results/stream{query}") as response:
                self.answers += repr(response.headers).encode() + await response.content.read(2000)
        protocols = [f"ticket.{tickets[2]}", f"ticket.{tickets[2]}", f"bearer.{READ_KEY}", f"bearer.{WRONG_KEY}"]
        for protocol in protocols:
            try:
                async with self._session.ws_connect(
                    f"{self.url}/v1/subscribe", protocols=(SUBPROTOCOL, protocol)
                ) as socket:
                    await socket.send_json({"type": "subscribe", "id": 1, "tasks": [], "key": READ_KEY})
                    self.answers += repr(await socket.receive()).encode()
            except aiohttp.WSServerHandshakeError as error:
                self.answers += repr(error.headers).encode() + str(error).encode()


def quoting_replies() -> Sequence[Reply]:
    """Return errors of a provider that quotes the client key, as it is and escaped."""
    escaped = "".join(f"\\u{ord(character):04x}" for character in CLIENT_KEY)
    return [
        Reply({"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST", "errorDescription": f"no key {CLIENT_KEY}"}),
        Reply({"errorId": 1, "errorCode": f"ERROR_{OTHER_CLIENT_KEY}", "errorDescription": OTHER_CLIENT_KEY}),
        Reply(f'{{"errorId": 1, "errorCode": "ERROR_X", "errorDescription": "no key {escaped}"}}'.encode()),
        Reply(f"<html>{CLIENT_KEY} {OTHER_CLIENT_KEY}</html>".encode(), status=502),
        Reply(f'{{"errorId": {CLIENT_KEY}'.encode()),
        Reply({"errorId": 0, "taskId": "task-1"}),
    ]


def command_line(pid: int) -> bytes:
    """Return the arguments of a process, as other users of the machine see them."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def signing_keys(database: Path) -> list[bytes]:
    """Return the keys that the receiver has made."""
    with closing(sqlite3.connect(database)) as connection:
        return [bytes(key) for (key,) in connection.execute("SELECT key FROM signing_key")]
