"""Images become base64 without line breaks, and what is none is named."""

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
    """The bytes of every kind of image are encoded."""
    task = await with_encoded_body({"type": "ImageToTextTask", "body": raw})

    assert base64.b64decode(task["body"], validate=True) == raw


async def test_path(tmp_path: Path) -> None:
    """A path stands for what is in the file, however large the base64 gets: it has no line breaks."""
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
    """Base64 is taken as people keep it, and sent without what providers refuse."""
    assert clean_base64(text, "body") == _TEXT


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b"", "body: it is empty", id="empty-bytes"),
        pytest.param(b"%PDF-1.7", "body: not an image", id="another-kind-of-file"),
        pytest.param(b"RIFF\x10\x00\x00\x00WAVE", "body: not an image", id="sound-in-the-same-wrapping-as-webp"),
        pytest.param("", "body: it is empty", id="empty-text"),
        pytest.param("not base64!", "body: not base64", id="no-base64"),
        pytest.param("päth", "body: not base64", id="no-ascii"),
        pytest.param(_TEXT[:-1], "body: not base64", id="cut-base64"),
        pytest.param(base64.b64encode(b"hello").decode(), "body: not an image", id="base64-of-something-else"),
        pytest.param(17, "body: expected a path, bytes or base64, got int", id="a-number"),
        pytest.param(None, "body: expected a path, bytes or base64, got NoneType", id="nothing"),
        pytest.param(PNG + bytes(MAX_IMAGE_BYTES), "body: more than", id="too-large"),
    ],
)
async def test_no_image(body: Any, said: str) -> None:
    """What is no image is refused before anything is sent, and the text says what it is."""
    with pytest.raises(BadArgumentError, match=said):
        await with_encoded_body({"type": "ImageToTextTask", "body": body})


async def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A file that is not there, is a folder, empty, too large or no image is named by its path."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "large.png").write_bytes(PNG + bytes(MAX_IMAGE_BYTES))
    said = {}

    for name in ("missing.png", ".", "empty.png", "text.png", "large.png"):
        with pytest.raises(BadArgumentError) as caught:
            await with_encoded_body({"type": "ImageToTextTask", "body": tmp_path / name})
        said[name] = str(caught.value).removeprefix(str(tmp_path / name))

    assert said == {
        "missing.png": ": cannot be read: No such file or directory",
        ".": ": cannot be read: Is a directory",
        "empty.png": ": it is empty",
        "text.png": ": not an image, expected PNG, JPEG, GIF, WebP or BMP",
        "large.png": f": more than {MAX_IMAGE_BYTES} bytes",
    }


@pytest.mark.parametrize(
    "task",
    [
        pytest.param({"type": "ReCaptchaV2TaskProxyLess", "websiteURL": "https://example.com"}, id="no-body"),
        pytest.param({"type": "AudioTask", "body": "any text\n"}, id="text-of-another-type"),
    ],
)
async def test_other_tasks_stay_as_they_are(task: dict[str, Any]) -> None:
    """What is no image task may have any body, or none."""
    assert await with_encoded_body(task) == task


async def test_files_of_other_tasks_are_encoded_unseen(tmp_path: Path) -> None:
    """A recording is sent as base64 too, and need not be an image."""
    path = tmp_path / "sound.mp3"
    path.write_bytes(b"ID3 sound")

    task = await with_encoded_body({"type": "AudioTask", "body": path})

    assert task["body"] == base64.b64encode(b"ID3 sound").decode()


@given(st.text() | st.binary())
def test_any_body_is_encoded_or_refused(body: str | bytes) -> None:
    """Whatever the body, it becomes base64 of an image or our error."""
    task = {"type": "ImageToTextTask", "body": body}

    try:
        encoded = asyncio.run(with_encoded_body(task))["body"]
    except BadArgumentError:
        encoded = _TEXT

    assert base64.b64decode(encoded, validate=True)
