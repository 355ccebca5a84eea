"""Images become base64 without line breaks, and the error for anything else names it."""

from __future__ import annotations

import asyncio
import base64
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import BadArgumentError
from client.images import MAX_IMAGE_BYTES, clean_base64, with_encoded_body
from tests.client.support import PNG

_TEXT = base64.b64encode(PNG * 10).decode()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(PNG, id="png"),
        pytest.param(b"\xff\xd8\xff\xe0rest", id="jpeg"),
        pytest.param(b"GIF89a rest", id="gif"),
        pytest.param(b"RIFF\x10\x00\x00\x00WEBPrest", id="webp"),
        pytest.param(b"BMrest", id="bmp"),
    ],
)
async def test_bytes(raw: bytes) -> None:
    """The bytes of each kind of image are encoded."""
    task = await with_encoded_body({"type": "ImageToTextTask", "body": raw})

    assert base64.b64decode(task["body"], validate=True) == raw


async def test_path(tmp_path: Path) -> None:
    """A path stands for the content of its file. Even long base64 has no line breaks."""
    path = tmp_path / "image.png"
    path.write_bytes(PNG * 1000)

    task = await with_encoded_body({"type": "ImageToTextTask", "body": path, "module": "common"})

    assert task == {"type": "ImageToTextTask", "body": base64.b64encode(PNG * 1000).decode(), "module": "common"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_TEXT, id="plain"),
        pytest.param("\n".join(textwrap.wrap(_TEXT, 76)), id="with-line-breaks"),
        pytest.param(f"data:image/png;base64,{_TEXT}", id="data-url"),
        pytest.param(f"  DATA:image/png;base64,\r\n{_TEXT}\r\n", id="data-url-with-blanks"),
    ],
)
def test_base64(text: str) -> None:
    """Base64 of any form is accepted, and sent without the parts that providers refuse."""
    assert clean_base64(text, "body") == _TEXT


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"", "body: expected an image, got no bytes", id="empty-bytes"),
        pytest.param(b"%PDF-1.7", "body: expected PNG, JPEG", id="another-kind-of-file"),
        pytest.param(b"RIFF\x10\x00\x00\x00WAVE", "body: expected PNG, JPEG", id="sound-in-the-same-wrapping-as-webp"),
        pytest.param("", "body: expected an image, got no bytes", id="empty-text"),
        pytest.param("not base64!", "body: expected base64 of an image", id="no-base64"),
        pytest.param("päth", "body: expected base64 of an image", id="no-ascii"),
        pytest.param(_TEXT[:-1], "body: expected base64 of an image", id="cut-base64"),
        pytest.param(base64.b64encode(b"hello").decode(), "body: expected PNG, JPEG", id="base64-of-something-else"),
        pytest.param(17, "body: expected a path, bytes or base64, got int", id="a-number"),
        pytest.param(None, "body: expected a path, bytes or base64, got NoneType", id="nothing"),
        pytest.param(PNG + bytes(MAX_IMAGE_BYTES), "body: expected an image of at most 10485760 bytes", id="too-large"),
    ],
)
async def test_no_image(body: Any, text: str) -> None:
    """A body that is no image is refused before anything is sent, and the text names it."""
    with pytest.raises(BadArgumentError, match=text):
        await with_encoded_body({"type": "ImageToTextTask", "body": body})


async def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """The error names the path of a file that is missing, a folder, empty, too large or no image."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "large.png").write_bytes(PNG + bytes(MAX_IMAGE_BYTES))
    texts = {}

    for name in ("missing.png", ".", "empty.png", "text.png", "large.png"):
        with pytest.raises(BadArgumentError) as caught:
            await with_encoded_body({"type": "ImageToTextTask", "body": tmp_path / name})
        texts[name] = str(caught.value).removeprefix(str(tmp_path / name))

    assert texts == {
        "missing.png": ": cannot be read (No such file or directory)",
        ".": ": cannot be read (Is a directory)",
        "empty.png": ": expected an image, got no bytes",
        "text.png": ": expected PNG, JPEG, GIF, WebP or BMP, got other data",
        "large.png": f": expected at most {MAX_IMAGE_BYTES} bytes, got more",
    }


@pytest.mark.parametrize(
    "task",
    [
        pytest.param({"type": "ReCaptchaV2TaskProxyLess", "websiteURL": "https://example.com"}, id="no-body"),
        pytest.param({"type": "AudioTask", "body": "any text\n"}, id="text-of-another-type"),
    ],
)
async def test_other_tasks_stay_as_they_are(task: dict[str, Any]) -> None:
    """Tasks of other types may have any body, or none."""
    assert await with_encoded_body(task) == task


async def test_files_of_other_tasks_are_encoded_unseen(tmp_path: Path) -> None:
    """A recording is encoded as base64 without the check for an image."""
    path = tmp_path / "sound.mp3"
    path.write_bytes(b"ID3 sound")

    task = await with_encoded_body({"type": "AudioTask", "body": path})

    assert task["body"] == base64.b64encode(b"ID3 sound").decode()


@given(st.text() | st.binary())
def test_any_body_is_encoded_or_refused(body: str | bytes) -> None:
    """Any body becomes base64 of an image, or an error of ours."""
    task = {"type": "ImageToTextTask", "body": body}

    try:
        encoded = asyncio.run(with_encoded_body(task))["body"]
    except BadArgumentError:
        encoded = _TEXT

    assert base64.b64decode(encoded, validate=True)
