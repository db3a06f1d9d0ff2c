"""The page of replays in a real browser; `make test-browser` brings what it needs."""

import contextlib
import itertools
import math
import shutil
import time

import pytest

from rljax.envs.drawing import Circle, Line, Picture, Text, rectangle
from rljax.report.replay import Replay, save_html

pytestmark = pytest.mark.browser

SHORT, LONG, RATE = 12, 60, 40.0
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright is not installed. Install it: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is not installed. On Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=QUIET.split()
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "replay.html"
    replays = [
        rolling(SHORT, "untrained </script><b>", "terminated"),
        rolling(LONG, "after 100,000 steps", "truncated"),
    ]
    save_html(path, replays, title="A ball <&> a ramp", frames_per_second=RATE)
    return path


@contextlib.contextmanager
def opened(browser, file, width=1200, height=900, **options):
    """The page, freshly opened; at the end nothing may have gone wrong in it."""
    viewport = {"width": width, "height": height}
    page = browser.new_page(viewport=viewport, **options)
    complaints, requests = [], []
    page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]


@pytest.fixture
def page(browser, file):
    with opened(browser, file, 1000, 700) as page:
        yield page


def test_the_first_pictures_stand_still_at_the_start(page, tmp_path):
    assert page.title() == "A ball <&> a ramp"
    assert page.locator("h1").inner_text() == "A ball <&> a ramp"
    titles = page.locator("h2").all_inner_texts()
    assert titles == ["untrained </script><b>", "after 100,000 steps"]
    assert page.locator("b:not(#legend b)").count() == 0
    for panel in range(2):
        shapes = page.locator(".picture").nth(panel).locator("> *")
        names = shapes.evaluate_all("all => all.map(one => one.tagName)")
        assert names == ["polyline", "polygon", "circle", "text"]
        for i in range(4):
            box = shapes.nth(i).bounding_box()
            assert box["width"] > 2, names[i]
            assert box["height"] > 1, names[i]
        assert shapes.nth(3).text_content() == "<&> 0"
    page.wait_for_timeout(200)
    assert step(page) == 0
    assert statuses(page) == [["step 0", "reward so far 0.00"]] * 2
    page.screenshot(path=tmp_path / "replay.png", full_page=True)
    assert (tmp_path / "replay.png").stat().st_size > 10_000


def test_the_world_is_upright(page):
    """The ball lies on the ground and rolls to the right."""
    ground, ball = box(page, "polyline"), box(page, "circle")
    assert 0 < ground["y"] - (ball["y"] + ball["height"]) < 8  # half the line's width
    go(page, LONG)
    assert box(page, "circle")["x"] > ball["x"] + 50


def test_playing_moves_to_the_end_and_stops(page):
    ball = box(page, "circle")
    page.get_by_label("speed").select_option("0.25x")
    page.get_by_label("play", exact=True).click()
    until(page, lambda now: now > 5)
    assert box(page, "circle")["x"] > ball["x"]
    assert page.get_by_label("pause", exact=True).is_visible()
    page.get_by_label("speed").select_option("4x")
    until(page, lambda now: now == LONG)
    page.get_by_label("play", exact=True).wait_for()
    assert step(page) == LONG
    page.get_by_label("speed").select_option("0.25x")
    page.get_by_label("play", exact=True).click()  # from the start again
    until(page, lambda now: 0 < now < LONG)


def test_the_speed_is_that_of_the_clock(page):
    page.evaluate(
        """() => {
            window.began = performance.now();
            new MutationObserver(() => { window.ended = performance.now(); })
                .observe(document.getElementById("clock"), { childList: true });
        }"""
    )
    page.get_by_label("play", exact=True).click()
    until(page, lambda now: now == LONG)
    seconds = page.evaluate("(window.ended - window.began) / 1000")
    assert LONG / RATE - 0.05 <= seconds <= 3 * LONG / RATE


def test_pause_holds(page):
    page.get_by_label("speed").select_option("0.25x")
    page.get_by_label("play", exact=True).click()
    until(page, lambda now: now > 2)
    page.get_by_label("pause", exact=True).click()
    held = step(page), box(page, "circle")
    assert 2 < held[0] < LONG
    page.wait_for_timeout(300)
    assert (step(page), box(page, "circle")) == held


def test_the_slider_shows_its_step(page):
    go(page, 7)
    assert statuses(page) == [["step 7", "reward so far 3.50"]] * 2
    assert page.locator(".picture text").all_text_contents() == ["<&> 7"] * 2
    assert page.locator("#clock").inner_text() == f"7 / {LONG}"
    slider = page.locator("#slider").bounding_box()
    middle = slider["y"] + slider["height"] / 2
    page.mouse.move(slider["x"] + 5, middle)
    page.mouse.down()
    page.mouse.move(slider["x"] + slider["width"] / 2, middle, steps=4)
    page.mouse.up()
    assert abs(step(page) - LONG // 2) <= 2
    shown = f"<&> {step(page)}"
    assert page.locator(".picture text").nth(1).text_content() == shown


def test_a_panel_says_how_its_episode_ended_and_stays(page):
    go(page, SHORT - 1)
    assert statuses(page)[0][0] == f"step {SHORT - 1}"
    go(page, SHORT)
    last = box(page, "circle")
    assert statuses(page)[0][0] == f"terminated at step {SHORT}"
    assert statuses(page)[1][0] == f"step {SHORT}"
    go(page, LONG)
    assert box(page, "circle") == last
    assert statuses(page) == [
        [f"terminated at step {SHORT}", "reward so far 6.00"],
        [f"truncated at step {LONG}", "reward so far 10.50"],
    ]


def test_buttons_and_keys_take_single_steps(page):
    page.get_by_label("one step forward").click()
    page.get_by_label("one step forward").click()
    assert step(page) == 2
    page.get_by_label("one step back").click()
    assert step(page) == 1
    page.keyboard.press("ArrowRight")
    assert step(page) == 2
    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")  # the slider's own key too: still one step
    assert step(page) == 3
    assert statuses(page)[0][0] == "step 3"
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    assert step(page) == 0


def test_space_plays_and_pauses(page):
    page.get_by_label("speed").select_option("0.25x")
    page.locator("#slider").focus()
    page.keyboard.press("Space")
    until(page, lambda now: now > 2)
    page.keyboard.press("Space")
    held = step(page)
    page.wait_for_timeout(200)
    assert step(page) == held
    page.get_by_label("play", exact=True).focus()
    page.keyboard.press("Space")  # a button's own key
    until(page, lambda now: now > held)
    page.get_by_label("one step back").focus()
    page.keyboard.press("Space")
    held = step(page)
    page.keyboard.press("Space")
    assert step(page) == held - 1


def test_the_strips_show_rewards_and_actions_over_one_time(page):
    strips = page.locator(".strip")
    labels = strips.evaluate_all("all => all.map(one => one.ariaLabel)")
    assert labels == ["reward over time", "action over time"] * 2
    widths = strips.evaluate_all(
        """all => all.map(one => [...one.children].reduce(
            (sum, rect) => sum + rect.getBoundingClientRect().width, 0)
            / one.getBoundingClientRect().width)"""
    )
    assert widths == pytest.approx([SHORT / LONG] * 2 + [1, 1], abs=0.02)
    colors = strips.evaluate_all(
        "all => all.map(one => new Set([...one.children].map(x => x.getAttribute('fill'))).size)"
    )
    assert colors == [1, 2, 2, 2]  # the long one's reward falls in the middle
    go(page, LONG // 2)
    for panel, shown in enumerate((SHORT, LONG // 2)):
        strip = strips.nth(2 * panel).bounding_box()
        cursor = page.locator(".cursor").nth(panel).bounding_box()
        expected = strip["x"] + strip["width"] * shown / LONG
        assert cursor["x"] + cursor["width"] / 2 == pytest.approx(expected, abs=1.5)
    strips.nth(2).click(position={"x": strip["width"] / 4, "y": 4})
    assert step(page) == LONG // 4


@pytest.mark.parametrize("width", [320, 375, 800])
def test_nothing_overflows_on_a_narrow_screen(page, tmp_path, width):
    page.set_viewport_size({"width": width, "height": 700})
    go(page, LONG)
    inside = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter(one => {
            const box = one.getBoundingClientRect();
            return !one.closest(".picture") && (box.right > innerWidth || box.left < 0);
        }).map(one => one.outerHTML)"""
    )
    assert inside == []
    ticks = [
        tick.bounding_box()
        for tick in page.locator(".axis").nth(1).locator("span").all()
    ]
    assert len(ticks) == 4
    assert max(tick["height"] for tick in ticks) < 30  # on one line
    for left, right in itertools.pairwise(ticks):
        assert left["x"] + left["width"] < right["x"]
    scroll = "document.documentElement.scrollWidth"
    assert page.evaluate(scroll) <= width
    tops = [page.locator(".panel").nth(i).bounding_box()["y"] for i in range(2)]
    assert (tops[0] == tops[1]) == (width == 800)
    page.screenshot(path=tmp_path / "narrow.png", full_page=True)


def test_every_control_has_a_name(page):
    names = page.locator("button, select, input").evaluate_all(
        "all => all.map(one => one.ariaLabel)"
    )
    assert names == ["play", "one step back", "one step forward", "speed", "step"]


def rolling(steps, title, ending):
    """A ball on the ground; in the long episode the second half is worth less."""
    pictures = [
        Picture(
            0.0,
            -0.5,
            10.0,
            2.0,
            [
                Line([(0, -0.1), (10, -0.1)], "#888888", 0.2),
                rectangle(8.5, 0.0, 9.0, 1.5, "#1e7a34"),
                Circle(
                    0.6 + 0.12 * t, 0.5 + 0.2 * abs(math.sin(t / 9)), 0.5, "#c0392b"
                ),
                Text(0.2, 1.6, f"<&> {t}", 0.3),
            ],
        )
        for t in range(steps + 1)
    ]
    rewards = [0.5 if t < 30 else -0.15 for t in range(steps)]
    return Replay(title, pictures, rewards, [t // 5 % 2 for t in range(steps)], ending)


def step(page):
    return int(page.locator("#slider").input_value())


def until(page, reached, seconds=20):
    """Waits for a step; Playwright's own way is barred by the page's CSP."""
    deadline = time.monotonic() + seconds
    while not reached(step(page)):
        assert time.monotonic() < deadline, f"still at step {step(page)}"
        page.wait_for_timeout(10)


def go(page, step):
    page.locator("#slider").fill(str(step))


def statuses(page):
    return [
        status.locator("span").all_inner_texts()
        for status in page.locator(".status").all()
    ]


def box(page, shape):
    """Where a shape of the first panel is; in one go, as it may be moving."""
    return page.evaluate(
        "name => document.querySelector(`.picture ${name}`).getBoundingClientRect()"
        ".toJSON()",
        shape,
    )
