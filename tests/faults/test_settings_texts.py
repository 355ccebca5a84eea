"""Settings as editors, shells, Windows and secret stores write them: read as they are meant, or refused by name."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from client import TaskClient
from client.config.environment import read_receiver
from client.errors import BadArgumentError
from client.sandbox import Sandbox, SandboxSettings
from receiver.__main__ import main
from receiver.dialects import known_dialects
from receiver.errors import CannotStartError
from receiver.settings import Settings, load_settings
from tests.faults.commands import KEY, SECRET, Finished, run_command
from tests.receiver.storage.stores import running_store
from tests.support import running_receiver

SIGNING = "tests-only-signing-key-0123456789-0123"
TEXTS: Mapping[str, str] = {
    "HOST": "127.0.0.2",
    "PORT": "8099",
    "PUBLIC_URL": "https://callbacks.example.com/in",
    "DATABASE": "kept.db",
    "API_KEYS": KEY,
    "ALLOW_ANONYMOUS": "true",
    "SIGNING_KEYS": SIGNING,
    "PROVIDERS_FILE": "providers.toml",
    "CALLBACK_SECRETS": json.dumps({"capsolution": SECRET}),
    "PROVIDER_KEYS": json.dumps({"capsolver": SECRET}),
    "PROVIDER_URLS": json.dumps({"capsolver": "https://provider.example.com"}),
    "CONFIRM_CALLBACKS": "always",
    "VERIFICATION_NAME": "rucaptcha.txt",
    "VERIFICATION_TEXT": "token-of-the-account",
    "ALLOWED_ORIGINS": "https://app.example.com",
    "METRICS_ADDRESS": "127.0.0.1:9090",
    "NOTICES": "jsons://host.example/path?to=a,b,ntfys://host.example/topic",
    "MAX_BODY_BYTES": "2048",
    "CALLBACK_ADDRESSES": json.dumps({"capsolver": "192.0.2.0/24"}),
    "TRUSTED_PROXIES": "10.0.0.0/8",
    "SEND_TIMEOUT_SECONDS": "2.5",
    "LOG_FORMAT": "console",
}
OF_SOME = {
    name: json.loads(TEXTS[name])
    for name in ("CALLBACK_ADDRESSES", "CALLBACK_SECRETS", "PROVIDER_KEYS", "PROVIDER_URLS")
}
TOML = '[mine]\nlike = "capsolver"\n'
UTF_16 = "expected text in UTF-8, got UTF-16; save the file as UTF-8"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder to start in, with no setting in the environment; the command is `serve`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["callback-receiver", "serve"])
    for name in [name for name in os.environ if name.startswith("RECEIVER_")]:
        monkeypatch.delenv(name)
    return tmp_path


def loaded(monkeypatch: pytest.MonkeyPatch, folder: Path, **environment: str) -> Settings:
    """Return the settings in this environment, a key beside it."""
    with monkeypatch.context() as patch:
        for name, value in {"API_KEYS": KEY, **environment}.items():
            patch.setenv(f"RECEIVER_{name}", value)
        return load_settings(folder, serves=False)


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line of the refusal of `serve`."""
    with pytest.raises(SystemExit) as exited:
        main()
    return Finished(int(exited.value.code or 0), *capsys.readouterr()).refusal


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        (name, behind)
        for name in TEXTS
        for behind in ("\n", "\r\n", " \t", "\u00a0", "\ufeff")
        # Only the white space of JSON may surround it.
        if name not in OF_SOME or behind.isascii()
    ],
)
def test_white_space_around_a_setting_means_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, behind: str
) -> None:
    """White space before and after a value in the environment is removed (soliplex#1002)."""
    plain = loaded(monkeypatch, folder, **{name: TEXTS[name]})
    spaced = loaded(monkeypatch, folder, **{name: f"{behind}{TEXTS[name]}{behind}"})

    assert spaced == plain
    assert spaced.keys == plain.keys
    assert spaced.more_signing_keys == plain.more_signing_keys


@pytest.mark.parametrize("name", OF_SOME)
def test_white_space_around_a_value_in_json_means_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is removed around keys, secrets and addresses of single providers, and around the providers' names."""
    plain = loaded(monkeypatch, folder, **{name: TEXTS[name]})
    spaced = {f" {provider}\n": f"\t{value}\r\n" for provider, value in OF_SOME[name].items()}

    assert loaded(monkeypatch, folder, **{name: json.dumps(spaced, indent=2)}) == plain


@pytest.mark.parametrize("separator", [",", ", ", ",\n", "\r\n,"])
def test_lists_may_have_a_line_for_each_value(folder: Path, monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    """API keys, signing keys and origins may be separated by line breaks beside commas."""
    settings = loaded(
        monkeypatch,
        folder,
        API_KEYS=separator.join([KEY, f"more:{SECRET}2:admin"]),
        SIGNING_KEYS=separator.join([SIGNING, SIGNING[::-1]]),
        ALLOWED_ORIGINS=separator.join(["https://a.example", "https://b.example"]),
    )

    assert [key.name for key in settings.keys] == ["tests", "more"]
    assert settings.more_signing_keys == [SIGNING.encode(), SIGNING[::-1].encode()]
    assert settings.origins == {"https://a.example", "https://b.example"}


@pytest.mark.parametrize("inside", ["\n", "\t", "\x1b", "\x7f", "\u0085", "\u2028", "\u202e", "\u200b"])
@pytest.mark.parametrize(
    "name", ["PUBLIC_URL", "API_KEYS", "SIGNING_KEYS", "VERIFICATION_TEXT", "DATABASE", "PROVIDERS_FILE", "HOST"]
)
def test_what_cannot_be_seen_inside_a_setting_is_refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    inside: str,
) -> None:
    """The refusal names the variable, without its value."""
    monkeypatch.setenv("RECEIVER_API_KEYS", KEY)
    monkeypatch.setenv(f"RECEIVER_{name}", TEXTS[name][:-2] + inside + TEXTS[name][-2:])

    line = f"RECEIVER_{name}: expected one line, without control characters or other invisible ones"
    assert refused(capsys) == line
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("CALLBACK_SECRETS", f"{SECRET}\n{SECRET}", "expected one line, without control", id="secret"),
        pytest.param("PROVIDER_KEYS", f"{SECRET}\x00", "expected one line, without control", id="NUL"),
        pytest.param("PROVIDER_KEYS", "two words", "expected a key of visible ASCII characters", id="blank"),
        pytest.param("PROVIDER_KEYS", "ключ-клиента", "expected a key of visible ASCII characters", id="not ASCII"),
        pytest.param("PROVIDER_URLS", "https://a.example/\nb", "expected one line, without control", id="address"),
    ],
)
def test_what_a_provider_cannot_have_is_refused_by_its_name(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    expected: str,
) -> None:
    """The refusal names the variable and the provider, without the value."""
    monkeypatch.setenv("RECEIVER_API_KEYS", KEY)
    monkeypatch.setenv(f"RECEIVER_{name}", json.dumps({"scrapeless": value}))

    assert refused(capsys).startswith(f"RECEIVER_{name}: scrapeless: {expected}")


@pytest.mark.parametrize("provider", ["capsolver", "scrapeless"])
async def test_a_key_with_a_line_break_behind_it_is_the_key(tmp_path: Path, provider: str) -> None:
    """The provider accepts the key without the line break, in bodies and in headers (soliplex#1002)."""
    body: dict[str, Any] = {"type": "captcha.recaptcha"} if provider == "scrapeless" else {"type": "AntiTurnstileTask"}
    async with (
        Sandbox(provider, SandboxSettings(client_keys=frozenset({"the-key"}), latency_seconds=(60.0, 60.0))) as sandbox,
        running_receiver(
            tmp_path / "receiver.db",
            provider_keys={provider: "the-key\n"},
            provider_urls={provider: f"{sandbox.url}\r\n"},
        ) as api,
    ):
        answer = await api.send("POST", "/v1/tasks", json={"provider": provider, "task": body})

    assert (answer.status, answer.json["taskId"] is not None) == (201, True), answer.body


async def test_a_callback_url_is_one_line(tmp_path: Path) -> None:
    """The URL is one line even if the public URL ends with a line break, in a file or in the environment."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "RECEIVER_PUBLIC_URL").write_text("https://from.example/secret\r\n")
    async with running_store(tmp_path / "receiver.db"):
        pass

    from_file = await run_command(tmp_path, "callback-url", "capsolver", SECRETS_DIR="secrets\n")
    from_environment = await run_command(tmp_path, "callback-url", "capsolver", PUBLIC_URL="https://from.example/e\n")

    assert from_file.out.startswith("https://from.example/secret/callback/capsolver/")
    assert from_environment.out.startswith("https://from.example/e/callback/capsolver/")
    assert (from_file.out + from_environment.out).count("\n") == 2


async def test_the_variables_of_the_client_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and addresses lose white space around them. A variable of white space alone counts as not set."""
    monkeypatch.setenv("CAPSOLVER_URL", "http://127.0.0.1:9/\n")
    monkeypatch.setenv("CAPSOLVER_CLIENT_KEY", "the-key\r\n")
    monkeypatch.setenv("CALLBACK_RECEIVER_PROVIDERS_FILE", " \n")

    assert TaskClient("capsolver")
    environ = {"CALLBACK_RECEIVER_URL": "\thttps://from.example/\n", "CALLBACK_RECEIVER_KEY": f"{SECRET} \n"}
    assert read_receiver(None, None, environ) == ("https://from.example", SECRET)
    assert read_receiver(f"{environ['CALLBACK_RECEIVER_URL']}", f"{SECRET}\n", {}) == ("https://from.example", SECRET)
    with pytest.raises(BadArgumentError, match="CALLBACK_RECEIVER_URL: expected one line"):
        read_receiver(None, None, {"CALLBACK_RECEIVER_URL": "https://from\n.example"})


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_files_that_people_edit_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mark: bytes, end: bytes
) -> None:
    """Provider files of both halves, .env and secrets are read as Windows' editors save them (lm-proxy#79)."""

    def save(path: Path, text: str) -> None:
        path.write_bytes(mark + text.encode().replace(b"\n", end))

    save(folder / "providers.toml", TOML)
    (folder / "secrets").mkdir()
    save(folder / "secrets" / "RECEIVER_SIGNING_KEYS", SIGNING + "\n")
    save(folder / "secrets" / "RECEIVER_CALLBACK_SECRETS", TEXTS["CALLBACK_SECRETS"] + "\n")
    save(
        folder / ".env",
        f"RECEIVER_PROVIDERS_FILE=providers.toml\nRECEIVER_SECRETS_DIR=secrets\nRECEIVER_API_KEYS={KEY}\n",
    )
    monkeypatch.setenv("CALLBACK_RECEIVER_PROVIDERS_FILE", "providers.toml")

    settings = load_settings(folder)

    assert settings.keys
    assert settings.more_signing_keys == [SIGNING.encode()]
    assert settings.callback_secrets["capsolution"].get_secret_value() == SECRET
    assert declared_provider(settings) == "mine"
    assert TaskClient("mine", client_key="k", provider_url="http://127.0.0.1:9")


def declared_provider(settings: Settings) -> str:
    """Return the provider of the file."""
    return known_dialects(settings)["mine"].provider


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("where", ["providers.toml", ".env", "secrets/RECEIVER_SIGNING_KEYS"])
def test_another_encoding_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, encoding: str
) -> None:
    """The text names the file and the remedy. Notepad's Unicode and PowerShell's redirection are UTF-16."""
    (folder / "secrets").mkdir()
    (folder / where).write_text({"providers.toml": TOML, ".env": "RECEIVER_PORT=1\n"}.get(where, SIGNING), encoding)
    monkeypatch.setenv("RECEIVER_API_KEYS", KEY)
    monkeypatch.setenv("RECEIVER_SECRETS_DIR", "secrets")
    if where == "providers.toml":
        monkeypatch.setenv("RECEIVER_PROVIDERS_FILE", where)

    assert refused(capsys).endswith(f"{where}: {UTF_16}")
    if where == "providers.toml":
        monkeypatch.setenv("CALLBACK_RECEIVER_PROVIDERS_FILE", where)
        with pytest.raises(BadArgumentError, match=f"^{where}: {UTF_16}"):
            TaskClient("mine", client_key="k")


def test_a_line_of_dotenv_that_cannot_be_read_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken line with a setting of ours is refused. Lines of other programs may be anything."""
    (folder / ".env").write_text(f"if [ -f x ]; then\nRECEIVER_API_KEYS='{KEY}\n")
    assert refused(capsys).endswith(".env: line 2: expected NAME=value")

    (folder / ".env").write_text(f"if [ -f x ]; then\nRECEIVER_API_KEYS='{KEY}'\n")
    assert load_settings(folder).keys


def directory(path: Path) -> None:
    """Make a folder instead of a file."""
    path.mkdir()


def link_out(path: Path) -> None:
    """Make a link to a file elsewhere."""
    (path.parent.parent / "elsewhere").write_text(TEXTS["CALLBACK_SECRETS"])
    path.symlink_to("../elsewhere")


def link_to_nothing(path: Path) -> None:
    """Make a link to a missing file."""
    path.symlink_to("gone")


def link_to_itself(path: Path) -> None:
    """Make a loop of links."""
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    """Make a pipe without a writer."""
    os.mkfifo(path)


def too_large(path: Path) -> None:
    """Write more than any secret has."""
    path.write_text(" " * 300_000)


def not_text(path: Path) -> None:
    """Write bytes outside UTF-8."""
    path.write_bytes(b"\xff" * 32)


def two_files(path: Path) -> None:
    """Write the same setting twice."""
    path.write_text(TEXTS["CALLBACK_SECRETS"])
    path.with_name(path.name.lower()).write_text(TEXTS["CALLBACK_SECRETS"])


def no_prefix(path: Path) -> None:
    """Name the file without RECEIVER_."""
    path.with_name("callback_secrets").write_text(TEXTS["CALLBACK_SECRETS"])


def suffix(path: Path) -> None:
    """Name the file as an editor may do."""
    path.with_name(f"{path.name}.txt").write_text(TEXTS["CALLBACK_SECRETS"])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (directory, "CALLBACK_SECRETS: expected a file"),
        (link_out, "CALLBACK_SECRETS: it is a link out of the folder; put the file itself there"),
        (link_to_nothing, "CALLBACK_SECRETS: cannot be read (No such file or directory)"),
        (link_to_itself, "CALLBACK_SECRETS: cannot be read (Too many levels of symbolic links)"),
        (pipe, "CALLBACK_SECRETS: expected a file"),
        (too_large, "CALLBACK_SECRETS: expected at most 262144 bytes"),
        (not_text, "CALLBACK_SECRETS: expected text in UTF-8, but byte 1 is not UTF-8"),
        (two_files, "receiver_callback_secrets: there is another file for RECEIVER_CALLBACK_SECRETS"),
        (no_prefix, "callback_secrets: expected the name of the variable, RECEIVER_CALLBACK_SECRETS"),
        (
            suffix,
            "RECEIVER_CALLBACK_SECRETS.txt: there is no such setting; did you mean RECEIVER_CALLBACK_SECRETS?",
        ),
    ],
)
def test_a_secret_that_cannot_be_loaded_ends_the_start(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
    reason: str,
) -> None:
    """Without the secret, unsigned callbacks would be accepted. So the start ends, with the file and the reason."""
    (folder / "secrets").mkdir()
    make(folder / "secrets" / "RECEIVER_CALLBACK_SECRETS")
    monkeypatch.setenv("RECEIVER_API_KEYS", KEY)
    monkeypatch.setenv("RECEIVER_SECRETS_DIR", "secrets")

    assert refused(capsys).endswith(reason)
    assert not list(folder.glob("*.db*"))


def test_a_secrets_folder_of_kubernetes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are links to a hidden folder beside them. Secrets of other programs are ignored."""
    hidden = folder / "secrets" / "..2026_11_26_10_00_00.123456789"
    hidden.mkdir(parents=True)
    (folder / "secrets" / "..data").symlink_to(hidden.name)
    for name in ("receiver_callback_secrets", "RECEIVER_SIGNING_KEYS", "db-password"):
        (hidden / name).write_text(TEXTS["CALLBACK_SECRETS"] if "secrets" in name else f"{SIGNING}\n")
        (folder / "secrets" / name).symlink_to(Path("..data") / name)
    # Mounts are often reached by a link themselves.
    (folder / "run").symlink_to("secrets")

    settings = loaded(monkeypatch, folder, SECRETS_DIR="run")

    assert settings.callback_secrets["capsolution"].get_secret_value() == SECRET
    assert settings.more_signing_keys == [SIGNING.encode()]


def test_secrets_of_several_sources_are_taken_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of one provider comes from a file, the key of another from the environment."""
    (folder / "secrets").mkdir()
    (folder / "secrets" / "RECEIVER_PROVIDER_KEYS").write_text(json.dumps({"capsolver": "a", "scrapeless": "b"}))

    settings = loaded(monkeypatch, folder, SECRETS_DIR="secrets", PROVIDER_KEYS='{"capsolver": "c"}')

    keys = {provider: key.get_secret_value() for provider, key in settings.provider_keys.items()}
    assert keys == {"capsolver": "c", "scrapeless": "b"}


def test_a_folder_of_secrets_is_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the place of the folder is refused."""
    (folder / "secrets").touch()

    with pytest.raises(CannotStartError, match="RECEIVER_SECRETS_DIR: there is no folder secrets"):
        loaded(monkeypatch, folder, SECRETS_DIR="secrets")
