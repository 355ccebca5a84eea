"""deploy/proxies/nginx.conf: addresses in its log, and its times and sizes beside those of the receiver."""

from __future__ import annotations

import re

import pytest

from receiver.settings import Settings
from receiver.web.request import MAX_WAIT_SECONDS
from tests.deploy.files import CADDYFILE, ENVIRONMENT, NGINX, settings_in


def value_of(name: str) -> str:
    """Return the value of a directive; it must be there once."""
    (value,) = re.findall(rf"^\s*{name} ([^;]+);$", NGINX, re.MULTILINE)
    return str(value)


def test_both_proxies_log_the_same_part_of_an_address() -> None:
    """The pattern of the Caddyfile has its own tests."""
    of_caddy = re.search(r"request>uri regexp \^\((\S+)\)\?\.\*\$ \$1$", CADDYFILE, re.MULTILINE)
    of_nginx = re.search(r'"~\^\(\?<callback_receiver_head>(\S+)\)" \$callback_receiver_head;', NGINX)
    assert of_caddy is not None
    assert of_nginx is not None

    assert of_nginx[1] == of_caddy[1]


def test_nothing_logs_a_whole_address() -> None:
    """The error log would hold the request line, and the log of the access has the route alone."""
    assert value_of("error_log").split() == ["/dev/null", "emerg"]
    assert value_of("access_log").split()[1:] == ["callback_receiver"]
    assert not re.search(r"\$(request|request_uri|uri|args|http_referer|upstream_addr)\b", value_of("log_format"))


def test_it_leads_to_the_receiver() -> None:
    """Address and port are those of the environment example."""
    given = settings_in(ENVIRONMENT, active=True)

    assert f"\n    server {given['RECEIVER_HOST']}:{given['RECEIVER_PORT']};\n" in NGINX


def test_times_and_sizes_leave_room_for_the_receiver() -> None:
    """Long polls come back in time, idle connections are closed by nginx first, and the receiver says 413."""
    assert int(value_of("proxy_read_timeout").removesuffix("s")) > MAX_WAIT_SECONDS
    assert int(value_of("keepalive_timeout").removesuffix("s")) < Settings(_env_file=None).keepalive_seconds
    with pytest.raises(ValueError, match="max_body_bytes"):
        Settings(max_body_bytes=int(value_of("client_max_body_size").removesuffix("m")) * 1024 * 1024, _env_file=None)
