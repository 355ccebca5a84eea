"""deploy/Caddyfile: addresses in its log, and its treatment of callbacks."""

from __future__ import annotations

import re

import pytest

from receiver.settings import Settings
from tests.deploy.files import CADDYFILE, ENVIRONMENT, block, settings_in


def _logged(uri: str) -> str:
    """Return an address as the filter of the log leaves it. Go and Python agree on this regular expression."""
    found = re.search(r"request>uri regexp (\S+) \$1$", CADDYFILE, re.MULTILINE)
    assert found is not None
    return re.sub(found[1], lambda match: match[1] or "", uri, count=1)


@pytest.mark.parametrize(
    ("uri", "logged"),
    [
        ("/callback/capsolver/EQGh_BCcGHC-qCm0", "/callback/"),
        ("/callback/capsolver/EQGh?id=1&code=t", "/callback/"),
        ("/callback/", "/callback/"),
        ("/callback?code=t", ""),
        ("/callback%2Fcapsolver%2FEQGh", ""),
        ("/%63allback/capsolver/EQGh", ""),
        ("/prefix/callback/capsolver/EQGh", ""),
        ("//callback/capsolver/EQGh", ""),
        ("/v1/tasks?tags=a", "/v1/tasks"),
        ("/v1/tasks/0199?wait=50", "/v1/tasks"),
        ("/v1/results?after=c1&wait=50", "/v1/results"),
        ("/v1/results/stream?ticket=t", "/v1/results"),
        ("/v1/subscribe?ticket=t", "/v1/subscribe"),
        ("/asyncapi.json", "/asyncapi.json"),
        ("/asyncapi-json", ""),
        ("/healthz?a=b", "/healthz"),
        ("/readyz", "/readyz"),
        ("/?code=t", ""),
        ("*", ""),
    ],
)
def test_the_log_shows_the_route_alone(uri: str, logged: str) -> None:
    """Queries and everything below /callback/ are removed, in any spelling of the address."""
    assert _logged(uri) == logged


def test_the_filter_covers_every_log() -> None:
    """The filter is in the default log. It has failed requests too, and no site has its own log."""
    assert CADDYFILE.count("log {") == CADDYFILE.count("format filter {") == 1
    assert re.search(r"\blog \{\s+format filter \{\s+wrap json\s", block(""))
    assert re.findall(r"(request>headers|resp_headers) delete", CADDYFILE) == ["request>headers", "resp_headers"]


def test_callbacks_are_not_redirected() -> None:
    """On port 80 callbacks are proxied, and all else is redirected. Caddy's own redirects are off."""
    port_80 = block("http://")
    proxied = r"\s+import receiver\s+\}"
    first = rf"handle /callback\* \{{{proxied}[^{{]+handle /2captcha\.txt \{{{proxied}"

    assert "auto_https disable_redirects" in CADDYFILE
    assert re.search(first + r"\s+handle \{\s+redir https://", port_80)
    assert CADDYFILE.count("redir ") == 1


def test_the_proxy_leads_to_the_receiver() -> None:
    """Address and port are those of the environment example."""
    given = settings_in(ENVIRONMENT, active=True)

    assert f"{given['RECEIVER_HOST']}:{given['RECEIVER_PORT']}}} {{" in block("(proxied)")
    assert "callbacks.example.org" in given["RECEIVER_PUBLIC_URL"]
    assert "import receiver" in block("{$CALLBACK_HOST:callbacks.example.org}, https://")


def test_the_receiver_sees_what_is_too_large_for_it() -> None:
    """The limit of the proxy is above the largest possible limit of the receiver."""
    limit = re.search(r"max_size (\d+)MiB", block("(receiver)"))
    assert limit is not None

    with pytest.raises(ValueError, match="max_body_bytes"):
        Settings(max_body_bytes=int(limit[1]) * 1024 * 1024, _env_file=None)


def test_the_proxy_closes_idle_connections_first() -> None:
    """If the receiver closed first, a request could be lost (litellm#19091). Google's proxies keep them for 600 s."""
    kept = re.search(r"^\s*import proxied (\d+)m$", block("(receiver)"), re.MULTILINE)
    assert kept is not None
    assert "keepalive {args.0}" in block("(proxied)")

    longest_of_proxies = max(int(kept[1]) * 60, 600)
    assert Settings(_env_file=None).keepalive_seconds > longest_of_proxies


def test_a_callback_has_a_connection_of_its_own() -> None:
    """It cannot meet the close of a used connection, which Caddy would answer with 502."""
    assert re.search(r"handle /callback\* \{\s+import proxied off\s+\}", block("(receiver)"))


def test_long_requests_have_no_limit() -> None:
    """No time limit of the proxy ends a long poll or a websocket."""
    assert not re.search(r"^\s*(write|read_timeout|write_timeout|response_header_timeout) ", CADDYFILE, re.MULTILINE)


def test_who_hangs_up_has_hung_up_at_the_receiver() -> None:
    """A flush interval would keep the connection to the receiver open, so none is set. Nothing is buffered."""
    assert not re.search(r"^\s*(flush_interval|buffer_\w+|response_buffers|request_buffers|encode) ?", CADDYFILE, re.M)
