"""The documents agree with the code: their examples run, their tables are generated, their links have targets."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest
from aiohttp import web

from client.commands.demo import draw_picture
from client.providers import DIALECTS, read_providers
from client.providers.rules import CallbackShape
from client.providers.tables import ProviderTable
from client.sandbox import Sandbox, SandboxSettings
from client.sandbox.serving import serving
from receiver.app import create_app
from receiver.errors import PROBLEMS
from receiver.settings import Settings as ReceiverSettings
from receiver.settings import settings_table
from tests.curl import curl_requests
from tests.provider_page import PAGE
from tests.readme import RECEIVER_PAGE, SETTINGS, providers_table, receiver_tables
from tests.support import ADMIN, eventually, running_receiver

ROOT = Path(__file__).parent.parent
FOLDERS = ("", "client", "client/providers", "deploy", "receiver", "tests/benchmarks")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
PAGES = [path for path in DOCUMENTS if path.parent != ROOT]
README = (ROOT / "README.md").read_text()
CLIENT = (ROOT / "client" / "README.md").read_text()
DECLARING = (ROOT / "client" / "providers" / "DECLARING.md").read_text()
RECEIVER = (ROOT / "receiver" / "README.md").read_text()


async def test_the_example_runs(tmp_path: Path) -> None:
    """The Python of the README prints an answer for each image, by callback."""
    (tmp_path / "example.py").write_text(examples(README, "python")[0])
    (tmp_path / "images").mkdir()
    for number in range(3):
        draw_picture(tmp_path / "images" / f"{number}.png", number)
    settings = SandboxSettings(async_images=True, latency_seconds=(0.1, 0.3))
    async with running_receiver(tmp_path / "receiver.db") as api, Sandbox("capsolver", settings) as sandbox:
        variables = {
            "CAPSOLVER_CLIENT_KEY": "anything",
            "CAPSOLVER_URL": sandbox.url,
            "CALLBACK_RECEIVER_URL": api.url,
            "CALLBACK_RECEIVER_KEY": ADMIN,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "example.py", cwd=tmp_path, env=os.environ | variables, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(40):
            shown = (await process.communicate())[0].decode()

    assert process.returncode == 0
    assert shown.count("came by callback") == 3


@pytest.mark.parametrize("text", [README, RECEIVER], ids=["README.md", "receiver/README.md"])
async def test_two_requests_submit_and_wait(tmp_path: Path, text: str) -> None:
    """The curl commands of the documents submit a task and return its outcome."""
    (block,) = [shell for shell in examples(text, "sh") if "/v1/tasks" in shell]
    async with Sandbox("capsolver", SandboxSettings(async_images=True, latency_seconds=(0.1, 0.3))) as sandbox:
        accounts: dict[str, Any] = {
            "provider_keys": {"capsolver": "anything"},
            "provider_urls": {"capsolver": sandbox.url},
        }
        async with running_receiver(tmp_path / "receiver.db", **accounts) as api:
            variables = {"URL": api.url, "KEY": ADMIN}
            submit = curl_requests(block, variables)[0]
            made = await api.send(submit.method, submit.url, key=None, headers=submit.headers, data=submit.body)
            wait = curl_requests(block, variables | {"REF": made.json["ref"]})[1]
            ended = await api.send(wait.method, wait.url, key=None, headers=wait.headers)

    assert (made.status, ended.status, ended.json["status"]) == (201, 200, "ready")


async def test_the_example_that_only_reads_runs(tmp_path: Path) -> None:
    """The example prints a result with its tag."""
    (example,) = [code for code in examples(CLIENT, "python") if "read_results" in code]
    (tmp_path / "example.py").write_text(example)
    async with running_receiver(tmp_path / "receiver.db") as api:
        variables = {"CALLBACK_RECEIVER_URL": api.url, "CALLBACK_RECEIVER_KEY": ADMIN, "PYTHONUNBUFFERED": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "example.py", cwd=tmp_path, env=os.environ | variables, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            await eventually(lambda: api.streams == 1, seconds=40)
            task = await api.register(tags=["checkout"])
            await api.call_back(task["callbackUrl"])
            async with asyncio.timeout(40):
                shown = (await process.stdout.readline()).decode()
        finally:
            process.kill()
            await process.wait()

    assert shown.split()[:2] == [task["ref"], "ready"]


async def test_the_example_in_one_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application with a mounted receiver answers a request by a callback."""
    (example,) = [code for code in examples(CLIENT, "python") if "mount" in code]
    (tmp_path / "example.py").write_text(example)
    settings = SandboxSettings(async_images=True, latency_seconds=(0.1, 0.3))
    draw_picture(tmp_path / "image.png", 1)
    async with Sandbox("capsolver", settings) as sandbox:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            for name, value in {
                "CAPSOLVER_CLIENT_KEY": "anything",
                "CAPSOLVER_URL": sandbox.url,
                "RECEIVER_API_KEYS": f"tests:{ADMIN}",
                "RECEIVER_PUBLIC_URL": f"{url}/receiver",
            }.items():
                monkeypatch.setenv(name, value)
            monkeypatch.chdir(tmp_path)
            app = runpy.run_path("example.py")["app"]
            async with served(app, listener):
                answer = await posted(f"{url}/solve", (tmp_path / "image.png").read_bytes())

    assert answer["source"] == "callback"
    assert answer["text"]


def test_the_declaration_of_a_provider_is_read() -> None:
    """The TOML of the document declares a provider."""
    (example,) = examples(DECLARING, "toml")

    mine = read_providers(example.encode(), DIALECTS)["myprovider"]

    assert mine.callback is not None
    assert mine.callback.task_id == "missing"
    assert mine.codes["ERROR_TEAPOT"].pause_seconds == 30


def test_every_key_of_a_declaration_is_told() -> None:
    """Each key of the TOML format, and each form of callbacks, stands in its document."""
    schema = ProviderTable.model_json_schema()
    keys = {key for table in (schema, *schema["$defs"].values()) for key in table["properties"]}
    code = " ".join([*examples(DECLARING, "toml"), *re.findall(r"`[^`\n]+`", DECLARING)])

    assert {key for key in keys if not re.search(rf"\b{key}\b", code)} == set()
    assert {shape for shape in get_args(CallbackShape) if f'"{shape}"' not in DECLARING} == set()


@pytest.mark.parametrize(
    ("path", "name", "table"),
    [
        (PAGE, "providers", providers_table()),
        (SETTINGS, "settings", settings_table()),
        *((RECEIVER_PAGE, name, table) for name, table in receiver_tables().items()),
    ],
    ids=["providers", "settings", *receiver_tables()],
)
def test_tables_are_generated(path: Path, name: str, table: str) -> None:
    """Run `make docs` to renew them."""
    (shown,) = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", path.read_text(), re.DOTALL)

    assert shown == table


def test_every_route_is_told(tmp_path: Path) -> None:
    """Each route of the application stands in the receiver's table."""
    settings = ReceiverSettings(database=tmp_path / "receiver.db", _env_file=None)
    routes = {resource.canonical for resource in create_app(settings).router.resources()}

    # Callback URLs with extra slashes are described in words.
    assert {route for route in routes if f"{route}`" not in RECEIVER and not route.startswith("/{lead}")} == set()


def test_every_problem_status_is_told() -> None:
    """Each HTTP status of a problem stands in the receiver's document."""
    assert {problem.status for problem in PROBLEMS.values() if str(problem.status) not in RECEIVER} == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_begin_with_a_command(path: Path) -> None:
    """The command works from a checkout. Those of make are only looked up."""
    start = re.match(r"# .*\n\n```sh\n(.*?)(?: +#.*)?\n", path.read_text())
    assert start is not None
    program, *arguments = start[1].split()
    command = ["make", "--dry-run"] if program == "make" else [str(Path(sys.executable).parent / Path(program).name)]

    subprocess.run([*command, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=40)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    """The linked files and headings of a document exist, and so do the tests it names."""
    text = path.read_text()
    missing = set[str]()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, heading = target.partition("#")
        linked = (path.parent / name) if name else path
        if "://" not in target and not (linked.exists() and (not heading or heading in headings(linked))):
            missing.add(target)
    missing |= {
        name for name in re.findall(r"`((?:client|receiver|tests)/[\w/]+\.py)`", text) if not (ROOT / name).exists()
    }

    assert missing == set()


def examples(text: str, language: str) -> list[str]:
    """Return the code blocks of a language in a document."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def headings(path: Path) -> set[str]:
    """Return the anchors of the headings of a document."""
    lines = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@asynccontextmanager
async def served(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an application as `run_app` would."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    async with serving(runner, listener):
        yield


async def posted(url: str, body: bytes) -> Any:
    """Return the JSON of the answer to a POST."""
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        return await response.json()
