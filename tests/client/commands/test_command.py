"""The command `solve`: the text on standard output, one clear line on standard error, documented exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from client.sandbox import Sandbox, SandboxSettings
from client.version import VERSION
from tests.client.support import AT_ONCE, PNG, QUICK, Reply, scripted_provider, solution_of
from tests.support import ADMIN, running_receiver

_TASK = {"type": "ImageToTextTask", "body": PNG}


async def run_command(*arguments: str, environ: Mapping[str, str], stdin: bytes = b"") -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error of the command."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("CALLBACK_RECEIVER")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client", *arguments, env={**others, **environ}, stdin=pipe, stdout=pipe, stderr=pipe
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def image(tmp_path: Path) -> str:
    """Return the path of an image."""
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    return str(path)


async def test_solves_an_image(image: str) -> None:
    """Only the text of the image is printed."""
    async with Sandbox("capsolver", AT_ONCE) as sandbox:
        ran = await run_command(
            "solve", image, "--provider", "capsolver", "--provider-url", sandbox.url, environ=_key("capsolver")
        )

    assert ran == (0, f"{solution_of(_TASK)['text']}\n", "")


@pytest.mark.parametrize("provider", ["twocaptchav1", "captchaai"])
async def test_solves_an_image_by_the_older_api(image: str, provider: str) -> None:
    """in.php gets the method for an image as text, and its bare answer is printed."""
    async with Sandbox(provider, AT_ONCE) as sandbox:
        ran = await run_command(
            *("solve", image, "--provider", provider, "--provider-url", sandbox.url), environ=_key(provider)
        )

    assert ran == (0, f"{solution_of({**_TASK, 'type': 'base64'}, provider)['code']}\n", "")


async def test_solves_standard_input_with_a_receiver(tmp_path: Path) -> None:
    """With a receiver in the environment the task is called back; `--json` prints it as one line."""
    async with running_receiver(tmp_path / "receiver.db") as receiver, Sandbox("capsolver", QUICK) as sandbox:
        code, out, err = await run_command(
            *("solve", "-", "--provider", "capsolver", "--provider-url", sandbox.url, "--json"),
            stdin=PNG,
            environ={**_key("capsolver"), "CALLBACK_RECEIVER_URL": receiver.url, "CALLBACK_RECEIVER_KEY": ADMIN},
        )

    (line,) = out.splitlines()
    assert (code, err, json.loads(line)["source"]) == (0, "", "callback")
    assert json.loads(line)["solution"] == solution_of(_TASK)


async def test_image_type_is_sent(image: str) -> None:
    """`--image-type` becomes the field imageType; a solution without a text is printed as JSON."""
    answer = {"errorId": 0, "taskId": "t", "status": "ready", "solution": {"objects": [1, 2]}}
    async with scripted_provider(createTask=Reply(answer)) as provider:
        code, out, _ = await run_command(
            *("solve", image, "--provider", "onecaptcha", "--provider-url", provider.url, "--image-type", "Yandex2025"),
            environ=_key("onecaptcha"),
        )

    assert (code, out) == (0, '{"objects":[1,2]}\n')
    assert provider.calls["createTask"][0]["task"]["imageType"] == "Yandex2025"


async def test_failed_task(image: str) -> None:
    """A failed task or provider is reported in one line, with exit code 1."""
    async with Sandbox("capsolver", SandboxSettings(client_keys=frozenset({"another"}))) as sandbox:
        ran = await run_command(
            "solve", image, "--provider", "capsolver", "--provider-url", sandbox.url, environ=_key("capsolver")
        )

    code, out, err = ran
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "ERROR_KEY_DOES_NOT_EXIST" in err
    assert _key("capsolver")["CAPSOLVER_CLIENT_KEY"] not in err


async def test_timed_out_task_as_json(image: str) -> None:
    """With `--json` a failed task is printed too, so that machines can read it."""
    async with Sandbox("capsolver", SandboxSettings(latency_seconds=(9.0, 9.0), async_images=True)) as sandbox:
        code, out, err = await run_command(
            *("solve", image, "--provider", "capsolver", "--provider-url", sandbox.url, "--timeout", "0.2", "--json"),
            environ=_key("capsolver"),
        )

    assert (code, json.loads(out)["errorCode"], len(err.splitlines())) == (1, "RECEIVER_NO_ANSWER", 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["solve", "IMAGE"], "Missing option '--provider'", id="no-provider"),
        pytest.param(["solve", "IMAGE", "--provider", "nope"], "unknown provider 'nope'", id="unknown-provider"),
        pytest.param(["solve", "IMAGE", "--provider", "capsolver"], "CAPSOLVER_CLIENT_KEY: expected", id="no-key"),
        pytest.param(["solve", "/missing.png", "--provider", "onecaptcha"], "--image-type", id="no-image-type"),
        pytest.param(
            ["solve", "/missing.png", "--provider", "onecaptcha", "--image-type", "x"],
            "/missing.png: cannot be read (No such file",
            id="unreadable-image",
        ),
        pytest.param(
            ["solve", "-", "--provider", "onecaptcha", "--image-type", "x"],
            "standard input: expected",
            id="empty",
        ),
        pytest.param(
            ["solve", "IMAGE", "--provider", "scrapeless"], "how it takes images is not known", id="no-images"
        ),
        pytest.param(["nothing"], "No such command 'nothing'", id="unknown-command"),
    ],
)
async def test_wrong_arguments(image: str, arguments: list[str], text: str) -> None:
    """Wrong arguments are reported in one line, with exit code 2."""
    given = [image if argument == "IMAGE" else argument for argument in arguments]

    code, out, err = await run_command(*given, environ={**_key("onecaptcha"), **_key("scrapeless")})

    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert text in err


async def test_help_tells_exit_codes() -> None:
    """The help names the exit codes and the variables."""
    code, out, _ = await run_command("solve", "--help", environ={})

    text = " ".join(out.split())
    assert code == 0
    assert "Exit codes: 0 solved, 1 the task or the provider failed, or standard output took no answer, 2 wrong" in text
    assert "CAPSOLVER_CLIENT_KEY" in text


async def test_sandbox_is_one_of_the_commands() -> None:
    """The sandbox is started by the same command."""
    code, out, _ = await run_command("sandbox", "--help", environ={})

    assert (code, "--dialect" in out) == (0, True)


async def test_help_lists_the_commands_in_the_order_of_use() -> None:
    """Each command has one whole line."""
    code, out, _ = await run_command("--help", environ={})

    lines = [line.split(maxsplit=1) for line in out.partition("Commands:\n")[2].splitlines()]
    assert code == 0
    assert [name for name, _ in lines] == ["demo", "sandbox", "solve", "watch", "report", "balance"]
    assert all(text.endswith(".") and not text.endswith("...") for _, text in lines)


async def test_console_script() -> None:
    """The installed script is the same program, and names itself and the version."""
    script = Path(sys.executable).with_name("callback-client")
    process = await asyncio.create_subprocess_exec(script, "--version", stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        out, _ = await process.communicate()

    assert (process.returncode, out.decode()) == (0, f"callback-client {VERSION}\n")


def _key(provider: str) -> Mapping[str, str]:
    return {f"{provider.upper()}_CLIENT_KEY": "tests-only-client-key"}
