"""Replays of hand-made pictures: pixels, GIFs, the page's contents, and refusals."""

import json
import math
import re
import sys
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rljax.envs.drawing import Circle, Line, Picture, Polygon, Text, rectangle
from rljax.report.gif import frame, save_gif
from rljax.report.replay import UNITS, Replay, place, replay, save_html
from rljax.rollouts.rollout import Trajectory

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
GROUND = Line([(-2.0, 0.0), (2.0, 0.0)], "#888888", 0.02)


def picture(t, *more):
    """A ball that rolls over the ground, under a clock."""
    ball = Circle(-1.5 + 0.1 * t, 0.2, 0.2, "#c0392b")
    clock = Text(-1.9, 0.7, f"{t:.2f} s", 0.2)
    return Picture(-2.0, -0.25, 2.0, 1.0, [GROUND, ball, clock, *more])


def rolling(steps, title="rolling", ending="terminated", rewards=None):
    pictures = [picture(t) for t in range(steps + 1)]
    actions = [t % 2 for t in range(steps)]
    return Replay(title, pictures, rewards or [1.0] * steps, actions, ending)


# Pixels.


def test_the_upper_left_of_the_world_is_the_upper_left_of_the_frame():
    world = Picture(10, 20, 14, 22, [rectangle(10, 21, 11, 22, "#ff0000")])
    pixels = frame(world, width=200)
    assert pixels.shape == (100, 200, 3)
    assert pixels.dtype == np.uint8
    red = (pixels == RED).all(-1)
    assert red[1:48, 1:48].all()
    assert not red[52:].any()
    assert not red[:, 52:].any()
    assert (pixels[52:, 52:] == WHITE).all()


def test_shapes_are_painted_in_order():
    below, above = rectangle(0, 0, 1, 1, "#ff0000"), Circle(0.5, 0.5, 0.2, "#0000ff")
    pixels = frame(Picture(0, 0, 1, 1, [below, above]), width=50)
    assert tuple(pixels[25, 25]) == BLUE
    assert tuple(pixels[5, 5]) == RED
    pixels = frame(Picture(0, 0, 1, 1, [above, below]), width=50)
    assert tuple(pixels[25, 25]) == RED


def test_a_line_is_as_thick_as_it_says():
    world = Picture(0, 0, 1, 1, [Line([(0.5, 0), (0.5, 1)], "#ff0000", 0.1)])
    red = (frame(world, width=100)[50] == RED).all(-1)
    assert 8 <= red.sum() <= 10
    assert red[46:54].all()


@pytest.mark.parametrize(
    ("anchor", "low", "high"),
    [("start", 200, 340), ("middle", 130, 270), ("end", 60, 200)],
)
def test_text_stands_on_its_baseline_at_its_anchor(anchor, low, high):
    text = Text(2.0, 1.0, "HHHH", 0.4, "#000000", anchor)
    dark = frame(Picture(0, 0, 4, 2, [text]), width=400).mean(-1) < 128
    rows, columns = np.nonzero(dark)
    assert 65 <= rows.min() < rows.max() <= 101  # y = 1 is row 100; letters rise
    assert low <= columns.min() < columns.max() <= high
    assert columns.max() - columns.min() > 60


def test_a_frame_keeps_its_size_while_the_view_moves():
    shapes = {
        frame(Picture(x, 0, x + 0.7, 0.4, []), width=99).shape for x in (0, 1 / 3)
    }
    assert shapes == {(57, 99, 3)}


# GIFs.


def test_a_gif_shows_every_nth_step_and_the_last_and_repeats(tmp_path):
    path = tmp_path / "two.gif"
    long, short = rolling(21, ending="truncated"), rolling(6)
    save_gif(path, [short, long], width=120, frames_per_second=20, every=2, hold=0.5)
    with Image.open(path) as gif:
        assert gif.n_frames == 12  # steps 0, 2, ..., 20 and 21
        assert gif.info["loop"] == 0
        assert gif.width == 3 * 4 + 2 * 120
        durations = []
        for i in range(gif.n_frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
    assert durations == [50] * 11 + [550]
    assert list(tmp_path.iterdir()) == [path]


def test_a_gif_shows_the_pictures_as_they_are(tmp_path):
    path = tmp_path / "one.gif"
    episode = rolling(9)
    save_gif(str(path), [episode], width=120, every=3)
    with Image.open(path) as gif:
        for i, step in enumerate((0, 3, 6, 9)):
            gif.seek(i)
            pixels = np.asarray(gif.convert("RGB")).astype(int)
            expected = frame(episode.pictures[step], width=120).astype(int)
            assert (pixels[:, :3] == 255).all()
            shown = pixels[24 : 24 + expected.shape[0], 4:124]
            assert np.abs(shown - expected).max() < 40
            assert np.abs(shown - expected).mean() < 0.5


def test_a_gif_is_small(tmp_path):
    path = tmp_path / "long.gif"
    save_gif(path, [rolling(40), rolling(40)], every=1)
    assert path.stat().st_size < 41 * 3_000


# The page.


def page_of(tmp_path, replays, **options):
    path = tmp_path / "page.html"
    save_html(str(path), replays, **{"title": "a title", **options})
    text = path.read_text("utf-8")
    found = re.findall('<script id="data" type="application/json">(.*?)</script>', text)
    assert len(found) == 1
    return text, json.loads(found[0])


def test_the_page_holds_the_pictures(tmp_path):
    rewards = [0.1, -2.0, 0.25, 0.0]
    extra = Polygon([(0, 0), (1, 0), (0.5, 1)], "#abcdef")
    first = Replay("a", [picture(t, extra) for t in range(5)], rewards, None, "")
    _, data = page_of(tmp_path, [first, rolling(3, "b")], frames_per_second=20)
    assert [panel["title"] for panel in data["replays"]] == ["a", "b"]
    assert data["frames_per_second"] == 20
    assert data["rewards"] == [-2.0, 1.0]
    one, two = data["replays"]
    assert (one["rewards"], one["actions"], one["ending"]) == (rewards, None, "")
    assert (two["actions"], two["ending"]) == ([0, 1, 0], "terminated")
    assert one["height"] == round(UNITS * 1.25 / 4)
    for drawn, indices in zip(first.pictures, one["pictures"], strict=True):
        shapes = [data["shapes"][i] for i in indices]
        assert [shape[0] for shape in shapes] == ["line", "circle", "text", "polygon"]
        line, circle, text, polygon = drawn.shapes
        near = {"abs": 1 / UNITS}  # a picture is 1 wide here
        assert shapes[0][1] == line.color
        assert [x / UNITS for x in shapes[0][2:]] == pytest.approx(
            [line.width / 4, 0, 0.25, 1, 0.25], **near
        )
        assert [x / UNITS for x in shapes[1][2:]] == pytest.approx(
            [circle.radius / 4, (circle.x + 2) / 4, (1 - circle.y) / 4], **near
        )
        assert shapes[2][5:] == ["start", text.text]
        assert [x / UNITS for x in shapes[2][2:5]] == pytest.approx(
            [text.size / 4, (text.x + 2) / 4, (1 - text.y) / 4], **near
        )
        assert shapes[3][1:] == [polygon.color, 5000, 2500, 7500, 2500, 6250, 0]


def test_a_shape_is_stored_once(tmp_path):
    _, data = page_of(tmp_path, [rolling(30), rolling(20)])
    assert len({json.dumps(shape) for shape in data["shapes"]}) == len(data["shapes"])
    assert [shape[0] for shape in data["shapes"]].count("line") == 1
    assert len(data["shapes"]) == 1 + 2 * 31  # the ground; a ball and a clock a step


def test_hostile_words_show_as_they_are(tmp_path):
    evil = "</script><b>\"'&@data@<!--"
    pictures = [picture(t, Text(0, 0, evil, 0.1)) for t in range(2)]
    text, data = page_of(tmp_path, [Replay(evil, pictures, [1.0])], title=evil)
    assert data["replays"][0]["title"] == evil
    assert data["shapes"][3][-1] == evil
    assert "</script><b>" not in text
    assert text.count("</script>") == 2
    shown = "&lt;/script&gt;&lt;b&gt;&quot;&#x27;&amp;@data@&lt;!--"
    assert f"<title>{shown}</title>" in text
    assert f"<h1>{shown}</h1>" in text


def test_the_page_is_alone_in_the_world(tmp_path):
    text, _ = page_of(tmp_path, [rolling(2)])
    assert set(re.findall(r"https?:[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert set(re.findall(r"(?:src|href)\s*=\s*\S+", text)) == {'href="data:,">'}
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


@pytest.mark.parametrize(
    ("rewards", "digits"),
    [([1.0, -3.0], 0), ([0.5, 0.25], 4), ([0.5, 99.0], 2), ([0.0, 0.0], 0)],
)
def test_sums_of_rewards_are_as_long_as_they_need_be(tmp_path, rewards, digits):
    _, data = page_of(tmp_path, [rolling(2, rewards=rewards)])
    assert data["decimals"] == digits


def test_the_page_needs_no_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    page_of(tmp_path, [rolling(2)])
    with pytest.raises(ImportError, match=r"pip install 'rljax\[viz\]'"):
        frame(picture(0))
    with pytest.raises(ImportError, match=r"pip install 'rljax\[viz\]'"):
        save_gif(tmp_path / "a.gif", [rolling(2)])


# From an environment.


class Rolling:
    """Draws its state, and the action that led to it."""

    def draw(self, state, action, params):
        assert isinstance(state["x"], np.generic)
        return picture(params * state["x"], Text(0, 0, str(action), 0.1))


class Blind(NamedTuple):
    """An environment that does not draw."""


def trajectory(steps=3, **changes):
    ended = np.arange(steps) == steps - 1
    return Trajectory(
        state={"x": np.arange(steps + 1)},
        observation=np.zeros(steps + 1),
        action=np.arange(steps) + 5,
        reward=np.full(steps, 0.5, np.float32),
        terminated=ended,
        truncated=np.zeros(steps, bool),
        valid=np.ones(steps, bool),
    )._replace(**changes)


def test_a_picture_shows_a_state_and_the_action_that_led_to_it():
    one = replay(Rolling(), 2.0, trajectory(), "three steps")
    assert [p.shapes[2].text for p in one.pictures] == [
        "0.00 s", "2.00 s", "4.00 s", "6.00 s",
    ]  # fmt: skip
    assert [p.shapes[3].text for p in one.pictures] == ["None", "5", "6", "7"]
    assert one.title == "three steps"
    assert list(one.rewards) == [0.5] * 3
    assert one.actions == [5, 6, 7]
    assert one.ending == "terminated"


@pytest.mark.parametrize(
    "action",
    [np.zeros(3), np.zeros((3, 2), int), {"a": np.zeros(3, int)}, np.array([0, -1, 0])],
)
def test_actions_that_are_no_whole_numbers_are_left_out(action):
    assert replay(Rolling(), 1, trajectory(action=action), "").actions is None


def test_an_episode_may_be_truncated_or_cut_off():
    cut = trajectory(terminated=np.zeros(3, bool))
    assert replay(Rolling(), 1, cut, "").ending == ""
    truncated = cut._replace(truncated=trajectory().terminated)
    assert replay(Rolling(), 1, truncated, "").ending == "truncated"


# Refusals.


def test_an_environment_that_cannot_draw_is_refused():
    with pytest.raises(ValueError, match="got Blind, which has none"):
        replay(Blind(), None, trajectory(), "")


def test_more_than_one_episode_is_refused():
    many = trajectory(reward=np.zeros((3, 4)), valid=np.ones((3, 4), bool))
    uncut = trajectory(valid=np.array([True, False, False]))
    for wrong in (many, uncut):
        with pytest.raises(ValueError, match=r"episode\(trajectories, index\)"):
            replay(Rolling(), 1, wrong, "")


def test_no_replay_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one replay"):
        save_html(tmp_path / "a.html", [], title="")
    with pytest.raises(ValueError, match="at least one replay"):
        save_gif(tmp_path / "a.gif", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [0, -1, 50.1, math.nan, math.inf])
def test_a_rate_that_a_gif_cannot_have_is_refused(tmp_path, rate):
    with pytest.raises(ValueError, match=r"from 0.01 to 50, got .*every"):
        save_gif(tmp_path / "a.gif", [rolling(2)], frames_per_second=rate)


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_a_page_without_speed_is_refused(tmp_path, rate):
    with pytest.raises(ValueError, match="must be positive and finite"):
        save_html(tmp_path / "a", [rolling(2)], title="", frames_per_second=rate)


@pytest.mark.parametrize("option", [{"every": 0}, {"hold": -1}, {"width": 0}])
def test_other_numbers_out_of_range_are_refused(tmp_path, option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"{name}.* got .*{value}"):
        save_gif(tmp_path / "a.gif", [rolling(2)], **option)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Circle(0, math.nan, 1), r"shape 3 \(Circle\): coordinates must be finite"),
        (Circle(0, 0, -1), "not negative"),
        (Line([(0, 0)]), r"2 points \(x, y\) or more, got \[\(0, 0\)\]"),
        (Line([0, 0, 1, 1]), r"a point is a pair \(x, y\), got 0"),
        (Line([(0, 0, 0), (1, 1, 1)]), r"a point is a pair \(x, y\)"),
        (Line(3), r"2 points \(x, y\) or more, got 3"),
        (Circle("1", 0, 1), "coordinates must be finite numbers"),
        (Circle(np.zeros(2), 0, 1), "coordinates must be finite numbers"),
        (Circle(0, 0, None), "not negative, got None"),
        (Circle(0, 0, 1, None), "'#rrggbb'.*got None"),
        (Text(0, 0, 1.0, 0.1), "a text is a string, got 1.0"),
        (Line([(0, 0), (math.inf, 0)]), "finite"),
        (Line([(0, 0), (1, 1)], width=math.nan), "not negative"),
        (Polygon([(0, 0), (1, 0)]), "3 points"),
        (Circle(0, 0, 1, "red"), "'#rrggbb'.*got 'red'"),
        (Circle(0, 0, 1, "#1234567"), "#rrggbb"),
        (Text(0, 0, "a", 0.1, anchor="center"), "got 'center'"),
        (Text(0, 0, "a\nb", 0.1), "one line"),
        (Text(0, 0, "a", 10.0), "larger than the view"),
        ("a ball", r"shape 3 \(str\): a shape must be"),
    ],
)
def test_a_shape_that_cannot_be_painted_is_named(shape, words):
    pictures = [picture(0), picture(1), picture(2, shape)]
    with pytest.raises(ValueError, match=f"replay 'bad', picture 2, .*{words}"):
        Replay("bad", pictures, [0.0, 0.0])
    with pytest.raises(ValueError, match=words):
        frame(pictures[2])


def test_coordinates_may_be_of_numpy_or_jax():
    one = jnp.float32(1)
    shapes = [
        Circle(one, 0, np.float32(0.1)),
        Line(np.array([[0, 0], [1, 1]])),
        Polygon([(0, 0), (one, 0), (0, one)]),
    ]
    seen = Replay("good", [Picture(0, 0, 2, 2, shapes)] * 2, [0.0])
    plain = Picture(
        0, 0, 2, 2,
        [Circle(1, 0, 0.1), Line([(0, 0), (1, 1)]), Polygon([(0, 0), (1, 0), (0, 1)])],
    )  # fmt: skip
    assert [hash(shape) for shape in place(seen.pictures[0])] == [
        hash(shape) for shape in place(plain)
    ]


def test_shapes_that_are_no_list_are_refused():
    with pytest.raises(ValueError, match="shapes must be a list, got NoneType"):
        Replay("bad", [Picture(0, 0, 1, 1, None)] * 2, [0.0])


@pytest.mark.parametrize(
    "view", [(1, 0, 1, 1), (0, 1, 1, 0), (0, 0, math.inf, 1), (0, 0, 1, math.nan)]
)
def test_a_view_of_nothing_is_refused(view):
    with pytest.raises(ValueError, match="replay 'bad', picture 1: a view must"):
        Replay("bad", [picture(0), Picture(*view, [])], [0.0])


def test_a_view_must_keep_its_proportions():
    with pytest.raises(ValueError, match="picture 1: the view must keep"):
        Replay("bad", [picture(0), Picture(0, 0, 1, 1, [])], [0.0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pictures": [picture(0)]}, "got 1 pictures and 2 rewards"),
        ({"pictures": [picture(0)], "rewards": []}, "at least one step"),
        ({"pictures": [picture(0), None, None]}, "must return a Picture, got NoneType"),
        ({"rewards": [0.0, math.nan]}, "finite rewards, got nan at step 2"),
        ({"actions": [0]}, "as many actions"),
        ({"actions": [0, -1]}, "from 0"),
        ({"ending": "won"}, "got 'won'"),
    ],
)
def test_a_replay_that_does_not_fit_together_is_refused(change, words):
    good = {"pictures": [picture(t) for t in range(3)], "rewards": [0.0, 1.0]}
    Replay("good", **good)
    with pytest.raises(ValueError, match=f"replay 'bad'.*{words}"):
        Replay("bad", **{**good, **change})
