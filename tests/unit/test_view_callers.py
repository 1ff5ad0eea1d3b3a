"""Access to a worker's views: host names and tokens. A worker whose views would be open to other machines does not start."""

import base64
import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.view_access import Access, Caller, shown_path
from schemas.settings import MissingSetting, Settings, wrong
from tests.support.source_tree import REPOSITORY

WEB_TOKEN, OLD_WEB_TOKEN, FULL_TOKEN = "masked-token-of-tests", "older-token-of-tests", "full-token-of-tests-1"
BOTH = {"web_token": f"{WEB_TOKEN}, {OLD_WEB_TOKEN}", "web_full_token": FULL_TOKEN}


def basic(text: str) -> str:
    """What a browser sends for a name and a password with a colon between them."""
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def access(**settings: Any) -> Access:
    return Access(Settings.model_validate(settings))


@pytest.mark.parametrize(
    ("authorization", "caller"),
    [
        (f"Bearer {WEB_TOKEN}", Caller.MASKED),
        (f"bearer  {OLD_WEB_TOKEN} ", Caller.MASKED),
        (f"Bearer {FULL_TOKEN}", Caller.FULL),
        (f"Basic {FULL_TOKEN}", None),
        (FULL_TOKEN, None),
        (f"Bearer {FULL_TOKEN[:-1]}", None),
        (f"Bearer {FULL_TOKEN}x", None),
        (basic(f":{FULL_TOKEN}"), Caller.FULL),
        (basic(f"anybody:{WEB_TOKEN}"), Caller.MASKED),
        (basic(f"b\u00e9la:{WEB_TOKEN}").replace("Basic", "bAsIc "), Caller.MASKED),
        (basic(FULL_TOKEN), None),
        (basic(f"{FULL_TOKEN}:"), None),
        (basic(f":{FULL_TOKEN}x"), None),
        (basic(":"), None),
        (basic(""), None),
        ("Basic !!!", None),
        ("Basic \udcff", None),
        ("Basic OmZ", None),
        (f"Digest {FULL_TOKEN}", None),
        ("Bearer \udcff", None),
        ("Bearer ", None),
        ("", None),
        (None, None),
    ],
)
def test_a_token_identifies_the_caller(authorization: str | None, caller: Caller | None) -> None:
    assert access(**BOTH).caller(authorization) is caller


def test_without_tokens_this_machine_may_ask_and_with_one_for_the_rest_it_still_sees_no_more() -> None:
    assert access().caller(None) is Caller.ANONYMOUS
    assert access(web_full_token=FULL_TOKEN).caller(None) is Caller.ANONYMOUS
    assert access(web_full_token=FULL_TOKEN).caller(f"Bearer {FULL_TOKEN}") is Caller.FULL
    assert access(web_full_token=FULL_TOKEN).caller("Bearer wrong") is None
    assert access(web_token=WEB_TOKEN).caller(None) is None
    assert access(web_host="0.0.0.0", web_full_token=FULL_TOKEN).caller(None) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"web_host": "0.0.0.0"},
        {"web_host": "10.1.2.3"},
        {"web_host": "::"},
        {"web_url": "http://worker-1.example:6066"},
    ],
)
def test_views_that_others_reach_want_a_token(settings: dict[str, str]) -> None:
    with pytest.raises(MissingSetting, match="set CHAT4ALL_WEB_TOKEN"):
        access(**settings)
    assert access(web_token=WEB_TOKEN, **settings).caller(f"Bearer {WEB_TOKEN}") is Caller.MASKED


def test_a_worker_that_would_be_open_does_not_start_and_prints_one_line() -> None:
    settings = {"CHAT4ALL_WEB_HOST": "0.0.0.0", "CHAT4ALL_KAFKA_URL": "127.0.0.1:1", "CHAT4ALL_TRACKER_KEYS": "k" * 32}
    ran = subprocess.run(
        [sys.executable, "-m", "pipelines", "worker", "core"],
        cwd=REPOSITORY,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith(
        "worker: the web views of this worker can be reached from outside, at 0.0.0.0: set CHAT4ALL_WEB_TOKEN"
    )


@pytest.mark.parametrize("kind", ["core"])
def test_core_and_the_gateway_do_not_start_without_a_key_for_trackers(kind: str) -> None:
    for part in (["worker", kind], ["gateway"]):
        ran = subprocess.run(
            [sys.executable, "-m", "pipelines", *part],
            cwd=REPOSITORY,
            env=os.environ | {"CHAT4ALL_KAFKA_URL": "127.0.0.1:1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)
        assert "not configured: set CHAT4ALL_TRACKER_KEYS" in ran.stderr


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("worker-1.example:6066", True),
        ("WORKER-1.example", True),
        ("inside.example:1", True),
        ("10.1.2.3:6066", True),
        ("127.0.0.1:6066", True),
        ("localhost", True),
        ("[::1]:6066", True),
        ("evil.example:6066", False),
        ("worker-1.example.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@127.0.0.1:6066@evil.example", False),
        ("evil.example@127.0.0.1:6066", False),
        ("127.0.0.1/evil.example", False),
        ("127.0.0.1#evil.example", False),
        ("127.0.0.1\t.evil.example", False),
        ("127.0.0.1:6066.evil.example", False),
        ("localhost.:6066", False),
        ("0.0.0.0:6066", False),
        ("[", False),
        ("none", False),
        ("", False),
    ],
)
def test_only_our_own_names_are_answered(host: str, ours: bool) -> None:
    """DNS rebinding: a page on evil.example whose name resolves to this machine could read everything in an operator's browser."""
    found = access(
        web_host="10.1.2.3", web_url="http://worker-1.example:6066", web_names="inside.example, other.example", **BOTH
    )
    assert found.is_ours(host) is ours


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/tables/timelines/1814c0fcb1e76a7ae5df8138ca409447", "/tables/timelines/1814c0fcb1e76a7ae5df8138ca409447"),
        (
            "/tables/bindings/default/whatsapp%253A106%253A15557654321/x?partitions=1",
            "/tables/bindings/default/whatsapp%253A106%253A***/x?partitions=1",
        ),
        ("/tables/contacts/%2B5511955501234", "/tables/contacts/***"),
        ("/exchanges/?delivery=%2B5511955501234&since=1", "/exchanges/?delivery=***&since=1"),
        ("/tables/cursors/acme%252Fc-1%2Fana?changed=1", "/tables/cursors/acme%252Fc-1/***"),
        ("/tables/member_addresses/?prefix=c-1/internal/ana", "/tables/member_addresses/?prefix=c-1/internal/***"),
        ("/conversations/whatsapp:106:15557654321?tenant=shop", "/conversations/whatsapp:106:***"),
        ("/tables/contacts/a%0Ab%1B[31m", "/tables/contacts/a%0Ab%1B%5B31m"),
    ],
)
def test_the_log_masks_the_person_in_a_path_however_it_is_quoted(path: str, shown: str) -> None:
    assert shown_path(path) == shown


@pytest.mark.parametrize("host", ["", "none", "[", "0.0.0.0", "//", "evil.example"])
def test_a_worker_without_a_url_has_no_empty_name(host: str) -> None:
    assert not access().is_ours(host)


def test_another_worker_is_asked_in_the_callers_name() -> None:
    both, full, none = access(**BOTH), access(web_full_token=FULL_TOKEN), access()
    assert both.headers(Caller.FULL) == {"Authorization": f"Bearer {FULL_TOKEN}"}
    assert both.headers(Caller.MASKED) == {"Authorization": f"Bearer {WEB_TOKEN}"}
    assert full.headers(Caller.ANONYMOUS) == {}
    assert none.headers(Caller.ANONYMOUS) == {}


@pytest.mark.parametrize("name", ["web_token", "web_full_token"])
def test_a_token_that_can_be_guessed_is_refused_and_not_printed(name: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({name: f"{WEB_TOKEN},guess-me"})
    assert "16 characters or more" in wrong(raised.value)
    assert "guess-me" not in str(raised.value)
