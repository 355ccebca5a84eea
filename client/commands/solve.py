"""The command `solve`: one image in, its text out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from pydantic_core import to_json
from rich.console import Console
from rich.text import Text

from client.config.arguments import GivenArguments, read_arguments
from client.config.environment import RECEIVER_URL, read_variable
from client.errors import BadArgumentError, TaskFailedError
from client.images import MAX_IMAGE_BYTES, check_image, read_image
from client.output import CannotShowError, check_output, printable, show_exactly, show_json, tell
from client.protocol.models import Task
from client.providers import DIALECTS
from client.signals import run_interruptibly
from client.tasks import TaskClient

__all__ = ["solve"]

_NEEDS_IMAGE_TYPE = frozenset({"onecaptcha"})
_EXIT_CODES = (
    "Exit codes: 0 solved, 1 the task or the provider failed, or standard output took no answer, 2 wrong arguments, "
    "130 interrupted."
)


@click.command(epilog=_EXIT_CODES, short_help="Submit an image and print its text.")
@click.argument("image", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--provider", required=True, help=f"One of {', '.join(sorted(DIALECTS))}.")
@click.option(
    "--provider-url", metavar="URL", help="Another endpoint of the provider, or a sandbox; also <PROVIDER>_URL."
)
@click.option("--image-type", metavar="TYPE", help="The field imageType; onecaptcha needs it.")
@click.option("--app-id", metavar="ID", help="The field appId (capsolver).")
@click.option("--timeout", type=float, metavar="SECONDS", help="Give up on the task after this time.")
@click.option("--json", "is_json", is_flag=True, help="Print the finished task as one line of JSON.")
def solve(image: Path, provider: str, image_type: str | None, is_json: bool, **options: Any) -> None:
    """Submit IMAGE (PNG, JPEG, GIF, WebP or BMP; - for standard input) and print its text.

    The client key is read from <PROVIDER>_CLIENT_KEY, as in CAPSOLVER_CLIENT_KEY. With CALLBACK_RECEIVER_URL (and
    CALLBACK_RECEIVER_KEY) the task is registered there and called back; without, it is polled.
    """
    task_type = _image_task_type(provider, options["provider_url"])
    client = TaskClient(
        provider,
        provider_url=options["provider_url"],
        app_id=options["app_id"],
        timeout_seconds=options["timeout"],
    )
    if image_type is None and provider in _NEEDS_IMAGE_TYPE:
        raise BadArgumentError(f"--image-type: {provider} needs it")
    task = {"type": task_type, "body": _read(image)}
    if image_type is not None:
        task["imageType"] = image_type
    check_output()
    try:
        solved = run_interruptibly(_solve(client, provider, task))
    except TaskFailedError as error:
        if is_json:
            show_json(error.task.model_dump_json(by_alias=True))
        raise
    try:
        if is_json:
            show_json(solved.model_dump_json(by_alias=True))
        else:
            show_exactly(_text_of(solved.solution))
    except CannotShowError:
        tell(
            f"client: the answer to {provider} task {solved.task_id} was not shown; while the provider keeps it, "
            "TaskClient.attach gets it again"
        )
        raise


def _image_task_type(provider: str, provider_url: str | None) -> str:
    """Return the provider's type for an image task."""
    dialect = read_arguments(GivenArguments(provider=provider, provider_url=provider_url), None, os.environ).dialect
    task_type = dialect.image_type
    if task_type is None:
        raise BadArgumentError(f"{provider}: how it takes images is not known")
    return task_type


def _read(image: Path) -> bytes:
    if str(image) != "-":
        return read_image(image)
    if sys.stdin is None:
        raise BadArgumentError("standard input: it is closed")
    try:
        raw = sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise BadArgumentError(f"standard input: cannot be read: {error.strerror}") from None
    check_image(raw, "standard input")
    return raw


async def _solve(client: TaskClient, provider: str, task: dict[str, Any]) -> Task:
    waiting_for = "waiting for the callback or a poll" if read_variable(RECEIVER_URL, os.environ) else "polling"
    with Console(stderr=True).status(f"submitting to {provider}") as status:
        async with client as tasks:
            submitted = await tasks.submit(task)
            # A text, because brackets in an id would be taken for markup.
            status.update(Text(printable(f"{provider} has task {submitted.task_id}: {waiting_for}")))
            return await submitted.result()


def _text_of(solution: Any) -> str:
    """Return the text of an image; any other solution as JSON."""
    if isinstance(solution, dict):
        for name in ("text", "code", "gRecaptchaResponse"):
            if isinstance(solution.get(name), str):
                return str(solution[name])
    return solution if isinstance(solution, str) else to_json(solution).decode()
