"""The page of a sweep in a real browser; `make test-browser` brings what it needs."""

import dataclasses
import itertools

import numpy as np
import pytest
from test_browser import browser, opened  # noqa: F401
from test_pages import page_of, results_of, rolling, traded

pytestmark = pytest.mark.browser


@pytest.fixture
def file(tmp_path):
    replays = [rolling("best: learning_rate 0.1"), rolling("worst", 12)]
    page_of(tmp_path / "report.html", results_of(), target=475.0, replays=replays)
    return tmp_path / "report.html"


@pytest.fixture(params=[(1200, 900), (420, 800)], ids=["wide", "narrow"])
def page(request, browser, file):  # noqa: F811
    with opened(browser, file, *request.param) as page:
        yield page


def test_the_curves_are_drawn_within_the_page(page, tmp_path):
    curves = page.locator("#chart .curve")
    assert curves.count() == 6
    for i in range(6):
        box = curves.nth(i).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 20
    for i in range(6):
        assert page.locator("#chart .band").nth(i).bounding_box()["height"] > 20
    assert page.locator("#chart .target").count() == 1
    crosses = page.locator("#chart .lost").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().width)"
    )
    assert [width > 5 for width in crosses].count(True) == 1
    assert "1 diverged" in page.locator("#summary").inner_text()
    assert page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_the_best_curve_ends_highest(page):
    """Up is more, and right is later."""
    ends = page.locator("#chart .ranked").evaluate_all(
        """all => all.map(one => {
            const curve = one.querySelector(".curve"), n = curve.getTotalLength();
            const [from, to] = [0, n].map(x => curve.getPointAtLength(x));
            return { from: from.x, to: to.x, y: to.y, name: one.getAttribute("class") };
        })"""
    )
    best = next(end for end in ends if "best" in end["name"])
    assert best["y"] == min(end["y"] for end in ends)
    assert all(end["to"] - end["from"] > 200 for end in ends)


def test_the_nearest_curve_is_named(page):
    box = page.locator("#chart svg").bounding_box()
    page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 5)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "learning_rate 0.1:" in tip.inner_text()
    assert "at 40,000 steps" in tip.inner_text()
    assert page.locator("tbody tr.on").get_attribute("data-row") == "0"
    assert page.locator("#chart .ranked.on.best").count() == 1
    shown = tip.bounding_box()
    assert box["x"] <= shown["x"]
    assert shown["x"] + shown["width"] <= box["x"] + box["width"]
    assert box["y"] <= shown["y"]
    page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + box["height"] - 60)
    assert page.locator("tbody tr.on").get_attribute("data-row") == "5"
    assert "1 of 4 runs diverged" in tip.inner_text()
    page.mouse.move(1, 1)
    assert not tip.is_visible()
    assert page.locator(".on").count() == 0


def test_a_row_shows_its_curve(page):
    curves = page.locator("#chart .ranked")
    before = curves.evaluate_all("all => all.map(one => getComputedStyle(one).opacity)")
    page.locator("tbody tr").nth(2).hover()
    after = curves.evaluate_all("all => all.map(one => getComputedStyle(one).opacity)")
    assert before == ["1"] * 6
    assert sorted(after) == ["0.25"] * 5 + ["1"]
    assert page.locator("#chart .on").get_attribute("style") == "--at: 0.4"
    page.mouse.move(1, 1)
    assert page.locator(".on").count() == 0


@pytest.fixture
def trade_off(tmp_path):
    results, chart = traded()
    page_of(tmp_path / "traded.html", results, trade_off=chart)
    return tmp_path / "traded.html"


def test_a_trade_off_shows_every_finished_run_and_names_it(browser, trade_off):  # noqa: F811
    with opened(browser, trade_off) as page:
        dots = page.locator("#points .run")
        assert dots.count() == 6 * 4 - 1  # one diverged
        assert page.locator("#points .goal").count() == 6
        picture = page.locator("#points svg").bounding_box()
        for i in range(23):
            box = dots.nth(i).bounding_box()
            assert picture["x"] < box["x"] < picture["x"] + picture["width"]
            assert picture["y"] < box["y"] < picture["y"] + picture["height"]
        points, curves = (
            page.locator(f"{chart} .ranked").evaluate_all(
                "all => all.map(one => getComputedStyle(one).getPropertyValue('--color'))"
            )
            for chart in ("#points", "#chart")
        )
        assert points == curves
        assert len(set(points)) == 6
        words = page.locator("#points_key").inner_text()
        assert "learning_rate 0.0001" in words
        assert words.count("the best there can be") == 2
        last = page.locator("#points .ranked").first.locator(".run").last
        last.scroll_into_view_if_needed()
        box, page_at = last.bounding_box(), page.evaluate("scrollY")
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        named = page.locator("#points #tip").inner_text().splitlines()
        assert named[0].startswith("learning_rate 0.0001, seed ")
        x, y = (float(line.split()[-1]) for line in named[2:0:-1])
        assert x == pytest.approx(2.0, abs=0.1)
        assert y == pytest.approx(x**0.5 - 0.01, abs=1e-3)
        for chart in ("#points", "#chart"):
            assert (
                page.locator(f"{chart} .ranked.on").get_attribute("style") == "--at: 1"
            )
        assert page.locator("tbody tr.on").get_attribute("data-row") == "5"
        assert page.locator("#points .seen").count() == 1
        assert page.evaluate("scrollY") == page_at
        page.mouse.move(1, 1)
        assert page.locator(".on, .seen").count() == 0
        assert not page.locator("#tip").is_visible()
        page.locator("tbody tr").first.hover()
        assert page.locator("#points .ranked.on").get_attribute("style") == "--at: 0"


def test_right_is_more_of_x_and_up_more_of_y(browser, trade_off):  # noqa: F811
    with opened(browser, trade_off) as page:
        goals = page.locator("#points .goal").evaluate_all(
            "all => all.map(one => [one.cx.baseVal.value, one.cy.baseVal.value])"
        )
        # The last on the page is the best: that of the least x, and of the least y.
        for (left, low), (right, high) in itertools.pairwise(goals[::-1]):
            assert left < right
            assert low > high
        # They lie on the line.
        line = page.locator("#points .line").evaluate(
            """one => Array.from({ length: 2001 }, (_, i) => {
                const { x, y } = one.getPointAtLength(one.getTotalLength() * i / 2000);
                return [x, y]; })"""
        )
        away = np.linalg.norm(np.array(goals)[:, None] - np.array(line)[None], axis=2)
        assert away.min(axis=1).max() < 2


@pytest.mark.parametrize("name", ["nobody finished", "one run", "many"])
def test_odd_trade_offs_are_drawn_too(browser, tmp_path, name):  # noqa: F811
    count = {"one run": 1, "many": 12}.get(name, 6)
    results, chart = traded(configurations=count, seeds=1 if name == "one run" else 4)
    results.status[:] = "diverged" if name == "nobody finished" else "finished"
    chart = dataclasses.replace(chart, line=(), goals=())
    page_of(tmp_path / "x.html", results, trade_off=chart)
    with opened(browser, tmp_path / "x.html", 420, 800) as page:
        drawn = page.locator("#points").inner_html()
        for nonsense in ("NaN", "undefined", "null", "Infinity"):
            assert nonsense not in drawn
        page.locator("#points").hover()
        tip = page.locator("#points #tip")
        assert (tip.count() == 1) == (name != "nobody finished")
        assert ("worst" in page.locator("#points_key").inner_text()) == (count > 8)
        page.set_viewport_size({"width": 700, "height": 800})
        page.wait_for_timeout(200)
        assert 420 < page.locator("#points svg").bounding_box()["width"] < 700


def test_a_click_sorts_and_a_second_reverses(page):
    assert ranks(page) == [1, 2, 3, 4, 5, 6]
    head = page.get_by_role("button", name="learning rate")
    head.click()
    assert ranks(page) == [6, 5, 4, 3, 2, 1]
    assert head.locator("..").get_attribute("aria-sort") == "ascending"
    head.press("Enter")
    assert ranks(page) == [1, 2, 3, 4, 5, 6]
    assert head.locator("..").get_attribute("aria-sort") == "descending"
    assert page.locator("th[aria-sort]").count() == 1
    assert page.locator("td.lost").inner_text() == "1"


def test_the_replays_play(page):
    clock = page.locator("#clock")
    page.mouse.move(5, 5)
    page.keyboard.press("Space")  # which scrolls, as the player is not looked at
    page.wait_for_timeout(200)
    before = clock.inner_text()
    assert before == "0 / 30"
    page.locator("#play").click()
    page.wait_for_timeout(400)
    assert clock.inner_text() != before
    assert page.locator(".panel").count() == 2


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 700, 1600])
def test_all_is_readable_at_every_width(browser, tmp_path, mode, width):  # noqa: F811
    results, chart = traded()
    options = {"target": 475.0, "replays": [rolling("best")], "trade_off": chart}
    page_of(tmp_path / "report.html", results, **options)
    with opened(browser, tmp_path / "report.html", width, color_scheme=mode) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        smallest, outside, faint = page.evaluate(
            """() => {
                const light = color => {
                    const [r, g, b] = color.match(/[0-9.]+/g).map(x => {
                        const s = x / 255;
                        return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
                    });
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
                };
                const back = light(getComputedStyle(document.querySelector(".box")).backgroundColor);
                let sizes = [], outside = [], faint = [];
                for (const one of document.querySelectorAll("main *, h1, #summary")) {
                    const words = [...one.childNodes].some(x => x.nodeType === 3 && x.data.trim());
                    if (!words || one.closest("#play, .picture, option") || !one.checkVisibility()) continue;
                    const style = getComputedStyle(one), box = one.getBoundingClientRect();
                    sizes.push(parseFloat(style.fontSize));
                    if (!one.closest("table") && (box.left < 0 || box.right > innerWidth)) outside.push(one.outerHTML);
                    const ink = light(one.closest(".chart > svg") ? style.fill : style.color);
                    const contrast = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
                    if (contrast < 4.5) faint.push([one.outerHTML, contrast]);
                }
                return [Math.min(...sizes), outside, faint];
            }"""
        )
        assert smallest >= 12
        assert outside == []
        assert faint == []
        for chart, anchor in itertools.product(
            ("#chart", "#points"), ("middle", "end")
        ):
            marks = page.locator(f"{chart} text[text-anchor={anchor}]:not(.name)")
            assert marks.count() >= 3
            boxes = marks.evaluate_all(
                "all => all.map(one => one.getBoundingClientRect().toJSON())"
            )
            for one, other in itertools.combinations(boxes, 2):
                apart = (
                    one["right"] < other["left"]
                    or other["right"] < one["left"]
                    or one["bottom"] <= other["top"]
                    or other["bottom"] <= one["top"]
                )
                assert apart
        page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_the_drawing_follows_the_window(browser, file):  # noqa: F811
    with opened(browser, file) as page:
        page.set_viewport_size({"width": 500, "height": 800})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 500
        box = page.locator("#chart .curve").first.bounding_box()
        assert 300 < box["width"] < 500


def test_what_has_no_return_is_sorted_last_either_way(browser, tmp_path):  # noqa: F811
    results = results_of()
    results.status[2] = "diverged"
    results.reached[2] = 2  # a rung
    results.returns[2, :, 3:] = np.nan
    page_of(tmp_path / "x.html", results)
    with opened(browser, tmp_path / "x.html") as page:
        row = page.locator("tbody tr").last
        assert "\N{EN DASH}" in row.inner_text()
        head = page.get_by_role("button", name="return (IQM)")
        head.click()
        assert ranks(page) == [5, 4, 3, 2, 1, 6]
        head.click()
        assert ranks(page) == [1, 2, 3, 4, 5, 6]
        assert page.locator("#replays").is_hidden()
        assert page.get_by_role("button", name="steps").count() == 1
        assert "20,000" in row.inner_text()  # where it was last seen
    results = dataclasses.replace(results)
    results.status[5, 1:] = "dropped"  # of one run the mean is known, the spread is not
    page_of(tmp_path / "x.html", results)
    with opened(browser, tmp_path / "x.html") as page:
        head = page.get_by_role("button", name="95 % interval")
        for _ in range(2):
            head.click()
            assert ranks(page)[-2:] == [1, 6]


@pytest.mark.parametrize(
    "name", ["one seed", "one evaluation", "all diverged", "all alike", "huge", "evil"]
)
def test_odd_sweeps_are_drawn_too(browser, tmp_path, name):  # noqa: F811
    """No console message, no number that is none, and whoever is pointed at is named."""
    evil = "</script><b>@data@"
    results = results_of(
        seeds=1 if name == "one seed" else 4,
        evaluations=1 if name == "one evaluation" else 5,
    )
    if name == "all diverged":
        results.status[:] = "diverged"
        results.returns[:, :, 3:] = np.nan
    elif name == "all alike":
        results.status[:] = "finished"
        results.returns[:] = 0.0
    elif name == "huge":
        results.returns[:] *= -1e9
    path = tmp_path / "x.html"
    page_of(path, results, **{"title": evil} if name == "evil" else {})
    with opened(browser, path, 420, 800) as page:
        drawn = page.locator("#chart").inner_html()
        for nonsense in ("NaN", "undefined", "null", "Infinity"):
            assert nonsense not in drawn
        words = page.locator("body").inner_text()
        assert "NaN" not in words
        assert page.locator("tbody tr").count() == 6
        if name == "evil":
            assert page.locator("h1").inner_text() == evil
            assert page.locator("b:not(#legend b)").count() == 0
        box = page.locator("#chart svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert page.locator("#tip").is_visible() == (name != "all diverged")
        if name == "all diverged":
            crosses = page.locator("#chart .lost").evaluate_all(
                "all => all.map(one => one.getBoundingClientRect().top)"
            )
            assert max(crosses) - min(crosses) > 50
        elif name == "one evaluation":
            page.mouse.move(box["x"] + 60, box["y"] + box["height"] - 60)
            assert page.locator("tbody tr.on").get_attribute("data-row") != "0"


def test_a_run_that_explodes_hides_no_curve(browser, tmp_path):  # noqa: F811
    results = results_of()
    results.returns[0, 0, 1] = -1e12  # its last return before it diverged
    page_of(tmp_path / "x.html", results)
    with opened(browser, tmp_path / "x.html") as page:
        assert page.locator("#chart .best .curve").bounding_box()["height"] > 200
        cross = page.locator("#chart .lost[d^=M]").bounding_box()
        chart = page.locator("#chart").bounding_box()
        assert chart["y"] < cross["y"] < chart["y"] + chart["height"] - 50


def test_256_configurations_can_be_told_apart(browser, tmp_path):  # noqa: F811
    path = tmp_path / "x.html"
    page_of(path, results_of(256, 2, 20))
    with opened(browser, path) as page:
        assert page.locator("#chart .curve").count() == 256
        box = page.locator("#chart svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 60)
        chosen = page.locator("tbody tr.on").bounding_box()
        frame = page.locator("#table").bounding_box()
        assert int(page.locator("tbody tr.on").get_attribute("data-row")) > 100
        assert frame["y"] < chosen["y"]
        assert chosen["y"] + chosen["height"] <= frame["y"] + frame["height"]
        assert page.evaluate("scrollY") == 0


def ranks(page):
    """The ranks in the table, from above."""
    cells = page.locator("tbody tr td:first-child").all_inner_texts()
    return [int(text) for text in cells]
