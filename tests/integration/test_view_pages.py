"""The pages of the views in a real browser: two workers of core, asked for what they do not hold; and the same from the command line."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser

from schemas.keys import conversation_key
from tests.support.browser import DESKTOP, PHONE, chromium, started, window
from tests.support.engine_harness import await_true
from tests.support.view_scenario import LONG, MARKUP, PEOPLE, PERSON, TEXT, Shown, json_of, shop_stack

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="there is no chromium on PATH (Debian: apt-get install chromium)"
)
QUOTED = quote(MARKUP, safe="")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with shop_stack(tmp_path_factory.mktemp("pages") / "stack") as shown:
        yield shown


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


def refused(running: Shown) -> Any:
    """The delivery of the voucher, which the provider refused."""
    messages = running.get(f"/conversations/{running.conversation}")[1]["messages"]
    ((voucher,),) = [each["deliveries"] for each in messages if each["message_id"] == "voucher"]
    assert voucher["status"] == "FAILED"
    return voucher


def test_a_worker_shows_a_conversation_that_it_does_not_hold(running: Shown, browser: Browser) -> None:
    with window(browser, running.asked, token=running.token) as shown:
        assert shown.open(f"/conversations/{running.conversation}") == 200
        text = shown.text()
        assert shown.page.title() == f"Conversation {running.conversation} · Chat4All"
        for what in (
            running.owner,
            "ana, bruno, carla",
            "#7 order-delivered",
            "waits for the time of attempt 2",
            "#8 #9",
            PERSON,
        ):
            assert what in text, what
        assert "waits for its time to be sent" in text
        assert refused(running)["reason_code"] in text
        assert "not observable" in text
        shown.page.click("text=order-delivered >> nth=0", trial=True)
        shown.page.click('a[href^="/tables/outstanding/"] >> nth=0')
        assert "delivery.text" in shown.text()
        assert TEXT in shown.text()
        assert shown.console == []


def test_a_row_is_shown_with_the_place_that_last_changed_it(running: Shown, browser: Browser) -> None:
    with window(browser, running.asked, token=running.token) as shown:
        assert shown.open("/tables/") == 200
        assert shown.text().count("4 held") == len(running.get("/tables/")[1])
        shown.page.click('a[href="/tables/sequences/"]')
        shown.page.fill('input[name="key"]', running.conversation)
        shown.page.press('input[name="key"]', "Enter")
        text = shown.text()
        status, row = running.get(f"/tables/sequences/{running.conversation}?changed=1")
        assert (status, row["row"], row["worker"]) == (200, {"seq": 9}, running.owner)
        place = row["changed"]
        assert f"{place['topic']}[{row['partition']}] @ {place['offset']:,}" in text
        (taken,) = [each for each in place["turn"] if each["topic"] == "messages"]
        assert f"messages[{row['partition']}] @ {taken['first']}" in text
        assert taken["partition"] == row["partition"]
        assert shown.console == []


def test_rows_are_found_by_prefix_page_by_page(running: Shown, browser: Browser) -> None:
    with window(browser, running.owner, token=running.token) as shown:
        assert shown.open("/tables/timelines/?limit=10") == 200
        keys = set()
        while True:
            keys |= set(shown.page.locator("td.key a").all_inner_texts())
            following = shown.page.locator('a[rel="next"]')
            if not following.count():
                break
            following.click()
        rows = json_of(f"{running.owner}/tables/")
        assert len(keys) == sum(next(each for each in rows if each["table"] == "timelines")["rows"].values())
        one = min(keys)
        assert shown.open(f"/tables/timelines/?prefix={one[:10]}") == 200
        assert shown.page.locator("td.key a").all_inner_texts() == [one]
        assert "rows searched, 1 found" in shown.text()
        assert shown.console == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_every_page_fits_and_has_its_colours(
    running: Shown, browser: Browser, size: tuple[int, int], *, dark: bool
) -> None:
    paths = [
        *(
            "/",
            "/tables/",
            "/tables/timelines/",
            f"/tables/sequences/{running.conversation}",
            "/partitions/",
            "/exchanges/",
        ),
        *(
            "/conversations/",
            f"/conversations/{running.conversation}",
            f"/conversations/{QUOTED}",
            f"/conversations/{LONG}",
        ),
    ]
    with window(browser, running.asked, token=running.token, size=size, dark=dark) as shown:
        for path in paths:
            assert shown.open(path) == 200, path
            assert shown.background() == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")
        assert shown.open("/tables/pigeons/") == 404
        assert shown.open("/pigeons") == 404


def test_ids_that_are_html_stay_text(running: Shown, browser: Browser) -> None:
    with window(browser, running.asked, token=running.token) as shown:
        assert shown.open(f"/conversations/{QUOTED}") == 200
        assert MARKUP in shown.page.inner_text("h1")
        assert MARKUP in shown.page.title()
        assert shown.page.locator("img, script").count() == 0
        assert shown.open("/conversations/") == 200
        shown.page.fill('input[name="id"]', MARKUP)
        shown.page.press('input[name="id"]', "Enter")
        assert MARKUP in shown.page.inner_text("h1")
        assert shown.open(f"/tables/sequences/?prefix={QUOTED}") == 200
        assert shown.page.input_value('input[name="prefix"]') == MARKUP
        key = quote(conversation_key("default", MARKUP), safe="")
        assert shown.open(f"/tables/sequences/{key}") == 200
        assert MARKUP in shown.page.inner_text("h1")
        assert shown.console == []


def test_without_the_full_token_no_page_shows_a_text_or_an_address(running: Shown, browser: Browser) -> None:
    """Nor a member's name, in any attribute or title: the simulators' numbers, the texts, what a provider said."""
    secret = (PERSON, TEXT, "carla-phone", "5550101", *PEOPLE, refused(running)["reason"])
    tables = [f"/tables/{each['table']}/" for each in running.get("/tables/")[1]]
    paths = [
        "/",
        "/tables/",
        *tables,
        "/partitions/",
        f"/conversations/{running.conversation}",
        f"/conversations/{LONG}",
    ]
    for worker in (running.asked, running.owner):
        with window(browser, worker) as shown:
            for path in paths:
                assert shown.open(path) == 200
                assert [each for each in secret if each in shown.source()] == [], path
            assert "order-delivered" not in shown.text()
            assert shown.open(f"/conversations/{running.conversation}") == 200
            assert "order-delivered" in shown.text()
            links = shown.page.evaluate("[...document.links].map(a => a.href)")
            assert not any("***" in link or "%2A" in link for link in links)
            for link in {link for link in links if "/tables/outstanding/" in link}:
                assert shown.open(link.removeprefix(worker)) == 200
                assert [each for each in secret if each in shown.source()] == []


def test_a_person_signs_in_with_the_token_as_a_password(running: Shown, browser: Browser) -> None:
    with window(browser, running.asked) as shown:
        assert shown.open("/tables/") == 200
        assert "masked" in shown.text()
    request = urllib.request.Request(f"{running.asked}/login", headers={"Accept": "text/html"})
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(request, timeout=20)
    with refused.value as answer:
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert "CHAT4ALL_WEB_FULL_TOKEN" in answer.read().decode()
    with window(browser, running.asked, token=running.token) as shown:
        assert shown.open("/tables/") == 200
        assert "You see texts and addresses" in shown.text()


# --- the command line -----------------------------------------------------------------------------------------------------


def test_the_terminal_shows_the_same(running: Shown) -> None:
    ran = running.command("list")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert all(each["table"] in ran.stdout for each in running.get("/tables/")[1])
    ran = running.command("list", "--json")
    assert {each["state"] for table in json.loads(ran.stdout) for each in table["partitions"]} == {"held"}
    ran = running.command("get", "sequences", running.conversation)
    assert (ran.returncode, "messages[" in ran.stdout, running.owner in ran.stdout) == (0, True, True)
    ran = running.command("get", "sequences", running.conversation, "--json", "--url", running.owner)
    assert json.loads(ran.stdout)["row"] == {"seq": 9}
    ran = running.command("conversation", running.conversation)
    for what in (
        "order-placed",
        "waiting: the time of attempt 2",
        "not observable",
        "bruno (telegram:5550101)",
        refused(running)["reason_code"],
    ):
        assert what in ran.stdout, what
    ran = running.command("conversation", running.conversation, "--limit", "3", "--before", "5", "--json")
    assert [each["seq"] for each in json.loads(ran.stdout)["messages"]] == [4, 3, 2]
    ran = running.command("conversation", MARKUP)
    assert (ran.returncode, MARKUP[:40] in ran.stdout) == (0, True)


def test_the_terminal_says_no_and_why(running: Shown) -> None:
    for code, sentence, arguments in (
        (1, "no row 'nobody' in table sequences", ("get", "sequences", "nobody")),
        (1, "no table 'pigeons' here", ("get", "pigeons", "k")),
        (1, "no conversation '..' of tenant default", ("conversation", "..")),
        (1, "of tenant other", ("conversation", running.conversation, "--tenant", "other")),
        (2, "a tenant has 1 to 64 letters", ("conversation", "c", "--tenant", "a/b")),
        (2, "no views of a worker at http://127.0.0.1:1", ("list", "--url", "http://127.0.0.1:1")),
        (2, "write the URL of a worker's views", ("list", "--url", "file:///etc/passwd")),
        (2, "choose core or sinks", ("list", "--worker", "pigeon")),
    ):
        ran = running.command(*arguments)
        assert (ran.returncode, len(ran.stderr.splitlines()), ran.stdout) == (code, 1, ""), ran.stderr
        assert sentence in ran.stderr


def test_a_wrong_question_about_a_conversation_is_refused_in_a_sentence(running: Shown) -> None:
    for path, sentence in (
        ("/conversations/c?before=0", "before 1 or more"),
        ("/conversations/c?before=x", "whole numbers"),
        ("/conversations/c?limit=51", "limit is 1 to 50"),
        ("/conversations/c?tenant=a%2Fb", "a tenant has"),
        ("/conversations/", "write /conversations/<id>"),
        ("/tables/?state=everywhere", "here or all"),
        ("/tables/?format=xml", "html or json"),
    ):
        status, answer = running.get(path)
        assert (status, sentence in answer["error"]) == (400, True), answer


def test_a_conversation_of_a_crashed_owner_is_unknown_until_it_is_taken_over(running: Shown, browser: Browser) -> None:
    """The last test: it ends the owner, and asks the other worker."""
    path = f"/conversations/{running.conversation}"
    status, document = running.get(path)
    assert status == 200
    owner = next(each for each in running.state.services if each.parts.get("views") == document["worker"])
    other = running.owner if document["worker"] == running.asked else running.asked
    os.kill(owner.pid, signal.SIGKILL)
    seen: list[int] = []

    def answered() -> bool:
        status, body = running._replace(asked=other).get(path)
        seen.append(status)
        assert status in {200, 503}, body
        assert status == 200 or len(body["error"]) > 20
        return status == 200

    with window(browser, other) as shown:
        assert shown.open(path) == 503
        assert "Reload this page" in shown.text()
        await_true(answered, "the takeover", 60)

        def opened() -> bool:
            """The stack starts the worker again, and the group moves partitions once more: until then it may be 503 again."""
            shown.console.clear()
            return shown.open(path) == 200

        await_true(opened, "the page after the takeover", 60)
        assert "#9" in shown.text()
    ask = ("conversation", running.conversation, "--url", other)
    await_true(lambda: running.command(*ask).returncode == 0, "the command after the takeover", 60)
