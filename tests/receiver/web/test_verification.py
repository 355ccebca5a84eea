"""The file that proves to a provider that the host belongs to the account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import running_receiver


async def test_the_text_is_at_the_root(tmp_path: Path) -> None:
    """GET and HEAD find the text at the root, as plain text, also if the public URL has a path."""
    settings: dict[str, Any] = {"verification_text": "token-of-the-account", "public_url": "https://hooks.example/in"}
    async with running_receiver(tmp_path / "receiver.db", **settings) as api:
        answer = await api.send("GET", "/2captcha.txt", key=None)
        head = await api.send("HEAD", "/2captcha.txt", key=None)

    assert (answer.status, answer.body) == (200, b"token-of-the-account")
    assert (head.status, head.body) == (200, b"")
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_its_name_is_a_setting(tmp_path: Path) -> None:
    """The name is a setting, because those of other services are not known."""
    settings: dict[str, Any] = {"verification_text": "token", "verification_name": "rucaptcha.txt"}
    async with running_receiver(tmp_path / "receiver.db", **settings) as api:
        found = [(await api.send("GET", f"/{name}.txt", key=None)).status for name in ("rucaptcha", "2captcha")]

    assert found == [200, 404]


async def test_its_name_hides_no_other_route(tmp_path: Path) -> None:
    """A file with the name of another route is not served."""
    settings: dict[str, Any] = {"verification_text": "token", "verification_name": "healthz"}
    async with running_receiver(tmp_path / "receiver.db", **settings) as api:
        assert (await api.send("GET", "/healthz", key=None)).json == {"status": "alive"}


async def test_unless_it_is_set_there_is_nothing(tmp_path: Path) -> None:
    """Without a text the path is 404, like any other."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        assert (await api.send("GET", "/2captcha.txt", key=None)).status == 404
