"""The settings of the receiver from the environment, a `.env` file or a folder of secrets, checked at the start."""

from __future__ import annotations

import difflib
import errno
import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from client.config.environment import check_key, read_text_file, tidy
from client.errors import BadArgumentError
from client.protocol.models import API_KEY_MIN_LENGTH
from receiver.errors import CannotStartError

__all__ = [
    "DEFAULT_SCOPES",
    "KEY_NAME",
    "SCOPES",
    "ApiKey",
    "Network",
    "Settings",
    "database_from",
    "digest_of",
    "is_loopback",
    "load_settings",
    "no_keys_error",
    "server_name",
    "settings_table",
]

PREFIX = "RECEIVER_"
SCOPES = ("submit", "read", "admin")
DEFAULT_SCOPES = frozenset({"submit", "read"})
"""The scopes of a key for which none are named."""
KEY_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
"""The pattern of a key's name."""
_SECRETS_FOLDER = "RECEIVER_SECRETS_DIR"
_SIGNING_KEY_MIN_BYTES = 32
_LIST = "separated by commas"
"""Marks the type of a setting with several values."""
# More than the environment can hold; a secret has a few hundred bytes.
_MAX_SECRET_BYTES = 256 * 1024
# A URL, a URL without its scheme, or the other notation of PostgreSQL's programs. `C:/` is a path.
_LIKE_URL = re.compile(r"^\s*[A-Za-z][\w+.-]+:/|^[^/]*:[^/]*@|\bpassword\s*=")
# Client keys are often 32 hexadecimal digits.
_PROVIDER = re.compile(r"(?![0-9a-f]{24})[a-z0-9]{1,32}")

# Kubernetes sets these variables for a service called "receiver".
_SERVICE_LINKS = re.compile(r"RECEIVER_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_EXAMPLES = {"provider_urls": '"https://HOST"', "balance_low": "0.5"}

RetentionSeconds = Annotated[int, Field(ge=60, le=100 * 366 * 24 * 3600)]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of the API: its name in logs, the digest of its secret, and what it may do.

    Several keys may have one name. Limits and Idempotency-Keys go by the name, so they hold while a secret is replaced.
    `providers` is None for a key of all providers. `expires_at` is in microseconds since 1970. `key_id` is None for a
    key of the settings.
    """

    name: str
    digest: bytes
    scopes: frozenset[str]
    providers: frozenset[str] | None = None
    expires_at: int | None = None
    key_id: str | None = None


class Settings(BaseSettings):
    """All settings. Each description states the unit and the reason for the default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Loopback, because a proxy with TLS stands in front.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="Port to listen on; 0 takes any free one.")
    public_url: str | None = Field(
        None,
        description="Public base URL of this receiver, for callback URLs. The proxy strips its path, if it has one. "
        "Unset: tasks get no callback URLs, and clients poll.",
    )
    database: Path | SecretStr = Field(
        Path("receiver.db"),
        description="The SQLite file; a new one gets the mode 0600. Or `postgresql://user:password@host/name`, for "
        "several receivers on one database. It may name several hosts, as `one:5432,two:5432`. It needs "
        "`callback-receiver[postgres]`.",
    )
    database_listen: SecretStr | None = Field(
        None,
        description="URL of the same PostgreSQL database without a pooler between, if that of `DATABASE` leads to one. "
        "Notifications do not pass a pooler that shares connections. Unset: the URL of `DATABASE`, without a pooler.",
    )
    api_keys: Annotated[SecretStr, _LIST] = Field(
        SecretStr(""),
        description="API keys as `name:secret[:scopes]`, separated by commas. Scopes are `submit`, `read` and `admin`, "
        "joined by `+`; the default is `submit+read`. A secret has at least 24 characters, without `,` and `:`. Two "
        "secrets of one name replace each other without a break. `callback-receiver keys` makes further keys, with "
        "limits.",
    )
    allow_anonymous: bool = Field(
        False, description="Serve without API keys. Allowed only if `HOST` and `PUBLIC_URL` are loopback addresses."
    )
    signing_keys: Annotated[SecretStr, _LIST] = Field(
        SecretStr(""),
        description="Further signing keys for callback URLs, separated by commas, at least 32 bytes each. The first "
        "one signs, all are tried. The key made at the first start is in the database.",
    )
    providers_file: Path | None = Field(
        None,
        description="A TOML file with providers of your own and changes to the shipped providers. Unset: only the "
        "shipped providers.",
    )
    callback_secrets: dict[str, Annotated[SecretStr, Field(min_length=1)]] = Field(
        default_factory=dict,
        description="JSON object, provider → secret of its callback signatures. Unset: signatures are not checked, and "
        "the URL alone is the proof.",
    )
    callback_addresses: dict[str, str] = Field(
        default_factory=dict,
        description="JSON object, provider → the addresses and networks it calls back from, separated by commas. A "
        "callback from elsewhere gets 403 and counts as a hint, so a poll brings the answer. Unset: callbacks may come "
        "from anywhere, because most providers publish no addresses. Behind a proxy, set `TRUSTED_PROXIES` too.",
    )
    provider_keys: dict[str, Annotated[SecretStr, Field(min_length=1)]] = Field(
        default_factory=dict,
        description="JSON object, provider → client key. With a key, the receiver submits tasks for callers and polls "
        "them itself.",
    )
    provider_urls: dict[str, str] = Field(
        default_factory=dict,
        description="JSON object, provider → base URL of another endpoint or of a sandbox. Its host may be in a "
        "private network. The host of a shipped provider may not, unless it is named here.",
    )
    confirm_callbacks: Literal["never", "mismatched", "always"] = Field(
        "mismatched",
        description="Callbacks to confirm by a poll. `never`: none. `mismatched`: those with the id of another task. "
        "`always`: all unsigned ones of providers in `PROVIDER_KEYS`; without an answer to the poll, such a callback "
        "becomes the outcome after 10 s.",
    )
    verification_name: str = Field(
        "2captcha.txt",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the file at the root of the host by which a provider checks that the host is yours.",
    )
    verification_text: str = Field(
        "", max_length=1000, description="Content of that file, from the provider's account page. Unset: 404."
    )
    max_body_bytes: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = Field(
        256 * 1024,
        description="Largest body of a callback, in bytes; answers have a few kilobytes. A larger body counts as a "
        "hint, and a poll brings the answer. Requests with a key may have 2 MB, enough for every answer of a poll.",
    )
    allowed_origins: Annotated[str, _LIST] = Field(
        "",
        description="Origins (`https://app.example`) of web pages with access, separated by commas. The origin of "
        "`PUBLIC_URL` always has access. Pages of other origins get 403 on every route with a key, so strangers cannot "
        "reach this receiver through a user's browser.",
    )
    trusted_proxies: Annotated[str, _LIST] = Field(
        "",
        description="Addresses and networks of your own proxies, separated by commas: `127.0.0.1,::1` for a proxy on "
        "this machine. Only they are believed what `X-Forwarded-For` says about a client, and peers on a Unix socket. "
        "Unset: a client's address is that of its connection, because anyone can send the header.",
    )
    send_timeout_seconds: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = Field(
        10.0,
        description="Time after which a peer is dropped if it reads nothing of a stream or an answer. Readers resume "
        "at their cursors.",
    )
    keepalive_seconds: Annotated[float, Field(ge=1, le=24 * 3600, allow_inf_nan=False)] = Field(
        630.0,
        description="Time after which a connection without a request is closed. It must be longer than the idle time "
        "of the proxy, or a request may hit the close. Proxies: Google 600 s, Caddy 120 s, Traefik 90 s, nginx and AWS "
        "60 s. Envoy's 3600 s need a longer time.",
    )
    stop_delay_seconds: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = Field(
        0.0,
        description="Time after SIGTERM in which the receiver still serves, while `/healthz` and `/readyz` are 503. A "
        "load balancer takes it out meanwhile, so that a rolling update refuses nothing. It must be longer than a "
        "health check of the balancer takes.",
    )
    max_waiters: Annotated[int, Field(ge=1)] = Field(
        20_000, description="Most requests waiting at once; each costs about 10 kB. Further requests get 503."
    )
    max_waiters_per_key: Annotated[int, Field(ge=1)] = Field(
        10_000, description="The same for each API key, so that one key cannot use up all. Further requests get 429."
    )
    max_streams: Annotated[int, Field(ge=1)] = Field(
        20_000,
        description="Most websockets and SSE streams at once. Further ones are closed with 1013, or get 503.",
    )
    max_streams_per_key: Annotated[int, Field(ge=1)] = Field(
        10_000, description="The same for each API key. Further ones are closed with 1013, or get 429."
    )
    max_requests_per_address: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        20.0,
        description="Most requests a second of an address without a valid key or token, ten seconds' worth at once. "
        "Further ones get 429; 0 is no limit. Callbacks with a valid token and requests with a key are not counted: "
        "only guesses, scans and mistakes are. In IPv6 an address is its /64.",
    )
    max_requests_per_key: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        1000.0,
        description="Most requests a second of each API key, twenty seconds' worth at once: all waits of a key may "
        "come again after a restart. Further ones get 429; 0 is no limit.",
    )
    max_connections_per_address: Annotated[int, Field(ge=1)] = Field(
        10_000,
        description="Most connections of an address at once, as many as a key may have requests waiting. Beyond it, "
        "one without a request is closed, the oldest first, or else the new one. `TRUSTED_PROXIES` may have any "
        "number. In IPv6 an address is its /64.",
    )
    standing_max_tasks: Annotated[int, Field(ge=0)] = Field(
        100_000, description="Most tasks made by deliveries on one standing URL. Further deliveries get 503."
    )
    standing_max_bytes: Annotated[int, Field(ge=0)] = Field(
        256 * 1024 * 1024,
        description="The same in bytes of bodies. Further deliveries to known tasks are kept without their bodies.",
    )
    unreadable_max_bytes: Annotated[int, Field(ge=0)] = Field(
        16 * 1024 * 1024, description="Most bytes of unreadable bodies. Further ones are kept without their bodies."
    )
    canary_minutes: Annotated[float, Field(ge=0, le=24 * 60, allow_inf_nan=False)] = Field(
        5.0,
        description="Minutes between two callbacks of the receiver to itself, through `PUBLIC_URL` and back by "
        "websocket. They show a fault on that way before providers meet it. 0, or no `PUBLIC_URL`: none.",
    )
    metrics_address: str = Field(
        "",
        description="`host:port` of a second listener for `GET /metrics` without a key, for a collector inside. Unset: "
        "`/metrics` needs a key with `admin`.",
    )
    retention_results_seconds: RetentionSeconds = Field(
        30 * 24 * 3600,
        description="Time for which a finished task and its log entries are kept. Then it is forgotten.",
    )
    retention_solutions_seconds: RetentionSeconds = Field(
        30 * 24 * 3600,
        description="Time for which its solution is kept, with the bodies that brought it. Then it is null, and "
        "`solutionRemoved` is true.",
    )
    retention_deliveries_seconds: RetentionSeconds = Field(
        7 * 24 * 3600,
        description="Time for which the body of a delivery is kept. Bodies of unfinished tasks stay for another try.",
    )
    max_finished_tasks: Annotated[int, Field(ge=1)] = Field(
        1_000_000, description="Most finished tasks, about 2 kB each. Beyond it the oldest go, however young they are."
    )
    balance_low: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="JSON object, provider of `PROVIDER_KEYS` → balance below which `doctor` and notices warn, in the "
        "provider's unit. The balances are read every 10 minutes.",
    )
    notices: Annotated[SecretStr, _LIST] = Field(
        SecretStr(""),
        description="URLs of services that get a notice when a problem begins and when it is over, separated by "
        "commas: webhooks (`jsons://…`), ntfy (`ntfys://…`), e-mail (`mailtos://…`) and all others of Apprise. "
        "`callback-receiver doctor --test-notices` tries them. Needs the extra `notices`.",
    )
    direct_callbacks: bool = Field(
        True,
        description="Answer plain callbacks before aiohttp makes requests of them, which is faster. It needs names of "
        "aiohttp that are not public. `false`: aiohttp handles all requests, with the same answers.",
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`json`: one object a line; `console`: for people."
    )

    @field_validator("port", mode="before")
    @classmethod
    def _is_no_service_link(cls, value: object) -> object:
        return 8080 if isinstance(value, str) and value.startswith("tcp://") else value

    @field_validator("database", mode="before")
    @classmethod
    def _is_path_or_url(cls, value: object) -> object:
        return database_from(value) if isinstance(value, str) else value

    @field_validator("providers_file", mode="before")
    @classmethod
    def _is_set(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("provider_keys", "callback_secrets", "provider_urls", "balance_low", mode="before")
    @classmethod
    def _is_by_provider(cls, value: object, info: ValidationInfo) -> object:
        """Refuse secrets in the place of providers, because texts show the names of providers."""
        if isinstance(value, dict) and not all(isinstance(name, str) and _PROVIDER.fullmatch(name) for name in value):
            example = _EXAMPLES.get(str(info.field_name), '"SECRET"')
            raise ValueError(f'expected {{"PROVIDER": {example}}}, got a name that no provider has')
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _is_tidy(cls, value: object, info: ValidationInfo) -> object:
        """Remove the line breaks that editors and shells add. This runs before the validators above."""
        if isinstance(value, str) and _LIST in cls.model_fields[str(info.field_name)].metadata:
            return ",".join(map(tidy, value.split(",")))
        return _tidied(value)

    @field_validator("public_url")
    @classmethod
    def _is_base_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http:// or https:// and a host")
        if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
            raise ValueError("expected no query, fragment or user in it")
        return value.rstrip("/")

    @field_validator("provider_urls")
    @classmethod
    def _are_base_urls(cls, value: dict[str, str]) -> dict[str, str]:
        return {provider: cls._is_base_url(url) or "" for provider, url in value.items()}

    @field_validator("provider_keys")
    @classmethod
    def _are_keys(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for provider, key in value.items():
            try:
                check_key(key.get_secret_value())
            except ValueError as error:
                raise ValueError(f"{provider}: {error}") from None
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in filter(None, map(str.strip, value.split(","))):
            if not re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?", origin):
                # Before an @ there may be a password.
                shown = origin if "@" not in origin else "a user in it"
                raise ValueError(f"expected scheme://host or scheme://host:port in lower case, got {shown}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in _parse_networks(value):
            if network.prefixlen == 0:
                raise ValueError(f"expected the networks of your proxies, got {network}, which is every address")
        return value

    @field_validator("metrics_address")
    @classmethod
    def _is_host_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if value and not (host and colon and re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) and int(port) <= 65535):
            raise ValueError("expected host:port")
        return value

    @field_validator("database_listen")
    @classmethod
    def _is_postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        _check_postgres_url(value.get_secret_value())
        return value

    @property
    def database_name(self) -> str:
        """The file, or the server and the database without the password."""
        if isinstance(self.database, Path):
            return str(self.database)
        return server_name(self.database.get_secret_value())

    @property
    def origins(self) -> frozenset[str]:
        """The origins of `allowed_origins`."""
        return frozenset(filter(None, map(str.strip, self.allowed_origins.split(","))))

    @field_validator("callback_addresses")
    @classmethod
    def _are_networks_of(cls, value: dict[str, str]) -> dict[str, str]:
        for provider, text in value.items():
            try:
                networks = _parse_networks(text)
            except ValueError as error:
                raise ValueError(f"{provider}: {error}") from None
            if not networks:
                raise ValueError(f"{provider}: expected an address or a network, got none")
        return value

    @property
    def callback_networks(self) -> Mapping[str, Sequence[Network]]:
        """The networks of `callback_addresses`."""
        return {provider: _parse_networks(text) for provider, text in self.callback_addresses.items()}

    @property
    def proxies(self) -> Sequence[Network]:
        """The networks of `trusted_proxies`."""
        return _parse_networks(self.trusted_proxies)

    @property
    def metrics_host_port(self) -> tuple[str, int]:
        """The parts of `metrics_address`, which must be set."""
        host, _, port = self.metrics_address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def notice_urls(self) -> Sequence[str]:
        """The URLs of `notices`. A URL may have commas of its own."""
        urls = re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)", self.notices.get_secret_value())
        return [stripped for url in urls if (stripped := url.strip(" ,"))]

    @property
    def keys(self) -> Sequence[ApiKey]:
        """The API keys.

        Raises:
            CannotStartError: a key is malformed; the text names the key and the fault, without the secret.
        """
        return _parse_keys(self.api_keys.get_secret_value())

    @property
    def more_signing_keys(self) -> Sequence[bytes]:
        """The keys of `signing_keys`.

        Raises:
            CannotStartError: a key is too short.
        """
        keys = [key.strip().encode() for key in self.signing_keys.get_secret_value().split(",") if key.strip()]
        for number, key in enumerate(keys, start=1):
            if len(key) < _SIGNING_KEY_MIN_BYTES:
                needed = f"at least {_SIGNING_KEY_MIN_BYTES} are needed"
                raise CannotStartError(f"{PREFIX}SIGNING_KEYS: key {number} has {len(key)} bytes, {needed}")
        return keys

    def check_exposure(self) -> None:
        """Check that strangers cannot use the receiver.

        A database may hold keys. `receiver.app` looks for them at startup, because only that opens it.

        Raises:
            CannotStartError: there are no keys, or other machines could reach a receiver without keys.
        """
        if self.keys:
            return
        if not self.allow_anonymous:
            if isinstance(self.database, Path) and not self.database.is_file():
                raise no_keys_error()
            return
        if not is_loopback(self.host):
            raise CannotStartError(f"{PREFIX}ALLOW_ANONYMOUS: {PREFIX}HOST is {self.host}, expected a loopback address")
        if self.public_url is not None and not is_loopback(urlsplit(self.public_url).hostname or ""):
            raise CannotStartError(
                f"{PREFIX}ALLOW_ANONYMOUS: {PREFIX}PUBLIC_URL is not on this machine; keys are needed"
            )


def no_keys_error() -> CannotStartError:
    """Return the refusal to start without an API key."""
    return CannotStartError(
        f"{PREFIX}API_KEYS: at least one key is needed, as name:secret or made by callback-receiver keys add; for a "
        f"trial on this machine alone, set {PREFIX}ALLOW_ANONYMOUS=true"
    )


def load_settings(folder: Path, *, serves: bool = True) -> Settings:
    """Return the settings from the environment, from `folder`/.env and from the folder RECEIVER_SECRETS_DIR.

    The environment wins over .env, and .env over the secrets. With `serves`, strangers must not be able to use the
    receiver; a command that serves nothing skips this check.

    Raises:
        CannotStartError: a variable is unknown or wrong; the text names the variable and the expected value.
    """
    dotenv = _read_dotenv(folder / ".env")
    given = {**dotenv, **os.environ}
    _check_names(given)
    _check_texts(given)
    secrets_folder = (given.get(_SECRETS_FOLDER) or "").strip()
    secrets = _read_secrets(Path(secrets_folder)) if secrets_folder else {}
    try:
        settings = Settings(_env_file=None, **_values(secrets, dotenv, os.environ))
    except ValidationError as error:
        raise CannotStartError("; ".join(_sentence(detail) for detail in error.errors())) from None
    if serves:
        settings.check_exposure()
    # Read for its error, which later would end a server in the middle of its start.
    _ = settings.more_signing_keys
    return settings


def settings_table() -> str:
    """Return the settings as a Markdown table, for `deploy/SETTINGS.md`."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = (
            "" if default in (None, "", {}) else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        )
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    rows.append(
        f"| `{_SECRETS_FOLDER}` | | A folder with one file for each secret, named like its variable. "
        "The receiver does not start if a file cannot be loaded. |"
    )
    return "\n".join(rows)


def server_name(url: str) -> str:
    """Return the scheme, the host and the database of a URL, without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def database_from(text: str) -> Path | SecretStr:
    """Return the path of an SQLite file, or the URL of a PostgreSQL database as a secret.

    Raises:
        ValueError: it is another URL. The error has no part of it. What looks like one is never taken for a path,
            because texts show paths.
    """
    if not _LIKE_URL.search(text):
        return Path(text)
    _check_postgres_url(text)
    return SecretStr(text.strip())


def _check_postgres_url(url: str) -> None:
    expected = "expected the path of an SQLite file, or postgresql://user:password@host/name"
    try:
        parts = urlsplit(url)
        user, _, hosts = parts.netloc.rpartition("@")
        ports = [urlsplit(f"//{host}").port for host in hosts.split(",")]
        is_complete = (
            parts.scheme in ("postgresql", "postgres")
            # A / or @ of the password that is not escaped would make a part of it a part of the name.
            and re.fullmatch("/[^/@]+", parts.path) is not None
            and "@" not in user
            and 0 not in ports
        )
    except ValueError:
        is_complete = False
    if not is_complete:
        raise ValueError(expected)


def is_loopback(host: str) -> bool:
    """Return True if `host` can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        text = read_text_file(path)
    except BadArgumentError as error:
        raise CannotStartError(str(error)) from None
    for binding in parse_stream(StringIO(text)):
        # The file may hold settings of other programs. The library itself only warns of a bad line and skips it.
        if binding.error and PREFIX in binding.original.string.upper():
            raise CannotStartError(f"{path}: line {binding.original.line}: expected NAME=value")
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}


def _read_secrets(folder: Path) -> dict[str, str]:
    """Return the settings in the folder, by the names of their files.

    A secret that is not loaded would leave something unprotected, so every fault ends the start. Names with a leading
    dot are no settings: Kubernetes keeps the files in such folders, and the other names are links to them.
    """
    try:
        root = folder.resolve(strict=True)
        paths = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        raise CannotStartError(f"{_SECRETS_FOLDER}: there is no folder {folder}") from None
    except OSError as error:
        raise CannotStartError(f"{_SECRETS_FOLDER}: {folder} cannot be read ({error.strerror})") from None
    _check_names(path.name for path in paths)
    secrets: dict[str, str] = {}
    for path in paths:
        name = path.name.upper()
        if name.lower() in Settings.model_fields and _holds_secret(Settings.model_fields[name.lower()].annotation):
            raise CannotStartError(f"{folder / path.name}: expected the name of the variable, {PREFIX}{name}")
        if name in secrets:
            raise CannotStartError(f"{folder / path.name}: there is another file for {name}")
        if name.startswith(PREFIX):
            secrets[name] = _read_secret(path, root)
    return secrets


def _read_secret(path: Path, root: Path) -> str:
    try:
        target = path.resolve(strict=True)
        if root not in target.parents:
            raise CannotStartError(f"{path}: it is a link out of the folder; put the file itself there")
        if not target.is_file():
            raise CannotStartError(f"{path}: expected a file")
        return read_text_file(path, max_bytes=_MAX_SECRET_BYTES)
    except OSError as error:
        raise CannotStartError(f"{path}: cannot be read ({error.strerror})") from None
    except RuntimeError:
        # Before Python 3.13, a loop of links raises this.
        raise CannotStartError(f"{path}: cannot be read ({os.strerror(errno.ELOOP)})") from None
    except BadArgumentError as error:
        raise CannotStartError(str(error)) from None


def _holds_secret(annotation: Any) -> bool:
    """Return True for `SecretStr`, and for a type with it as a part."""
    return annotation is SecretStr or any(map(_holds_secret, get_args(annotation)))


def _values(*sources: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings by field. Later sources win, and JSON objects are merged."""
    values: dict[str, Any] = {}
    for source in sources:
        for name, text in source.items():
            field = name.upper().removeprefix(PREFIX).lower()
            if not name.upper().startswith(PREFIX) or field not in Settings.model_fields:
                continue
            is_object = get_origin(Settings.model_fields[field].annotation) is dict
            value = _parsed(name, text) if is_object else text
            before = values.get(field)
            values[field] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return values


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise CannotStartError(f"{name.upper()}: expected JSON") from None


def _tidied(value: object) -> object:
    if isinstance(value, dict):
        return {_tidied(name): _tidied_under(name, of_name) for name, of_name in value.items()}
    return tidy(value) if isinstance(value, str) else value


def _tidied_under(name: object, value: object) -> object:
    try:
        return _tidied(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_texts(given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if name.upper().startswith(PREFIX) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise CannotStartError(f"{name}: expected text in UTF-8") from None


def _check_names(given: Iterable[str]) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {_SECRETS_FOLDER}
    for name in sorted(given):
        if not name.upper().startswith(PREFIX) or name.upper() in known or _SERVICE_LINKS.fullmatch(name.upper()):
            continue
        # With the prefix, any two names would be similar.
        bare = [other.removeprefix(PREFIX) for other in known]
        near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), bare, n=1)
        meant = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise CannotStartError(f"{name}: there is no such setting{meant}")


def _sentence(detail: Any) -> str:
    name = f"{PREFIX}{str(detail['loc'][0]).upper()}" if detail["loc"] else "settings"
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}"


def _parse_networks(text: str) -> Sequence[Network]:
    return [_parse_network(part.strip()) for part in text.split(",") if part.strip()]


def _parse_network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"expected an IP address or a network, such as 10.0.0.0/8, got {text[:80]!r}") from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"expected IPv4 addresses as IPv4, got {text[:80]!r}")
    return network


def _parse_keys(text: str) -> Sequence[ApiKey]:
    keys = [_parse_key(part.strip(), number) for number, part in enumerate(text.split(","), start=1) if part.strip()]
    if len({key.digest for key in keys}) < len(keys):
        raise CannotStartError(f"{PREFIX}API_KEYS: two keys have the same secret")
    return keys


def _parse_key(text: str, number: int) -> ApiKey:
    where = f"{PREFIX}API_KEYS: key {number}"
    parts = text.split(":")
    if len(parts) not in (2, 3) or not KEY_NAME.fullmatch(parts[0]):
        raise CannotStartError(f"{where}: expected name:secret or name:secret:scopes")
    if len(parts[1]) < API_KEY_MIN_LENGTH:
        raise CannotStartError(f"{where} ({parts[0]}): the secret needs at least {API_KEY_MIN_LENGTH} characters")
    scopes = frozenset(parts[2].split("+")) if len(parts) == 3 else DEFAULT_SCOPES
    if not scopes <= set(SCOPES):
        raise CannotStartError(f"{where} ({parts[0]}): expected scopes out of {', '.join(SCOPES)}, joined by +")
    return ApiKey(parts[0], digest_of(parts[1]), scopes)


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 digest of an API key's secret. Only digests are kept, in memory and in the database.

    A slow hash, as for passwords, would add nothing for a random secret of 256 bits: nobody can try them all. It would
    cost each request its time. The digests are found by a hash table, never compared byte by byte with a scan. The time
    of that depends on the digest of what was sent, and nobody can choose a digest bit by bit.
    """
    return hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
