"""deploy/environment.example, as the receiver reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from receiver.errors import CannotStartError
from receiver.settings import Settings, load_settings
from tests.deploy.files import ENVIRONMENT, settings_in

KEY = "tests-only-key-0123456789"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, in an environment without settings."""
    for name in [name for name in os.environ if name.upper().startswith("RECEIVER_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_it_names_only_real_settings() -> None:
    """Every variable in the file is a setting, even if it is commented out."""
    names = {*settings_in(ENVIRONMENT, active=True), *settings_in(ENVIRONMENT, active=False)}

    assert names - {f"RECEIVER_{name.upper()}" for name in Settings.model_fields} == set()


def test_it_names_what_matters() -> None:
    """Necessary settings are active lines, and rare ones are comments."""
    assert settings_in(ENVIRONMENT, active=True).keys() == {
        "RECEIVER_HOST",
        "RECEIVER_PORT",
        "RECEIVER_TRUSTED_PROXIES",
        "RECEIVER_PUBLIC_URL",
        "RECEIVER_DATABASE",
    }
    assert settings_in(ENVIRONMENT, active=False).keys() == {
        "RECEIVER_API_KEYS",
        "RECEIVER_ALLOWED_ORIGINS",
        "RECEIVER_ALLOW_ANONYMOUS",
        "RECEIVER_SIGNING_KEYS",
        "RECEIVER_CALLBACK_SECRETS",
        "RECEIVER_MAX_BODY_BYTES",
        "RECEIVER_KEEPALIVE_SECONDS",
        "RECEIVER_RETENTION_RESULTS_SECONDS",
        "RECEIVER_RETENTION_SOLUTIONS_SECONDS",
        "RECEIVER_RETENTION_DELIVERIES_SECONDS",
        "RECEIVER_MAX_FINISHED_TASKS",
        "RECEIVER_NOTICES",
        "RECEIVER_CANARY_MINUTES",
        "RECEIVER_METRICS_ADDRESS",
        "RECEIVER_LOG_FORMAT",
    }


def test_it_does_not_start_without_a_key(folder: Path) -> None:
    """Without one in the file or in the database the receiver refuses, and names the setting."""
    (folder / ".env").write_text(ENVIRONMENT.replace("/var/lib/callback-receiver", str(folder)))

    with pytest.raises(CannotStartError, match="RECEIVER_API_KEYS: at least one key is needed"):
        load_settings(folder)


def test_it_is_valid_once_a_key_is_in(folder: Path) -> None:
    """The file lacks nothing but a key."""
    (folder / ".env").write_text(ENVIRONMENT.replace("#RECEIVER_API_KEYS=\n", f"RECEIVER_API_KEYS=worker:{KEY}\n"))

    settings = load_settings(folder)

    assert [key.name for key in settings.keys] == ["worker"]
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.public_url == "https://callbacks.example.org"
    assert settings.database == Path("/var/lib/callback-receiver/receiver.db")


def test_what_is_commented_out_is_the_default(folder: Path) -> None:
    """The settings stay the same without the comment marks."""
    (folder / ".env").write_text(ENVIRONMENT)
    as_shipped = load_settings(folder, serves=False)
    (folder / ".env").write_text(ENVIRONMENT.replace("\n#RECEIVER_", "\nRECEIVER_"))

    assert load_settings(folder, serves=False) == as_shipped
