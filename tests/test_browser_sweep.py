"""The page of a sweep in a real browser; `make test-browser` brings what it needs."""

import pytest
from test_browser import browser  # noqa: F401
from test_html import page_of, results_of, rolling

pytestmark = pytest.mark.browser


@pytest.fixture(params=[(1200, 900), (420, 800)], ids=["wide", "narrow"])
def page(request, browser, tmp_path):  # noqa: F811
    """The page, freshly opened; at the end nothing may have gone wrong in it."""
    file = tmp_path / "report.html"
    replays = [rolling("best: learning_rate 0.1"), rolling("worst", 12)]
    page_of(file, results_of(), target=475.0, replays=replays)
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    complaints, requests = [], []
    page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]


def test_the_curves_are_drawn_within_the_page(page, tmp_path):
    curves = page.locator("#chart .curve")
    assert curves.count() == 6
    for i in range(6):
        box = curves.nth(i).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 20
    assert page.locator("#chart .band").count() == 6
    assert page.locator("#chart .target").count() == 1
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"]
    assert "1 diverged" in page.locator("#summary").inner_text()
    assert page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_the_nearest_curve_is_named(page):
    box = page.locator("#chart svg").bounding_box()
    page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 5)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "learning_rate 0.1:" in tip.inner_text()
    assert "at 40,000 steps" in tip.inner_text()
    assert page.locator("tbody tr.on").get_attribute("data-row") == "0"
    page.mouse.move(1, 1)
    assert not tip.is_visible()


def test_a_click_sorts_and_a_second_reverses(page):
    def ranks():
        cells = page.locator("tbody tr td:first-child").all_inner_texts()
        return [int(text) for text in cells]

    assert ranks() == [1, 2, 3, 4, 5, 6]
    head = page.get_by_role("button", name="learning rate")
    head.click()
    assert ranks() == [6, 5, 4, 3, 2, 1]
    assert head.locator("..").get_attribute("aria-sort") == "ascending"
    head.click()
    assert ranks() == [1, 2, 3, 4, 5, 6]
    assert head.locator("..").get_attribute("aria-sort") == "descending"
    assert page.locator("td.lost").inner_text() == "1"


def test_the_replays_play(page):
    clock = page.locator("#clock")
    before = clock.inner_text()
    page.locator("#play").click()
    page.wait_for_timeout(400)
    assert clock.inner_text() != before
    assert page.locator(".panel").count() == 2
