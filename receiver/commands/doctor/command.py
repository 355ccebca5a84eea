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
from receiver.health.findings import Finding, judge
from receiver.settings import load_settings

__all__ = ["doctor"]


@click.command(epilog="Exit codes: 0 no problems, 1 action needed, 2 the database or the settings cannot be read.")
@click.option("--json", "is_json", is_flag=True, help="Findings and figures as one line of JSON, for machines.")
def doctor(is_json: bool) -> None:
    """Find problems and show figures of each provider.

    The command reads the settings and the database file. It asks the receiver on this machine if it can store, and
    checks that a callback URL can be reached. It changes nothing.
    """
    facts = asyncio.run(read_facts(load_settings(Path.cwd(), serves=False), now=time.time_ns() // 1000))
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


def _as_json(finding: Finding) -> dict[str, object]:
    return {"about": finding.about, "isWrong": finding.is_wrong, "says": finding.says, "todo": finding.todo}
