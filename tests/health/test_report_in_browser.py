"""The HTML report as a browser shows it: on a desk and on a phone, by day and by night, by pointer and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from pages import Visit, colliding, faint, out_of_reach, too_wide
from sample_reports import BROKEN, REPORTS

from harness.health.page import to_html

Visiting = Callable[..., Visit]
PHONE = 390
PAGES = {name: to_html(report) for name, report in REPORTS.items()}
ELSEWHERE = "http://127.0.0.1:9/x.png"
OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"

STOP_CLOCK = "void (window.setTimeout = () => 0)"
"""A button says for a moment only what it did, which a slow machine could miss."""


def planted(html: str = "", style: str = "", **replaced: str) -> str:
    """The broken model's report, itself broken: with an element or a style more, or with an attribute replaced."""
    page = PAGES["broken"].replace("</footer>", f"</footer>{html}").replace("</style>", f"{style}</style>")
    for old, new in replaced.items():
        assert f"<{old} " in page or f"<{old}>" in page
        page = page.replace(f"<{old}", f"<{old} {new}")
    assert page != PAGES["broken"]
    return page


class Loading(HTMLParser):
    """Addresses that a browser would load without being asked, and the page's policy."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        names = {"src", "srcset", "poster", "data", "background", "action", "formaction", "xlink:href"}
        if tag not in ("a", "button"):
            names.add("href")
        self.found += [value for name, value in given.items() if name in names and not value.startswith(("#", "data:"))]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_names_nothing_to_load_and_forbids_it(name: str) -> None:
    """Without a browser; the next test has one look."""
    page = Loading()
    page.feed(PAGES[name])
    assert page.found == []
    assert "default-src 'none'" in page.policy
    assert not re.search(
        r"@import|url\((?!['\"]?(#|data:))|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|EventSource", PAGES[name]
    )


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_asked_of_the_network_and_nothing_goes_wrong(visit: Visiting, name: str) -> None:
    seen = visit(PAGES[name])
    assert ([url for url in seen.requests if not url.startswith("data:")], seen.complaints) == ([], [])
    grade = f"grade {REPORTS[name].grade}" if REPORTS[name].grade else "no grade"
    assert seen.page.title() == f"{REPORTS[name].model_name}: {grade}"


@pytest.mark.parametrize("name", PAGES)
def test_it_fits_windows_of_all_widths(visit: Visiting, name: str) -> None:
    page = visit(PAGES[name]).page
    page.evaluate(OPEN_ALL)
    for width in (320, PHONE, 768, 1280, 1600):
        page.set_viewport_size({"width": width, "height": 844})
        assert (width, too_wide(page)) == (width, [])
        assert width < PHONE or colliding(page) == []


@pytest.mark.parametrize("width", [320, 1280])
def test_the_names_of_the_filters_are_on_one_line(visit: Visiting, width: int) -> None:
    labels = visit(PAGES["broken"], width).page.locator(".filter label").all()
    assert len(labels) == 5
    assert [label.inner_text() for label in labels if label.evaluate("one => one.getClientRects()[0].height") > 40] == []


@pytest.mark.parametrize("name", PAGES)
def test_all_of_it_can_be_made_out_by_day_by_night_and_on_paper(visit: Visiting, name: str) -> None:
    page = visit(PAGES[name]).page
    page.evaluate(OPEN_ALL)
    grounds = {"light": "rgb(251, 250, 247)", "dark": "rgb(21, 21, 20)", "paper": "rgba(0, 0, 0, 0)"}
    for scheme, ground in grounds.items():
        page.emulate_media(
            media="print" if scheme == "paper" else "screen", color_scheme="light" if scheme == "light" else "dark"
        )
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        assert (scheme, faint(page)) == (scheme, [])


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_everything_in_order(visit: Visiting, name: str) -> None:
    page = visit(PAGES[name], PHONE).page
    page.evaluate(OPEN_ALL)
    assert out_of_reach(page) == []


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_opens_and_closes_what_is_folded(visit: Visiting, key: str) -> None:
    page = visit(PAGES["broken"], PHONE).page
    reason = page.get_by_text("no second device")
    assert not reason.is_visible()
    page.locator("summary", has_text="Skipped checks").focus()
    page.keyboard.press(key)
    assert reason.is_visible()
    page.keyboard.press(key)
    assert not reason.is_visible()


def test_links_lead_to_the_cards(visit: Visiting) -> None:
    page = visit(PAGES["broken"], PHONE).page
    page.get_by_role("link", name="A position's logits never depend on later tokens").focus()
    page.keyboard.press("Enter")
    card = page.get_by_role("article", name="the causal mask leaks")
    box = card.bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 100
    page.keyboard.press("Tab")
    assert card.get_by_role("link", name="tier1::causal").evaluate("one => one === document.activeElement")
    page.keyboard.press("Tab")
    assert card.get_by_role("button").evaluate("one => one === document.activeElement")


def test_a_search_leaves_what_has_all_its_words_and_opens_what_is_folded(visit: Visiting) -> None:
    page = visit(PAGES["broken"], PHONE).page
    rows = page.locator("tr[data-status]:visible")
    page.get_by_role("searchbox", name="Search").fill("finite case3")
    assert rows.count() == 1
    assert page.get_by_role("heading", name="Failures").is_hidden()
    page.get_by_role("searchbox", name="Search").fill("")
    page.get_by_role("checkbox", name="Failed").uncheck()
    assert page.get_by_role("article").count() == 1
    assert page.locator("output").inner_text() == "9 of 12 checks in the tables"


def test_the_name_of_a_check_opens_what_the_documentation_says(visit: Visiting) -> None:
    page = visit(PAGES["broken"], PHONE).page
    text = page.get_by_text("The logits before a position do not change when its token changes.")
    assert not text.is_visible()
    page.get_by_role("article", name="the causal mask leaks").get_by_role("link").click()
    text.wait_for()


def test_a_command_is_copied(visit: Visiting) -> None:
    page = visit(PAGES["broken"]).page
    page.evaluate(STOP_CLOCK)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == BROKEN.checks[0].details["rerun"]


def test_a_command_that_may_not_be_copied_is_selected(visit: Visiting) -> None:
    page = visit(PAGES["broken"]).page
    page.evaluate(STOP_CLOCK)
    page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject())")
    page.get_by_role("button", name="Copy").first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Selected").wait_for()
    assert page.evaluate("getSelection().toString()") == BROKEN.checks[0].details["rerun"]


def test_it_reads_well_without_being_seen(visit: Visiting) -> None:
    page = visit(PAGES["broken"], PHONE).page
    assert page.locator("html").get_attribute("lang") == "en"
    assert [page.get_by_role(role).count() for role in ("main", "navigation", "contentinfo")] == [1, 1, 1]
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    # A phone shows the rows as blocks; to a screen reader they stay a table.
    table = page.get_by_role("table", name="Tier 1: critical properties")
    assert table.get_by_role("columnheader").all_inner_texts() == ["Status", "Property", "Measured", "Tried", "Time"]
    assert table.get_by_role("row").count() == 3
    page.locator("summary", has_text="8 passed").click()
    assert page.get_by_role("table", name="10 checks 8 passed").get_by_role("row").count() == 9
    drawings = page.get_by_role("img").all()
    assert len(drawings) == 2
    assert all(drawing.aria_snapshot().startswith(('- img "', "- 'img \"")) for drawing in drawings)


@pytest.mark.parametrize("policy", [True, False], ids=["with the policy", "without it"])
def test_an_image_from_elsewhere_would_be_noticed(visit: Visiting, policy: bool) -> None:
    html = planted(f'<img src="{ELSEWHERE}" alt="">')
    seen = visit(html if policy else html.replace("Content-Security-Policy", "nothing"))
    assert ELSEWHERE in seen.requests
    assert "blocked" in seen.complaints[0] if policy else "ERR_" in seen.complaints[0]


def test_a_script_that_slipped_in_would_not_run(visit: Visiting) -> None:
    html = planted("<script>document.title = 'owned'</script>")
    assert visit(html).page.title() != "owned"
    assert visit(html.replace("Content-Security-Policy", "nothing")).page.title() == "owned"


@pytest.mark.parametrize(
    ("find", "html", "says"),
    [
        (too_wide, planted(f"<pre>{'x' * 200}</pre>", "pre { overflow-wrap: normal }"), "pre x"),
        (too_wide, planted(style=".checks { min-width: 45rem }"), "table Status"),
        (colliding, planted(style=".drawing text { font-size: 40px }"), "text "),
        (faint, planted(style=".byline code { color: #a0a0a0 }"), "code tier1::causal"),
        (faint, planted(style=".facts { opacity: 0.6 }"), "dt Blamed module"),
        (faint, planted(style=".bars i::before { background: #d0d8e0 }"), "i "),
        (faint, planted(style=":root { --focus: #d0d8e0 }"), "path "),
        (faint, planted(style="html { scrollbar-color: auto }"), "the track of its scrollbar"),
        (out_of_reach, planted(summary='tabindex="-1"'), "summary Skipped checks 1 is not reached"),
        (out_of_reach, planted('<button tabindex="1">First</button>'), "the order is not that of the page"),
        (out_of_reach, planted(style=":focus-visible { outline: none }"), "a Failures does not show the focus"),
        (out_of_reach, planted(style=":focus-visible { outline-color: #ddd }"), "a Failures does not show the focus"),
    ],
)
def test_a_fault_would_be_found(visit: Visiting, find: Callable[[Any], list[str]], html: str, says: str) -> None:
    found = find(visit(html, PHONE).page)
    assert any(says in fault for fault in found), found
