"""The settings of the receiver, from the environment, a `.env` file or a folder of secrets, checked before it runs."""

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
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from client.config.texts import check_key, read_text_file, tidy
from client.errors import BadArgumentError
from client.protocol.models import API_KEY_MIN_LENGTH
from receiver.errors import CannotStartError

__all__ = ["SCOPES", "ApiKey", "Settings", "is_loopback", "load_settings", "settings_table"]

PREFIX = "RECEIVER_"
SCOPES = ("submit", "read", "admin")
_DEFAULT_SCOPES = frozenset({"submit", "read"})
_SECRETS_FOLDER = "RECEIVER_SECRETS_DIR"
_SIGNING_KEY_MIN_BYTES = 32
_LISTS = ("api_keys", "signing_keys", "allowed_origins")
"""Settings of several values with commas."""
_OBJECTS = ("callback_secrets", "provider_keys", "provider_urls")
"""Settings that are JSON objects."""
_SECRETS = ("api_keys", "signing_keys", "callback_secrets", "provider_keys")
# Larger than the environment takes; a secret has some hundred bytes.
_MAX_SECRET_BYTES = 256 * 1024

# What Kubernetes puts into the environment for a service called "receiver".
_SERVICE_LINKS = re.compile(r"RECEIVER_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


RetentionSeconds = Annotated[int, Field(ge=60, le=100 * 366 * 24 * 3600)]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of the API: the digest of its secret, the name it is logged by, and what it may do."""

    name: str
    digest: bytes
    scopes: frozenset[str]


class Settings(BaseSettings):
    """All settings; the description of each says its unit and the reason for its default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    host: str = Field(
        "127.0.0.1", description="Address to listen on. Loopback, because a proxy with TLS stands in front."
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="Port to listen on; 0 takes any free one.")
    public_url: str | None = Field(
        None,
        description="What providers reach this receiver by, with its path if it has one (the proxy strips it). "
        "Unset: no callback URLs are given out, and clients poll.",
    )
    database: Path = Field(Path("receiver.db"), description="The SQLite file, made with mode 0600 if it is not there.")
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="`name:secret[:scopes]`, several with commas; scopes out of `submit`, `read`, `admin`, joined by "
        "`+` (`submit+read` if none are given); a secret has at least 24 characters, none of them `,` or `:`.",
    )
    allow_anonymous: bool = Field(
        False, description="Serve without keys; only on loopback and with no public URL but a loopback one."
    )
    signing_keys: SecretStr = Field(
        SecretStr(""),
        description="Further keys for callback tokens, with commas, at least 32 bytes each; the first one signs, all "
        "are tried. The key made at the first start lives in the database.",
    )
    providers_file: Path | None = Field(
        None,
        description="A TOML file with providers of your own, or changes to those that are known. Unset: the shipped "
        "ones.",
    )
    callback_secrets: dict[str, Annotated[SecretStr, Field(min_length=1)]] = Field(
        default_factory=dict,
        description="JSON object, provider → the secret that it signs its callbacks with. Unset: a signature is not "
        "asked for, the URL alone is the proof.",
    )
    provider_keys: dict[str, Annotated[SecretStr, Field(min_length=1)]] = Field(
        default_factory=dict,
        description="JSON object, provider → client key. With it the receiver itself polls the tasks of that key, so "
        "that callers need not, and can submit.",
    )
    provider_urls: dict[str, str] = Field(
        default_factory=dict,
        description="JSON object, provider → base URL: another endpoint, or a sandbox.",
    )
    confirm_callbacks: Literal["never", "mismatched", "always"] = Field(
        "mismatched",
        description="Which callbacks the provider is asked about: `never` any; `mismatched` those with another task's "
        "id; `always` all that are not signed, of providers whose key is in `PROVIDER_KEYS`: such a callback is the "
        "outcome only after 10 s without an answer.",
    )
    verification_name: str = Field(
        "2captcha.txt",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="The file that a provider asks for at the root of the host, to see that it is yours.",
    )
    verification_text: str = Field(
        "", max_length=1000, description="What is answered there, from the provider's account page. Unset: 404."
    )
    max_body_bytes: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = Field(
        256 * 1024,
        description="Largest body of a callback, in bytes; answers are a few kilobytes. A larger one is a hint, and a "
        "poll brings the answer. Requests with a key may have 2 MB, so that every answer of a poll can be reported.",
    )
    allowed_origins: str = Field(
        "",
        description="Origins (`https://app.example`) of pages that may open streams, with commas; that of `PUBLIC_URL` "
        "always may. Others are answered 403 on every route that needs a key, so that no page of a stranger can use a "
        "browser's way to this receiver.",
    )
    send_timeout_seconds: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = Field(
        10.0,
        description="A peer that takes nothing of a stream or of an answer for so long is dropped; readers go on by "
        "their cursors.",
    )
    keepalive_seconds: Annotated[float, Field(ge=1, le=24 * 3600, allow_inf_nan=False)] = Field(
        630.0,
        description="A connection without a request is closed after so long. It must be longer than the proxy in front "
        "keeps one, or a request may meet the close: Google 600 s, Caddy 120 s, Traefik 90 s, nginx and AWS 60 s; "
        "Envoy's 3600 s need more.",
    )
    max_waiters: Annotated[int, Field(ge=1)] = Field(
        20_000, description="Requests that may wait at once; each costs about 10 kB. More are answered 503."
    )
    max_waiters_per_key: Annotated[int, Field(ge=1)] = Field(
        10_000, description="The same for each API key, so that one does not take the room of all. More: 429."
    )
    max_streams: Annotated[int, Field(ge=1)] = Field(
        20_000,
        description="Websockets and SSE streams open at once. More are closed with 1013, or answered 503.",
    )
    max_streams_per_key: Annotated[int, Field(ge=1)] = Field(
        10_000, description="The same for each API key. More are closed with 1013, or answered 429."
    )
    standing_max_tasks: Annotated[int, Field(ge=0)] = Field(
        100_000, description="Tasks that the deliveries on one standing URL may make; more are answered 503."
    )
    standing_max_bytes: Annotated[int, Field(ge=0)] = Field(
        256 * 1024 * 1024,
        description="The same in bytes of bodies; of further deliveries to known tasks only the fact is kept.",
    )
    unreadable_max_bytes: Annotated[int, Field(ge=0)] = Field(
        16 * 1024 * 1024, description="Bytes of unreadable bodies that are kept; of more, only the fact is."
    )
    metrics_address: str = Field(
        "",
        description="`host:port` at which `GET /metrics` is answered without a key, for a collector inside. Unset: "
        "only beside everything else, for a key with `admin`.",
    )
    retention_results_seconds: RetentionSeconds = Field(
        30 * 24 * 3600,
        description="A finished task is kept so long, with its place in the log; then it is forgotten.",
    )
    retention_solutions_seconds: RetentionSeconds = Field(
        30 * 24 * 3600,
        description="Its solution is kept so long, with the bodies that brought it; then it is null, and "
        "`solutionRemoved` says so.",
    )
    retention_deliveries_seconds: RetentionSeconds = Field(
        7 * 24 * 3600,
        description="The bytes of a delivery are kept so long; those of unfinished tasks longer, for another try.",
    )
    max_finished_tasks: Annotated[int, Field(ge=1)] = Field(
        1_000_000, description="Finished tasks kept, some 2 kB each; the oldest go first, however young they are."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`json`: one object a line; `console`: for eyes."
    )

    @field_validator("port", mode="before")
    @classmethod
    def _is_no_service_link(cls, value: object) -> object:
        return 8080 if isinstance(value, str) and value.startswith("tcp://") else value

    @field_validator("providers_file", mode="before")
    @classmethod
    def _is_set(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("*", mode="before")
    @classmethod
    def _is_tidy(cls, value: object, info: ValidationInfo) -> object:
        """Editors and shells put a line break behind what they write. Runs before the validators above."""
        if isinstance(value, str) and info.field_name in _LISTS:
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
                raise ValueError(f"expected scheme://host or scheme://host:port in lower case, got {origin}")
        return value

    @field_validator("metrics_address")
    @classmethod
    def _is_host_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if value and not (host and colon and re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) and int(port) <= 65535):
            raise ValueError("expected host:port")
        return value

    @field_validator("database")
    @classmethod
    def _is_path(cls, value: Path) -> Path:
        if re.match(r"[a-z]+:/", str(value)):
            raise ValueError("expected the path of an SQLite file")
        return value

    @property
    def origins(self) -> frozenset[str]:
        """The origins of `allowed_origins`."""
        return frozenset(filter(None, map(str.strip, self.allowed_origins.split(","))))

    @property
    def metrics_host_port(self) -> tuple[str, int]:
        """The parts of `metrics_address`, which must be set."""
        host, _, port = self.metrics_address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def keys(self) -> Sequence[ApiKey]:
        """The API keys.

        Raises:
            CannotStartError: one is malformed; the text says which and how, without the secret.
        """
        return _parse_keys(self.api_keys.get_secret_value())

    @property
    def more_signing_keys(self) -> Sequence[bytes]:
        """The keys of `signing_keys`.

        Raises:
            CannotStartError: one is too short.
        """
        keys = [key.strip().encode() for key in self.signing_keys.get_secret_value().split(",") if key.strip()]
        for number, key in enumerate(keys, start=1):
            if len(key) < _SIGNING_KEY_MIN_BYTES:
                needed = f"at least {_SIGNING_KEY_MIN_BYTES} are needed"
                raise CannotStartError(f"{PREFIX}SIGNING_KEYS: key {number} has {len(key)} bytes, {needed}")
        return keys

    def check_exposure(self) -> None:
        """Refuses what would let strangers in.

        Raises:
            CannotStartError: there are no keys, and the receiver could be reached from elsewhere.
        """
        if self.keys:
            return
        if not self.allow_anonymous:
            raise CannotStartError(
                f"{PREFIX}API_KEYS: at least one key is needed, as name:secret; for a trial on this machine alone, "
                f"set {PREFIX}ALLOW_ANONYMOUS=true"
            )
        if not is_loopback(self.host):
            raise CannotStartError(f"{PREFIX}ALLOW_ANONYMOUS: {PREFIX}HOST is {self.host}, expected a loopback address")
        if self.public_url is not None and not is_loopback(urlsplit(self.public_url).hostname or ""):
            raise CannotStartError(
                f"{PREFIX}ALLOW_ANONYMOUS: {PREFIX}PUBLIC_URL is not on this machine; keys are needed"
            )


def load_settings(folder: Path, *, serves: bool = True) -> Settings:
    """Return the settings from the environment, from `folder`/.env and from the folder that RECEIVER_SECRETS_DIR names.

    Where the process is not going to serve, it does not matter whether strangers could reach it.

    Raises:
        CannotStartError: a variable is unknown or wrong; the text names it and what was expected.
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
    # Read for its error: later it would end a server that has begun to start.
    _ = settings.more_signing_keys
    return settings


def settings_table() -> str:
    """Return the settings as a Markdown table, for the README."""
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
        f"| `{_SECRETS_FOLDER}` | | A folder with a file for each secret, named like its variable. "
        "One that cannot be loaded ends the start. |"
    )
    return "\n".join(rows)


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine."""
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
        # Others' lines may stand beside ours. Left to itself, the library only warns and goes on without the setting.
        if binding.error and PREFIX in binding.original.string.upper():
            raise CannotStartError(f"{path}: line {binding.original.line}: expected NAME=value")
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}


def _read_secrets(folder: Path) -> dict[str, str]:
    """Return the settings in the folder, by the names of their files.

    A secret that is not loaded opens what it should close, so there is no going on without one. Names with a dot in
    front are not settings: Kubernetes keeps the files themselves in such folders, and the names are links to there.
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
        if name.lower() in _SECRETS:
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
        # Before Python 3.13 that is how a loop of links is told.
        raise CannotStartError(f"{path}: cannot be read ({os.strerror(errno.ELOOP)})") from None
    except BadArgumentError as error:
        raise CannotStartError(str(error)) from None


def _values(*sources: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings by field; later sources win, and JSON objects are merged."""
    values: dict[str, Any] = {}
    for source in sources:
        for name, text in source.items():
            field = name.upper().removeprefix(PREFIX).lower()
            if not name.upper().startswith(PREFIX) or field not in Settings.model_fields:
                continue
            value = text if field not in _OBJECTS else _parsed(name, text)
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
        # Without the prefix, which would make any two names alike.
        bare = [other.removeprefix(PREFIX) for other in known]
        near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), bare, n=1)
        meant = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise CannotStartError(f"{name}: there is no such setting{meant}")


def _sentence(detail: Any) -> str:
    name = f"{PREFIX}{str(detail['loc'][0]).upper()}" if detail["loc"] else "settings"
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}"


def _parse_keys(text: str) -> Sequence[ApiKey]:
    keys = [_parse_key(part.strip(), number) for number, part in enumerate(text.split(","), start=1) if part.strip()]
    for what, values in (("name", [key.name for key in keys]), ("secret", [key.digest for key in keys])):
        if len(set(values)) < len(values):
            raise CannotStartError(f"{PREFIX}API_KEYS: two keys have the same {what}")
    return keys


def _parse_key(text: str, number: int) -> ApiKey:
    where = f"{PREFIX}API_KEYS: key {number}"
    parts = text.split(":")
    if len(parts) not in (2, 3) or not re.fullmatch(r"[\w.-]{1,64}", parts[0], re.ASCII):
        raise CannotStartError(f"{where}: expected name:secret or name:secret:scopes")
    if len(parts[1]) < API_KEY_MIN_LENGTH:
        raise CannotStartError(f"{where} ({parts[0]}): the secret needs at least {API_KEY_MIN_LENGTH} characters")
    scopes = frozenset(parts[2].split("+")) if len(parts) == 3 else _DEFAULT_SCOPES
    if not scopes <= set(SCOPES):
        raise CannotStartError(f"{where} ({parts[0]}): expected scopes out of {', '.join(SCOPES)}, joined by +")
    return ApiKey(parts[0], hashlib.sha256(parts[1].encode()).digest(), scopes)
