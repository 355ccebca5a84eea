"""`python -m tests.fuzzing [--seconds N] [--seed N]`: changed and made-up deliveries through every dialect, for a time.

It prints each failure with the seed, the provider and the bytes, and then ends with exit code 1.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import click
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from client.errors import UnreadableError
from client.providers import DIALECTS
from tests.client.providers.deliveries import CALLING, changed, check_delivery
from tests.client.providers.strategies import as_json, json_values
from tests.client.providers.wire_facts import ANSWERS

_EXAMPLES = 500
_SETTINGS = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.target, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long at least.")
@click.option("--seed", "first_seed", type=int, help="Where to begin; drawn and printed where not given.")
def main(*, seconds: float, first_seed: int | None) -> None:
    """Fuzz the dialects for a while."""
    number = random.randrange(2**32) if first_seed is None else first_seed
    click.echo(f"seed {number}")
    until, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for fuzz in (_deliveries, _answers):
            try:
                seed(number)(fuzz)()
            except Exception as error:
                click.echo(f"seed {number}: {fuzz.__name__.strip('_')}: {type(error).__name__}: {error}", err=True)
                for note in getattr(error, "__notes__", []):
                    click.echo(note, err=True)
                sys.exit(1)
        rounds, number = rounds + 1, number + 1
    click.echo(f"{rounds * _EXAMPLES * 2:,} messages for {len(DIALECTS)} providers, no finding")


@_SETTINGS
@given(sent=changed(), task_type=st.none() | st.text(max_size=20))
def _deliveries(sent: tuple[bytes, bytes], task_type: str | None) -> None:
    for provider in CALLING:
        check_delivery(DIALECTS[provider], *sent, task_type)


@_SETTINGS
@given(real=st.sampled_from(ANSWERS), noise=st.binary(max_size=4), place=st.integers(0, 300), other=json_values)
def _answers(real: Any, noise: bytes, place: int, other: Any) -> None:
    for raw in (real.raw[:place] + noise + real.raw[place + 1 :], as_json(other)):
        for dialect in DIALECTS.values():
            for read in (dialect.read_create_task, dialect.read_task_result, dialect.read_balance, dialect.read_report):
                try:
                    read(dialect.parse_answer(raw))
                except UnreadableError:
                    continue


if __name__ == "__main__":
    main()
