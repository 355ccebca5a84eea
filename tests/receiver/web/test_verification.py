"""The file by which a provider sees that the host is the account's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import running_receiver


async def test_the_text_is_at_the_root(tmp_path: Path) -> None:
    """As plain text, also where the public URL has a path; HEAD and GET."""
    settings: dict[str, Any] = {"verification_text": "token-of-the-account", "public_url": "https://hooks.example/in"}
    async with running_receiver(tmp_path / "receiver.db", **settings) as api:
        answer = await api.send("GET", "/2captcha.txt", key=None)

    assert (answer.status, answer.body) == (200, b"token-of-the-account")
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_its_name_is_a_setting(tmp_path: Path) -> None:
    """That of other services is not known."""
    settings: dict[str, Any] = {"verification_text": "token", "verification_name": "rucaptcha.txt"}
    async with running_receiver(tmp_path / "receiver.db", **settings) as api:
        found = [(await api.send("GET", f"/{name}.txt", key=None)).status for name in ("rucaptcha", "2captcha")]

    assert found == [200, 404]


async def test_unless_it_is_set_there_is_nothing(tmp_path: Path) -> None:
    """404, like any other address."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        assert (await api.send("GET", "/2captcha.txt", key=None)).status == 404
