"""`callback-receiver doctor`: problems of a receiver with their remedies, and figures of each provider."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import click

from client.output import show, show_json
from receiver.commands.doctor.figures import figure_lines, figure_values
from receiver.commands.doctor.probes import read_facts
from receiver.errors import CannotStartError
from receiver.health.findings import Finding, judge
from receiver.health.monitor import receiver_name
from receiver.health.notices import Message
from receiver.health.services import open_services
from receiver.settings import Settings, load_settings

__all__ = ["doctor"]


@click.command(epilog="Exit codes: 0 no problems, 1 action needed, 2 the database or the settings cannot be read.")
@click.option("--test-notices", is_flag=True, help="Send a test message to RECEIVER_NOTICES, and do nothing else.")
@click.option("--json", "is_json", is_flag=True, help="Findings and figures as one line of JSON, for machines.")
def doctor(*, test_notices: bool, is_json: bool) -> None:
    """Find problems and show figures of each provider.

    The command reads the settings and the database file. It asks the receiver on this machine if it can store, and
    checks that a callback URL can be reached. It changes nothing.
    """
    settings = load_settings(Path.cwd(), serves=False)
    if test_notices:
        sys.exit(asyncio.run(_test_notices(settings)))
    facts = asyncio.run(read_facts(settings, now=time.time_ns() // 1000))
    findings = judge(facts)
    is_wrong = any(finding.is_wrong for finding in findings)
    if is_json:
        show_json(json.dumps({"findings": [_as_json(finding) for finding in findings]} | figure_values(facts)))
    else:
        for finding in findings:
            show(f"{'wrong' if finding.is_wrong else 'note '}  {finding.says}")
            show(f"       → {finding.todo}")
        for line in figure_lines(facts):
            show(line)
        show("Action needed." if is_wrong else "No problems found.")
    sys.exit(1 if is_wrong else 0)


async def _test_notices(settings: Settings) -> int:
    """Send a message to each service, once. Return 1 if one of them did not take it."""
    services = await open_services(settings.notice_urls)
    if not services:
        raise CannotStartError("RECEIVER_NOTICES: it is not set, so there is no service to test")
    message = Message(
        f"{receiver_name(settings)}: test", "This is a test. Notices of problems come this way.", is_problem=False
    )
    code = 0
    for service in services:
        reason = await service.send(message)
        show(f"{service.name}: sent" if reason is None else f"{service.name}: failed: {reason}")
        code = code if reason is None else 1
    return code


def _as_json(finding: Finding) -> dict[str, object]:
    return {"about": finding.about, "isWrong": finding.is_wrong, "says": finding.says, "todo": finding.todo}
