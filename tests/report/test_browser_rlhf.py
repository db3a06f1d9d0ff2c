"""The page of an RLHF run in a real browser; `make test-browser` brings what it needs."""

import itertools
import math
import re

import numpy as np
import pytest
from test_browser import browser, opened  # noqa: F401
from test_pages import traded
from test_rlhf_page import EVIL, completions_of, page_of, rows_of

from rljax.report import ShownCompletion

pytestmark = pytest.mark.browser

BETAS = ["beta 0.02", "beta 0.1", "beta 0.5"]


@pytest.fixture
def file(tmp_path):
    results, frontier = traded()
    page_of(
        tmp_path / "x.html",
        title=EVIL,
        curves={name: rows_of(i) for i, name in enumerate(BETAS)},
        stages=[{"stage": "reward model", "pair_accuracy": 0.7, "pairs": 8000}] * 2,
        frontier=frontier,
        frontier_results=results,
    )
    return tmp_path / "x.html"


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_everything_is_drawn_and_readable(browser, file, tmp_path, mode, width):  # noqa: F811
    with opened(browser, file, width, color_scheme=mode) as page:
        page.locator("#charts svg").nth(4).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("h1").inner_text() == EVIL
        assert page.locator("b").count() == 0
        for nonsense in ("NaN", "undefined", "null", "Infinity"):
            assert nonsense not in page.locator("main").inner_html()
        boxes = page.locator("#charts .curve").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().toJSON())"
        )
        assert len(boxes) == 5 * 3
        assert all(box["width"] > 150 and box["height"] > 40 for box in boxes)
        assert page.locator("#runs > span").all_inner_texts() == BETAS
        assert page.locator("#points .run").count() == 6 * 4 - 1  # one diverged
        assert page.locator("#stages tbody tr").count() == 2
        assert page.locator(".passage").count() == 2 * 3
        background = page.evaluate(
            "getComputedStyle(document.documentElement).backgroundColor"
        )
        assert (background == "rgb(244, 245, 246)") == (mode == "light")
        for locator in page.locator(".token").all():
            assert contrast_of(locator) > 4.5
        page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_words_of_a_chart_do_not_touch(browser, file):  # noqa: F811
    with opened(browser, file, 390) as page:
        page.locator("#charts svg").nth(4).wait_for()
        for chart in page.locator("#charts svg").all():
            frame = chart.bounding_box()
            boxes = [text.bounding_box() for text in chart.locator("text").all()]
            for box in boxes:
                assert frame["x"] <= box["x"]
                assert box["x"] + box["width"] <= frame["x"] + frame["width"]
            for a, b in itertools.combinations(boxes, 2):
                assert (
                    a["x"] + a["width"] < b["x"]
                    or b["x"] + b["width"] < a["x"]
                    or a["y"] + a["height"] <= b["y"] + 1
                    or b["y"] + b["height"] <= a["y"] + 1
                )


def test_higher_is_more_and_later_is_to_the_right(browser, tmp_path):  # noqa: F811
    page_of(tmp_path / "x.html")
    with opened(browser, tmp_path / "x.html") as page:
        paths = page.locator("#charts .curve")
        paths.nth(4).wait_for(state="attached")
        assert page.locator("#runs").inner_text() == ""  # the title names a single run
        for i, name in ((0, "reward"), (1, "gold"), (4, "entropy")):
            places = re.findall(r"[ML]([\d.]+) ([\d.]+)", paths.nth(i).get_attribute("d"))  # fmt: skip
            across, down = np.transpose(np.float64(places))
            rows = [row for row in rows_of() if name in row]
            for seen, key, sign in ((across, "completions", 1), (down, name, -1)):
                values = [row[key] for row in rows]
                assert np.corrcoef(seen, values)[0, 1] == pytest.approx(sign, abs=1e-3)


def test_the_nearest_run_is_named_and_stands_out_in_every_chart(browser, tmp_path):  # noqa: F811
    flat = {"low": 0.0, "high": 1.0}
    curves = {
        name: [{"completions": 8 * i, "reward": x, "kl": x} for i in range(5)]
        for name, x in flat.items()
    }
    page_of(tmp_path / "x.html", curves=curves)
    with opened(browser, tmp_path / "x.html") as page:
        chart, tip = page.locator("#charts .chart").first, page.locator("#tip")
        chart.locator("svg").wait_for()
        box = chart.bounding_box()
        for share, name in ((0.15, "high"), (0.8, "low")):
            page.mouse.move(
                box["x"] + 0.6 * box["width"], box["y"] + share * box["height"]
            )
            assert tip.inner_text().splitlines() == [
                name,
                f"reward of a completion: {flat[name]:.0f}",
                "completions: 16",
            ]
            style = f"--at: {list(flat).index(name)}"
            for on in page.locator("#charts .on").all():
                assert on.get_attribute("style") == style
            assert page.locator("#charts .on").count() == 2
        page.mouse.move(1, 1)
        assert not tip.is_visible()
        assert page.locator(".on, .busy, .seen").count() == 0


def test_a_token_has_the_color_and_the_number_of_its_log_ratio(browser, tmp_path):  # noqa: F811
    tokens = ["less", " much", " same", " more", "\n", "", "none"]
    ratios = [-1.0, 9.0, 0.0, 0.5, -0.5, 0.5, math.nan] + [1.0] * 60
    after = ShownCompletion("p", tokens + ["x"] * 60, ratios, {})
    before = after._replace(log_ratios=[0.0] * len(ratios))
    page_of(tmp_path / "x.html", before=[before], after=[after])
    with opened(browser, tmp_path / "x.html") as page:
        first, learned = page.locator(".sides > div").all()
        assert {color_of(token)[3] for token in first.locator(".token").all()} == {0}
        seen = [color_of(token) for token in learned.locator(".token").all()]
        alphas = [alpha for *_, alpha in seen]
        assert alphas[:7] == pytest.approx([0.6, 0.6, 0, 0.3, 0.3, 0.3, 0], abs=0.01)
        assert seen[0][0] > seen[0][2]  # orange
        assert seen[1][2] > seen[1][0]  # blue
        legend = page.locator("#scale .token")
        assert legend.all_inner_texts() == [
            "\N{MINUS SIGN}1",
            "\N{MINUS SIGN}0.5",
            "0",
            "+0.5",
            "+1",
        ]
        assert color_of(legend.first) == seen[0]
        assert color_of(legend.last) == seen[1]
        tip = page.locator("#tip")
        for i, words in [
            (
                0,
                ['"less"', "log-ratio: \N{MINUS SIGN}1 nats", "0.3679 times as likely"],
            ),
            (1, ['" much"', "log-ratio: +9 nats", "8,103 times as likely"]),
            (5, ['""', "log-ratio: +0.5 nats", "1.649 times as likely"]),
            (6, ['"none"', "log-ratio: -"]),
        ]:
            learned.locator(".token").nth(i).hover()
            assert tip.inner_text().splitlines() == words
        page.mouse.move(1, 1)
        assert not tip.is_visible()


def test_texts_are_shown_as_they_are(browser, tmp_path):  # noqa: F811
    texts = ["שלום עולם", EVIL]
    before, after = (completions_of(learned, texts) for learned in (0, 1))
    page_of(tmp_path / "x.html", before=before, after=after)
    with opened(browser, tmp_path / "x.html") as page:
        shown = page.locator(".passage").all()
        for i in range(2):
            prompt, *sides = [one.text_content() for one in shown[3 * i : 3 * i + 3]]
            assert prompt == after[i].prompt
            assert sides == ["".join(after[i].tokens)] * 2
        directions = [
            one.evaluate("one => getComputedStyle(one).direction") for one in shown
        ]
        assert directions == ["ltr", "rtl", "rtl", "ltr", "ltr", "ltr"]


@pytest.mark.parametrize("name", ["bare", "one row", "gaps", "at step 0"])
def test_odd_runs_are_drawn_too(browser, tmp_path, name):  # noqa: F811
    rows = {
        "bare": [],
        "one row": rows_of(updates=1),
        "gaps": [row | {"reward": math.nan if i % 2 else 1.0, "kl": None} for i, row in enumerate(rows_of())],
        "at step 0": [{"completions": 0, "reward": -1e9}],
    }[name]  # fmt: skip
    bare = {"before": [], "after": [], "figures": {}} if name == "bare" else {}
    page_of(tmp_path / "x.html", curves={"a": rows}, **bare)
    with opened(browser, tmp_path / "x.html", 390) as page:
        page.wait_for_timeout(200)
        drawn = page.locator("main").inner_html()
        for nonsense in ("NaN", "undefined", "null", "Infinity"):
            assert nonsense not in drawn
        assert page.locator("#completions").is_visible() == (name != "bare")
        charts = {"bare": 0, "one row": 4, "gaps": 4, "at step 0": 1}[name]
        assert page.locator("#charts svg").count() == charts
        if charts:
            page.locator("#charts .chart").first.hover()
            assert page.locator("#tip").is_visible()
        page.set_viewport_size({"width": 700, "height": 800})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 700


def color_of(locator):
    """Red, green, blue and opacity of the background, from 0 to 1."""
    style = locator.evaluate("one => getComputedStyle(one).backgroundColor")
    numbers = [float(x) for x in re.findall(r"[\d.]+(?:e-\d+)?", style)]
    return (*numbers, 1.0)[:4]


def contrast_of(locator):
    """Contrast of a token's text with its background over the box's, as WCAG has it."""
    *color, alpha = color_of(locator)
    ink, panel = locator.evaluate(
        """one => {
            const box = one.closest(".box") ?? document.documentElement;
            return [getComputedStyle(one).color, getComputedStyle(box).backgroundColor];
        }"""
    )
    ink, panel = (
        np.float64(re.findall(r"\d+", color)[:3]) / 255 for color in (ink, panel)
    )
    light = [luminance(x) for x in (ink, panel + alpha * (np.array(color) - panel))]
    return (max(light) + 0.05) / (min(light) + 0.05)


def luminance(color):
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]
