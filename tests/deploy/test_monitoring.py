"""deploy/monitoring: rules and dashboard name existing metrics, and every alert fires and stays silent as it should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from client.providers import DIALECTS
from receiver.domain.records import SECOND, WaitingTasks
from receiver.domain.verdicts import VERDICTS
from receiver.metrics import Metrics, Moment
from tests.deploy.files import MONITORING, OPERATING
from tests.tools import tool

CASES = Path(__file__).with_name("alert_cases.yaml")
RULES = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())

FROM_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": set[str]()}
_OF_SERVER = {"job", "instance", "server"}
FROM_EXPORTER = {
    "pg_up": _OF_SERVER,
    "pg_settings_max_connections": _OF_SERVER,
    "pg_stat_database_numbackends": {*_OF_SERVER, "datid", "datname"},
    "pg_stat_activity_max_tx_duration": {*_OF_SERVER, "datname", "state"},
    "pg_stat_replication_pg_wal_lsn_diff": {*_OF_SERVER, "application_name", "client_addr", "slot_name", "state"},
    "pg_stat_archiver_failed_count": _OF_SERVER,
}
"""The metrics of postgres_exporter 0.11 and newer, as far as rules use them."""
_NAME = re.compile(r"\b(callback_receiver_\w+|process_\w+|pg_\w+|up|ALERTS)\b(?:\{([^}]*)\})?")


def promtool(*arguments: str) -> None:
    """Run Prometheus's own check. It has to succeed."""
    program = tool("promtool", package="prometheus")
    done = subprocess.run(
        [program, *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def labels_of_metrics() -> dict[str, set[str]]:
    """Return the labels of each sample of a receiver that has counted everything once."""
    metrics = Metrics(DIALECTS)
    metrics.delivered("capsolver", "accepted", None)
    metrics.refused("capsolver", 503)
    metrics.polled("capsolver", "contradicted")
    metrics.unlisted("capsolver", "ODD")
    metrics.connection_closed("full")
    metrics.balance("capsolver", 4.5, 5)
    metrics.noticed("lost")
    metrics.attempted("delayed")
    metrics.limited("address")
    waiting = WaitingTasks("capsolver", 1, None, called_since=0)
    moment = Moment(waiting=[waiting], waiters=0, streams=0, queued=0, is_failing=False, now=SECOND)
    text = metrics.rendered(moment).decode()
    found = {
        sample.name: {*sample.labels, "job", "instance"}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    # Without a count so far, a metric with labels has no sample. Its labels are in its registration.
    for name, labels in (
        ("outcomes_total", {"provider", "source", "status"}),
        ("callback_latency_seconds_bucket", {"provider", "le"}),
        *((name, {"provider"}) for name in ("polled_answers_total", "late_callbacks_total", "stale_answers_total")),
        *((name, {"provider"}) for name in ("polls_total", "polls_allowed_total")),
    ):
        assert f"# HELP callback_receiver_{name.removesuffix('_bucket')} " in text, name
        found.setdefault(f"callback_receiver_{name}", {*labels, "job", "instance"})
    return found


def expressions() -> Iterator[str]:
    """Yield all queries of the rules and the dashboard."""
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    yield from (entry["expr"] for entry in DASHBOARD["annotations"]["list"] if "expr" in entry)
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


def test_every_query_names_existing_metrics_and_labels() -> None:
    """A renamed metric or label would silence an alert without an error."""
    known = FROM_PROMETHEUS | FROM_EXPORTER | labels_of_metrics()
    unknown = set()
    for expression in expressions():
        names = _NAME.findall(expression)
        assert names, expression
        for name, matchers in names:
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            if name not in known or not used <= known[name]:
                unknown.add((name, matchers))

    assert unknown == set()


def test_every_refusal_counts_for_its_alert() -> None:
    """A new verdict must not be forgotten in the rule."""
    (rule,) = [rule for rule in RULES if rule["alert"] == "CallbacksRefused"]
    found = set(re.findall(r'verdict=~"([^"]+)"', rule["expr"]))

    assert found == {"|".join(row.name for row in VERDICTS.values() if row.is_refused)}


def test_the_rules_and_the_configuration_are_valid() -> None:
    """Prometheus reads both files."""
    promtool("check", "rules", "alerts.yaml")
    promtool("check", "config", "prometheus.yaml")


def test_the_alerts_fire_as_they_should() -> None:
    """Prometheus evaluates the cases in alert_cases.yaml."""
    promtool("test", "rules", str(CASES))


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    """The healthy receiver is one case for all of them."""
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test.get("alert_rule_test", [])]

    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {rule["alert"] for rule in RULES}


def test_every_alert_says_what_to_do_and_is_documented() -> None:
    """The operator's page has a row for each alert, with its severity."""
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        assert f"| `{rule['alert']}` | {rule['labels']['severity']} |" in OPERATING, rule["alert"]


def panels() -> list[Any]:
    """Return the panels of the dashboard."""
    return list(DASHBOARD["panels"])


def test_the_dashboard_has_the_form_of_grafana() -> None:
    """Panels have ids of their own, do not overlap, and read from the chosen data source."""
    assert DASHBOARD["schemaVersion"] >= 39
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance", "provider"}
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        assert panel["description"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_every_query_of_the_dashboard_can_be_parsed(panel: Any, tmp_path: Path) -> None:
    """Prometheus parses it as a rule, once Grafana's variables have values."""
    rules = [
        {"record": f"query:{number}", "expr": target["expr"].replace("$__rate_interval", "5m").replace("$", "")}
        for number, target in enumerate(panel["targets"])
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    promtool("check", "rules", str(path))
